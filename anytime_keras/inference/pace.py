"""Which exit a deadline allows: calibrated times, and how much slower than them the machine has lately been."""

import collections
import dataclasses
import math
import statistics

import numpy as np

SHARE = 0.8  # of a deadline, in which the first answer must fit when things go badly
REMEMBERS = 200  # calls, of which the worst counts
LATELY = 20  # calls, by whose median the machine is as fast as it is
CAUTION = 1.5  # times the worst by which a thread woke late
FIRST_LAG = 0.001  # seconds, until others have been seen
SHORTEST_MARGIN, LONGEST_SHARE = 0.0001, 0.2


@dataclasses.dataclass(frozen=True)
class Times:
    """By what deadlines are kept for one size of input.

    Attributes:
        example: an input of that size.
        safe: array of shape `(exits,)`, seconds straight to each exit in a bad moment.
        usual: array of shape `(exits,)`, the same, usually.
        stages: array of shape `(exits,)`, seconds of each stage.
    """

    example: object
    safe: np.ndarray
    usual: np.ndarray
    stages: np.ndarray

    @classmethod
    def of(cls, table, size, example):
        """Takes them from a `LatencyTable`."""
        # A stage that is begun in vain keeps the processor from the thread that waits for the deadline.
        stages = table.quantile(size, 0.9, stages=True)
        return cls(example, table.quantile(size, 0.99), table.quantile(size, 0.5), stages)


class Pace:
    """Follows how a machine keeps up with what was calibrated for one size of input."""

    def __init__(self):
        self._slowdowns = collections.deque([1.0], maxlen=LATELY)
        self._pauses = collections.deque([0.0], maxlen=REMEMBERS)
        self._lags = collections.deque([FIRST_LAG], maxlen=REMEMBERS)

    @property
    def slowdown(self):
        """Float, at least 1: how many times longer than calibrated runs take now."""
        return max(1.0, statistics.median(self._slowdowns.copy()))

    def first(self, seconds, times):
        """Returns the deepest exit that surely answers in time, or 0.

        Args:
            seconds: float, until the deadline.
            times: `Times`.

        >>> Pace().first(0.010, Times(None, np.array([0.001, 0.004, 0.0099]), np.array([0.001, 0.003, 0.007]), None))
        1
        """
        slowdown = self.slowdown
        needed = np.maximum(times.safe * slowdown, times.usual * slowdown + max(self._pauses.copy()))
        return int(np.nonzero(needed <= SHARE * seconds)[0].max(initial=0))

    def margin(self, seconds):
        """Returns the seconds before a deadline at which to stop waiting, since a waiting thread wakes late."""
        return min(max(SHORTEST_MARGIN, CAUTION * max(self._lags.copy())), LONGEST_SHARE * max(seconds, 0.0))

    def saw(self, seconds, usual):
        """Takes how long a run took, and how long it usually does.

        What it took beyond the present slowdown counts as a pause: those last as long in a short run as in a long one.
        """
        if math.isfinite(seconds):
            self._pauses.append(seconds - usual * self.slowdown)
            self._slowdowns.append(seconds / usual)

    def overslept(self, seconds):
        """Takes by how much a thread that slept woke late."""
        if math.isfinite(seconds):
            self._lags.append(seconds)
