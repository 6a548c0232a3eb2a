"""Counters of what a server did."""

import dataclasses
import threading


@dataclasses.dataclass
class Stats:
    """Counters of one network. All methods are thread-safe.

    Attributes:
        exits: list of int, the answers of each exit.
        batches: dict from batch size to the number of batches.
        in_time, late, refused, expired, cancelled, failed: int, requests by outcome. Refused requests were never
            queued; expired ones could no longer be answered in time, or lost their place in a full queue.
        expected_right: float, the sum of the answering exits' accuracies, of answers in time.
        compute_seconds: float.

    Example:
    >>> stats = Stats(num_exits=2)
    >>> stats.answered(position=1, late=False, accuracy=0.9)
    >>> stats.snapshot()["in_time"], stats.snapshot()["exits"]
    (1, [0, 1])
    """

    num_exits: int
    in_time: int = 0
    late: int = 0
    refused: int = 0
    expired: int = 0
    cancelled: int = 0
    failed: int = 0
    expected_right: float = 0.0
    compute_seconds: float = 0.0

    def __post_init__(self):
        self.exits, self.batches = [0] * self.num_exits, {}
        self._lock = threading.Lock()

    def answered(self, position, late, accuracy):
        """Counts an answer."""
        with self._lock:
            self.exits[position] += 1
            self.late += late
            self.in_time += not late
            self.expected_right += 0.0 if late else accuracy

    def count(self, outcome, number=1):
        """Adds to the counter named `outcome`, such as `"refused"`."""
        with self._lock:
            setattr(self, outcome, getattr(self, outcome) + number)

    def ran(self, size):
        """Counts the start of a batch."""
        with self._lock:
            self.batches[size] = self.batches.get(size, 0) + 1

    def snapshot(self):
        """Returns a copy of the counters as a dict."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "num_exits"]
        with self._lock:
            counters = {name: getattr(self, name) for name in names}
            return {**counters, "exits": list(self.exits), "batches": dict(self.batches)}
