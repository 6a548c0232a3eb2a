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
        straight: list of float, seconds of a run straight to the last exit at each size, without the heads before it;
            None if such runs are not possible.

    Attributes:
        table: array of shape `(max_batch + 1, stages + 1)`. Row b contains the seconds from the input to each exit for
            a batch of b, after a leading zero. Row 0 is not used.
        rows: list of lists, the same.
        straight: list of float, the seconds of a run straight to the last exit by batch size; or None.
        max_batch, num_exits: ints, the largest measured batch size and the number of exits.
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

    def __init__(self, sizes, seconds, padded=False, straight=None):
        self.sizes, seconds = list(sizes), np.asarray(seconds, float)
        if self.sizes[:1] != [1] or seconds.shape[:1] != (len(self.sizes),) or not (seconds > 0).all():
            raise ValueError(
                f"`sizes` must begin with 1, with a row of positive seconds for each. Received: sizes={sizes}, seconds "
                f"of shape {seconds.shape}."
            )
        if straight is not None and (np.shape(straight) != (len(self.sizes),) or not (np.array(straight) > 0).all()):
            raise ValueError(f"`straight` must have positive seconds for each of {self.sizes}. Received: {straight}.")
        self._seconds, self._padded = seconds, padded
        self.max_batch, self.num_exits = self.sizes[-1], seconds.shape[1]
        self._stages = self._by_rows(seconds)
        self.table = np.concatenate([np.zeros((len(self._stages), 1)), self._stages.cumsum(axis=1)], axis=1)
        self.rows = self.table.tolist()
        self.straight = None if straight is None else self._by_rows(np.transpose([straight]))[:, 0].tolist()
        self.usual, self.spread = 1.0, 0.05
        self._span = self._taken = self._expected = RUNS * float(self.table[1, -1])

    def _by_rows(self, values):
        """Returns values, of shape `(sizes, columns)`, for each number of rows."""
        rows = np.arange(self.sizes[-1] + 1)
        if self._padded:
            return values[np.searchsorted(self.sizes, np.maximum(rows, 1))]
        return np.stack([np.interp(rows, self.sizes, column) for column in values.T], axis=1)

    def plus(self, per_batch, per_stage, straight=None):
        """Returns new times that include the server's own work.

        Args:
            per_batch: list of float, seconds for each measured batch size, from one batch to the next.
            per_stage: list of float, seconds for each measured batch size, from each stage to the next.
            straight: list of float, seconds of straight runs alone; see `StageTimes`.
        """
        seconds = self._seconds.copy()
        seconds[:, 0] += per_batch
        seconds[:, 1:] += np.asarray(per_stage)[:, None]
        straight = None if straight is None else np.add(straight, per_batch)
        return StageTimes(self.sizes, seconds, self._padded, straight)

    @property
    def pace(self):
        return self._taken / self._expected

    @property
    def safety(self):
        """The factor on the table's seconds that is used for deadlines: the usual ratio plus two deviations."""
        return self.usual + 2 * self.spread

    def saw(self, rows, position, seconds):
        """Records that a stage, or a straight run if `position` is None, took `seconds` for a batch of `rows`."""
        expected = self.straight[rows] if position is None else float(self._stages[rows, position])
        ratio = min(seconds / expected, PAUSE * self.usual)
        self.spread += MEMORY * (abs(ratio - self.usual) - self.spread)
        self.usual += MEMORY * (ratio - self.usual)
        kept = math.exp(-expected / self._span)
        self._taken, self._expected = kept * self._taken + seconds, kept * self._expected + expected
