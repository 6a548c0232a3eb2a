"""Which exit a deadline allows: calibrated times, and how much slower than them the machine has lately been."""

import collections
import dataclasses
import math

import numpy as np

SHARE = 0.8  # of a deadline, in which the first answer must fit when things go badly
REMEMBERS = 200  # calls, of which the worst counts: so that one in some hundreds goes worse
CAUTION = 1.5  # times the worst by which a thread woke late
SHORTEST_MARGIN, LONGEST_SHARE = 0.0001, 0.25


@dataclasses.dataclass(frozen=True)
class Times:
    """By what deadlines are kept for one size of batch.

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
    """Follows how a machine keeps up with what was calibrated, by the worst of its last calls."""

    def __init__(self):
        self._slowdowns = collections.deque([1.0], maxlen=REMEMBERS)
        self._lags = collections.deque([SHORTEST_MARGIN], maxlen=REMEMBERS)

    @property
    def slowdown(self):
        """Float, how many times longer than usual a run may take now."""
        return max(self._slowdowns.copy())

    def first(self, seconds, times):
        """Returns the deepest exit that surely answers in time, or 0.

        Args:
            seconds: float, until the deadline.
            times: `Times`.

        >>> Pace().first(0.010, Times(None, np.array([0.001, 0.004, 0.0099]), np.array([0.001, 0.003, 0.007]), None))
        1
        """
        needed = np.maximum(times.safe, times.usual * self.slowdown)
        return int(np.nonzero(needed <= SHARE * seconds)[0].max(initial=0))

    def margin(self, seconds):
        """Returns the seconds before a deadline at which to stop waiting, since a waiting thread wakes late."""
        return min(max(SHORTEST_MARGIN, CAUTION * max(self._lags.copy())), LONGEST_SHARE * max(seconds, 0.0))

    def saw(self, ratio):
        """Takes how many times longer than usual a run took."""
        if math.isfinite(ratio):
            self._slowdowns.append(ratio)

    def overslept(self, seconds):
        """Takes by how much a thread woke late."""
        if math.isfinite(seconds):
            self._lags.append(seconds)
