"""Which exit a deadline allows: calibrated times, and how much slower than them the machine is just now."""

import dataclasses
import math

import numpy as np

SHARE = 0.95  # of a deadline, in which the first answer must fit when things go badly
FORGETS = 0.9  # how much of a slow moment's memory is left one call later
SHORTEST_MARGIN, LONGEST_SHARE = 0.0001, 0.1


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
    """Follows how a machine keeps up with what was calibrated.

    Attributes:
        slowdown: float, at least 1: how many times longer than calibrated a run may take now.
        lag: float, seconds by which a waiting thread may wake late now.
    """

    def __init__(self):
        self.slowdown, self.lag = 1.0, SHORTEST_MARGIN

    def first(self, seconds, safe):
        """Returns the deepest exit that surely answers in time, or 0.

        Args:
            seconds: float, until the deadline.
            safe: array, a high quantile of the seconds straight to each exit.

        >>> Pace().first(0.010, np.array([0.001, 0.004, 0.0099]))
        1
        """
        fitting = np.nonzero(np.asarray(safe) * self.slowdown <= SHARE * seconds)[0]
        return int(fitting.max(initial=0))

    def margin(self, seconds):
        """Returns the seconds before a deadline at which to stop waiting."""
        return min(self.lag, LONGEST_SHARE * max(seconds, 0.0))

    def saw(self, ratio):
        """Takes how many times longer than its median a run took: slow at once, fast again little by little."""
        if math.isfinite(ratio):
            self.slowdown = max(1.0, ratio, 1 + FORGETS * (self.slowdown - 1))

    def overslept(self, seconds):
        """Takes by how much a thread woke late."""
        if math.isfinite(seconds):
            self.lag = max(SHORTEST_MARGIN, 1.5 * seconds, FORGETS * self.lag)
