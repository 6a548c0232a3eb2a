"""Exit selection for deadlines, from measured latencies and the machine's recent slowdown."""

import collections
import dataclasses
import math
import statistics

import numpy as np

SHARE = 0.8  # fraction of the deadline that the first answer may take in a bad case
REMEMBERS = 200  # calls over which the worst pause and the worst lag are taken
LATELY = 20  # calls over which the median slowdown is taken
CAUTION = 1.5  # factor on the worst wake-up lag
FIRST_LAG = 0.001  # seconds, initial wake-up lag
SHORTEST_MARGIN, LONGEST_SHARE = 0.0001, 0.2
# Of engines that run stage by stage: how far a call moves a stage's median, and the margin on it, a factor and seconds.
# Longer times are interruptions by other processes. They last milliseconds, which no such margin covers, so a wider
# margin would only make answers worse.
STEP_RATE = 0.03
RETRY_RATE = 0.001  # the same of a stage that was not run, see `StepPace`
MARGIN_FACTOR, MARGIN_SECONDS = 1.15, 15e-6


@dataclasses.dataclass(frozen=True)
class Times:
    """Latencies for one input size, used to meet deadlines.

    Attributes:
        example: an input of that size.
        safe: array of shape `(exits,)`, 99% quantile of the seconds straight to each exit.
        usual: array of shape `(exits,)`, median of the seconds straight to each exit.
        stages: array of shape `(exits,)`, the expected seconds of each stage.
    """

    example: object
    safe: np.ndarray
    usual: np.ndarray
    stages: np.ndarray

    @classmethod
    def of(cls, table, size, example, steps=False):
        """Reads the latencies from a `LatencyTable`; `steps` is that of the engine."""
        # Without steps, another thread waits for the deadline, and a late stage only takes the processor from it.
        stages = table.quantile(size, 0.5 if steps else 0.9, stages=True)
        return cls(example, table.quantile(size, 0.99), table.quantile(size, 0.5), stages)

    @classmethod
    def total(cls, parts):
        """Adds up the latencies of batches that run one after the other."""
        sums = [np.sum([getattr(times, name) for times in parts], axis=0) for name in ("safe", "usual", "stages")]
        return cls(None, *sums)


class StepPace:
    """Tracks each stage's median seconds in the calls themselves, for an engine that runs stage by stage.

    A call moves the median by 3% towards its own time, so single pauses hardly change it, and a machine that becomes
    half as fast is known after 24 calls. The medians of stages that were not run fall by 0.1%, at most to the pace of
    the stages that were run, so that a stage is tried again after it was slow for a while.

    Args:
        times: `Times`; the medians begin with its `stages`.

    Attributes:
        slowdown: float, the medians relative to `times`.

    Example:
    >>> pace = StepPace(Times(None, None, None, np.array([0.001, 0.002])))
    >>> [round(seconds, 6) for seconds in pace.needed()]
    [0.001165, 0.002315]
    >>> for _ in range(40):
    ...     pace.saw([0.002, 0.006])
    >>> round(pace.slowdown, 1)
    2.0
    """

    def __init__(self, times):
        self._usual = times.stages.tolist()
        self._medians = list(self._usual)

    @property
    def slowdown(self):
        return sum(self._medians) / sum(self._usual)

    def needed(self):
        """Returns the expected seconds of each stage with a margin, a list."""
        return [MARGIN_FACTOR * median + MARGIN_SECONDS for median in self._medians]

    def saw(self, ends):
        """Records the seconds from the start of a call to the answers of its stages, a list."""
        begin = 0.0
        for position, end in enumerate(ends):
            self._medians[position] *= 1 + STEP_RATE if end - begin > self._medians[position] else 1 - STEP_RATE
            begin = end
        ran = len(ends)
        now, usual = sum(self._medians[:ran]), sum(self._usual[:ran])
        for position in range(ran, len(self._usual)):
            if self._medians[position] * usual > now * self._usual[position]:
                self._medians[position] *= 1 - RETRY_RATE


class Pace:
    """Tracks how much slower than measured the machine currently is, for one input size."""

    def __init__(self):
        self._slowdowns = collections.deque([1.0], maxlen=LATELY)
        self._pauses = collections.deque([0.0], maxlen=REMEMBERS)
        self._lags = collections.deque([FIRST_LAG], maxlen=REMEMBERS)

    @property
    def slowdown(self):
        """Float, at least 1: the current run time relative to the measured one."""
        return max(1.0, statistics.median(self._slowdowns.copy()))

    def first(self, seconds, times):
        """Returns the position of the deepest exit that is certain to meet the deadline, or 0 if there is none.

        Args:
            seconds: float, time until the deadline.
            times: `Times`.

        >>> Pace().first(0.010, Times(None, np.array([0.001, 0.004, 0.0099]), np.array([0.001, 0.003, 0.007]), None))
        1
        """
        slowdown = self.slowdown
        needed = np.maximum(times.safe * slowdown, times.usual * slowdown + max(self._pauses.copy()))
        return int(np.nonzero(needed <= SHARE * seconds)[0].max(initial=0))

    def margin(self, seconds):
        """Returns how many seconds before the deadline to stop waiting, because threads wake up late."""
        return min(max(SHORTEST_MARGIN, CAUTION * max(self._lags.copy())), LONGEST_SHARE * max(seconds, 0.0))

    def saw(self, seconds, usual):
        """Records the time of a run, given its usual time.

        The time beyond the current slowdown is recorded as a pause, whose length does not depend on that of the run.
        """
        if math.isfinite(seconds):
            self._pauses.append(seconds - usual * self.slowdown)
            self._slowdowns.append(seconds / usual)

    def overslept(self, seconds):
        """Records how late a sleeping thread woke up."""
        if math.isfinite(seconds):
            self._lags.append(seconds)
