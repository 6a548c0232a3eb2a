"""`StageTimes`: the expected seconds of each stage by batch size, corrected by the machine's current pace."""

import math

import numpy as np

MEMORY = 0.05  # weight of a stage in `usual` and `spread`
PAUSE = 3.0  # for `usual`, a stage counts as at most this many times slower than usual
RUNS = 20  # runs of one request to the last exit over which the pace is averaged


class StageTimes:
    """Seconds of each stage at each measured batch size, and how much slower the machine runs at present.

    Args:
        sizes: list of int, the measured batch sizes, ascending from 1.
        seconds: array of shape `(sizes, stages)`, the seconds of each stage, including its exit's head.
        padded: bool, whether a batch is padded to the next measured size; otherwise times are interpolated.

    Attributes:
        table: array of shape `(max_batch + 1, stages + 1)`. Row b contains the seconds from the input to each exit for
            a batch of b, after a leading zero. Row 0 is not used.
        pace: float, all seconds taken lately divided by those expected. It includes pauses, so it predicts throughput.
        usual: float, the usual ratio of a stage, which single pauses hardly change.
        spread: float, the mean absolute deviation from `usual`.

    Example:
    >>> times = StageTimes([1, 2, 4], [[0.001, 0.002], [0.001, 0.003], [0.002, 0.004]])
    >>> times.table[3].round(4).tolist()
    [0.0, 0.0015, 0.005]
    >>> times.saw(rows=1, position=1, seconds=0.004)
    >>> round(times.pace, 3), round(times.usual, 3), round(times.safety, 3)
    (1.033, 1.05, 1.245)
    """

    def __init__(self, sizes, seconds, padded=False):
        self.sizes, seconds = list(sizes), np.asarray(seconds, float)
        if self.sizes[:1] != [1] or seconds.shape[:1] != (len(self.sizes),) or not (seconds > 0).all():
            raise ValueError(
                f"`sizes` must begin with 1, with a row of positive seconds for each. Received: sizes={sizes}, seconds "
                f"of shape {seconds.shape}."
            )
        rows = np.arange(self.sizes[-1] + 1)
        if padded:
            by_rows = seconds[np.searchsorted(self.sizes, np.maximum(rows, 1))]
        else:
            by_rows = np.stack([np.interp(rows, self.sizes, column) for column in seconds.T], axis=1)
        self._seconds, self._padded, self._stages = seconds, padded, by_rows
        self.table = np.concatenate([np.zeros((len(rows), 1)), by_rows.cumsum(axis=1)], axis=1)
        self.usual, self.spread = 1.0, 0.05
        self._span = self._taken = self._expected = RUNS * float(self.table[1, -1])

    def plus(self, overheads):
        """Returns new times with some seconds more for each stage.

        Args:
            overheads: list of float, seconds for each measured batch size.
        """
        return StageTimes(self.sizes, self._seconds + np.asarray(overheads)[:, None], self._padded)

    @property
    def max_batch(self):
        """The largest measured batch size."""
        return self.sizes[-1]

    @property
    def num_exits(self):
        """The number of exits."""
        return self.table.shape[1] - 1

    @property
    def pace(self):
        return self._taken / self._expected

    @property
    def safety(self):
        """The factor on the table's seconds that is used for deadlines: the usual ratio plus two deviations."""
        return self.usual + 2 * self.spread

    def saw(self, rows, position, seconds):
        """Records that a stage took `seconds` for a batch of `rows`."""
        expected = float(self._stages[rows, position])
        ratio = min(seconds / expected, PAUSE * self.usual)
        self.spread += MEMORY * (abs(ratio - self.usual) - self.spread)
        self.usual += MEMORY * (ratio - self.usual)
        kept = math.exp(-expected / self._span)
        self._taken, self._expected = kept * self._taken + seconds, kept * self._expected + expected
