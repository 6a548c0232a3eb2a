"""`Scheduler`: decides which requests form a batch and to which exit it runs. It has no I/O and no clock of its own."""

import bisect
import dataclasses
import math

import numpy as np

from anytime_keras.serving import policies

DEFAULT_LEVEL = 5  # of requests with priority 0, as Triton's `default_priority_level`
MOST_URGENT, LEAST_URGENT = 1, 9
SHORTEST = 1e-4  # seconds; shorter deadlines count as this for the usual one
REMEMBERED = 20.0  # the arrival rate is averaged over this many deadlines
# Weight of a request in the usual time until deadlines. Longer times count less: a plan for long deadlines makes
# requests with short ones fail, while requests with long deadlines lose little under a plan for short ones.
SHORTER, LONGER = 0.05, 0.005


class Overloaded(Exception):
    """Raised instead of an answer: not even the first allowed exit can meet the deadline, or the queue is full.

    Args:
        message: str.
        retry_after: float, estimated seconds until the same request would be accepted; also an attribute.

    Example:
    >>> Overloaded("The queue is full.", retry_after=0.5).retry_after
    0.5
    """

    def __init__(self, message, retry_after=0.0):
        super().__init__(message)
        self.retry_after = retry_after


@dataclasses.dataclass(eq=False, slots=True)
class Request:
    """A request as the scheduler sees it.

    Attributes:
        arrival: float, the moment it arrived, by the scheduler's clock.
        deadline: float, the moment by which its answer must be ready.
        priority: int from 1 (most urgent) to 9; 0 means 5, the default level.
        min_exit: int, the position of the first exit whose answer is acceptable.
        payload: anything; the scheduler does not read it.

    Example:
    >>> Request(arrival=0.0, deadline=0.02).min_exit
    0
    """

    arrival: float
    deadline: float
    priority: int = 0
    min_exit: int = 0
    payload: object = None

    @property
    def order(self):
        """The position in the queue: by priority, then by deadline."""
        return self.priority or DEFAULT_LEVEL, self.deadline


class Scheduler:
    """Chooses batches and exits so that as many requests as possible get a right answer in time.

    The caller owns the loop: it calls `offer` for each arrival, `next_batch` when it is free, then `runs_straight`, and
    `leaving` after each exit of a running batch. A decision is made anew at each exit, so a batch that was to run to
    the last exit ends early if many requests have arrived in the meantime. Not thread-safe.

    Policies:

    - `"value"`: maximizes the expected number of right answers in time, over the requests that wait and those expected
      by the current arrival rate; see `anytime_keras.serving.policies.Value`.
    - `"slack"`: the batch and exit whose time is closest to the slack of the most urgent request (SuperServe,
      NSDI 2025).
    - `"last"`, `"exit_k"` (k from 1): always the same exit, first in, first out; requests are dropped only when their
      deadline passes in the queue. This is what other servers do.

    Args:
        times: `StageTimes`.
        accuracies: list of float, the accuracy of each exit on validation data.
        policy: str.
        clock: function without arguments that returns the current moment in seconds.
        max_queue: int, the largest number of waiting requests.
        thresholds: list of float or None. A request leaves at an exit whose confidence is at least its threshold.

    Attributes:
        waiting: list of `Request`, most urgent first.
        rate: float, arrivals per second lately.

    Example, with a made-up clock:
    >>> from anytime_keras.serving import Request, Scheduler, StageTimes
    >>> times = StageTimes([1, 2], [[0.001, 0.002], [0.0015, 0.003]])
    >>> now = 0.0
    >>> scheduler = Scheduler(times, accuracies=[0.6, 0.9], clock=lambda: now)
    >>> scheduler.offer(Request(arrival=0.0, deadline=0.010))
    []
    >>> batch, expired = scheduler.next_batch()
    >>> now = 0.001
    >>> scheduler.leaving(batch, position=0)                                  # runs to the last exit
    []
    >>> now = 0.009                                                           # the machine was slow
    >>> scheduler.leaving(batch, position=0) == batch
    True
    """

    def __init__(self, times, accuracies, policy="value", clock=None, max_queue=1024, thresholds=None):
        accuracies = np.asarray(accuracies, float)
        if accuracies.shape != (times.num_exits,) or not ((accuracies >= 0) & (accuracies <= 1)).all():
            raise ValueError(
                f"`accuracies` must be a number from 0 to 1 for each of the {times.num_exits} exits. "
                f"Received: {accuracies.tolist()}."
            )
        if thresholds is not None and len(thresholds) != times.num_exits:
            raise ValueError(
                f"`thresholds` must be a number for each of the {times.num_exits} exits. Received: {thresholds}."
            )
        self.times, self.accuracies, self.thresholds = times, accuracies, thresholds
        self.clock, self.max_queue = clock, max_queue
        self.policy = policies.make(policy, times, accuracies)
        self.waiting = []
        self._busy_until = -math.inf  # the expected end of the running stage
        self._count, self._last = 0.0, None  # decayed number of arrivals, and the moment it was computed
        self._first, self._window = None, 1.0
        self.usual_slack = None  # seconds from `offer` to deadline, a moving geometric mean that favors short ones

    @property
    def rate(self):
        return self._rate(self.clock())

    def _decayed(self, now):
        return 0.0 if self._last is None else self._count * math.exp((self._last - now) / self._window)

    def _rate(self, now):
        """Returns arrivals per second: the decayed count over the decayed length of the time observed."""
        if self._last is None:
            return 0.0
        observed = self._window * -math.expm1((self._first - now) / self._window)
        return self._decayed(now) / max(observed, 0.05 * self._window)

    def offer(self, request):
        """Adds a request to the queue.

        In a full queue, it takes the place of those that can no longer be answered in time, or of the last one if that
        is less urgent: it has a lower priority, or the same and a later deadline (not with static policies).

        Returns:
            A list of `Request`, those that lost their place.

        Raises:
            Overloaded: if the request cannot be answered in time, or the queue is full of requests at least as urgent.
                It is then not queued.
        """
        now, refuses = self.clock(), self.policy.refuses
        alone = self.times.rows[1][request.min_exit + 1]
        if refuses and now + alone > request.deadline:
            raise self._refusal(request, now, alone)
        self._arrived(now, request.deadline - now)
        seconds = alone + self._seconds_before(request, now)
        if refuses and now + seconds > request.deadline:
            raise self._refusal(request, now, seconds)
        removed = [] if len(self.waiting) < self.max_queue else self._remove_expired(now)
        if len(self.waiting) >= self.max_queue:
            if self.policy.order(self.waiting[-1]) <= self.policy.order(request):
                raise Overloaded(f"The queue is full: {self.max_queue} requests wait.", seconds)
            removed = [self.waiting.pop()]
        bisect.insort(self.waiting, request, key=self.policy.order)
        return removed

    def withdraw(self, request):
        """Removes a request from the queue; returns whether it was there."""
        if request not in self.waiting:
            return False
        self.waiting.remove(request)
        return True

    def _refusal(self, request, now, seconds):
        times = f"Expected: at least {1e3 * seconds:.1f} ms. Received: {1e3 * (request.deadline - now):.1f} ms."
        return Overloaded(f"The deadline cannot be met. {times}", now + seconds - request.deadline)

    def _arrived(self, now, slack):
        self._count, self._last = self._decayed(now) + 1, now
        slack = max(slack, SHORTEST)
        usual = slack if self.usual_slack is None else self.usual_slack
        self.usual_slack = usual * (slack / usual) ** (SHORTER if slack < usual else LONGER)
        self._first = now if self._first is None else self._first
        window, before = max(REMEMBERED * self.usual_slack, 0.1), self._window
        # The count and the observed time scale with the window, so that the estimated rate stays the same.
        self._count = 1 + (self._count - 1) * window / before
        self._first = now - (now - self._first) * window / before
        self._window = window

    def _seconds_before(self, request, now):
        """Returns the least seconds until a request can begin, if those before it take the first exit.

        These are the measured seconds, even if the machine is slower at present: a request that is refused is lost, one
        that waits in vain costs nothing, and only requests that run show that the machine is fast again.
        """
        ahead = bisect.bisect_right(self.waiting, self.policy.order(request), key=self.policy.order)
        return max(self._busy_until - now, 0.0) + ahead * self.policy.least_share

    def next_batch(self):
        """Removes the next batch from the queue.

        Returns:
            A tuple of two lists of `Request`: the batch, and those that can no longer be answered in time. The batch is
            empty if no other requests wait.
        """
        now = self.clock()
        expired = self._remove_expired(now)
        if not self.waiting:
            return [], expired
        batch = self._take(self.policy.batch_size(self._situation(now)), now)
        self._ends(now, batch, 0)
        return batch, expired

    def runs_straight(self, batch):
        """Returns whether a new batch is to run straight to the last exit, without a call of `leaving` before it."""
        if self.times.straight is None or self.thresholds is not None:
            return False
        now = self.clock()
        if not self.policy.runs_straight(self._situation(now), batch):
            return False
        self._busy_until = now + self.times.straight[len(batch)] * self.times.usual
        return True

    def _remove_expired(self, now):
        # A single request is tried even if the machine was slow, to find out whether it is fast again.
        patience = self.policy.patience if len(self.waiting) > 1 else min(self.policy.patience, 1.0)
        least = [seconds * patience for seconds in self.times.rows[1][1:]]
        hopeless, place = set(), 0
        while place < len(self.waiting):
            request = self.waiting[place]
            place += 1
            if request.deadline - now < least[request.min_exit]:
                hopeless.add(request)
            elif self.policy.by_deadline and request.deadline - now >= least[-1]:  # so have others of its priority
                place = bisect.bisect_right(self.waiting, request.order[0], place, key=lambda other: other.order[0])
        if hopeless:
            self.waiting = [request for request in self.waiting if request not in hopeless]
        return list(hopeless)

    def _take(self, rows, now):
        """Takes the most urgent requests that a batch of `rows` would answer in time.

        The batch is smaller if the first request has a `min_exit`, which it would not reach in time otherwise.
        """
        first = self.waiting[0]
        left = (first.deadline - now) / max(self.policy.patience, 1e-9)
        while rows > 1 and first.min_exit and left < self.times.rows[rows][first.min_exit + 1]:
            rows -= 1
        least = [seconds * self.policy.patience for seconds in self.times.rows[rows][1:]]
        chosen, kept = [], []
        for place, request in enumerate(self.waiting):
            if len(chosen) == rows:
                kept += self.waiting[place:]
                break
            (chosen if request.deadline - now >= least[request.min_exit] else kept).append(request)
        if not chosen:
            chosen, kept = self.waiting[:1], self.waiting[1:]
        self.waiting = kept
        return chosen

    def _ends(self, now, batch, position):
        if not batch:
            self._busy_until = -math.inf
            return
        row = self.times.rows[len(batch)]
        self._busy_until = now + (row[position + 1] - row[position]) * self.times.usual

    def leaving(self, batch, position, confidence=None):
        """Returns the requests of a running batch that leave at an exit, with its answer.

        Args:
            batch: list of `Request`, those still running.
            position: int, the exit that has just answered.
            confidence: list of float, one per request, or None. Needed for `thresholds`.

        Returns:
            A list of `Request`. The others continue to the next exit.
        """
        now, last = self.clock(), position + 1 == self.times.num_exits
        staying = [] if last else batch
        if staying and self.thresholds is not None and confidence is not None:
            least = self.thresholds[position]
            pairs = zip(batch, confidence)
            staying = [request for request, sure in pairs if sure < least or request.min_exit > position]
        if staying and self.policy.leaves_in_time:
            row = self.times.rows[len(staying)]
            end = now + (row[position + 2] - row[position + 1]) * self.times.safety
            staying = [request for request in staying if request.deadline >= end]
        if staying and not self.policy.continues(self._situation(now), staying, position):
            staying = []
        self._ends(now, staying, position + 1)
        if len(staying) == len(batch):
            return []
        stays = set(staying)
        return [request for request in batch if request not in stays]

    def _situation(self, now):
        slacks = sorted([request.deadline - now for request in self.waiting[: policies.CONSIDERED]])
        return policies.Situation(now, slacks, len(self.waiting), self._rate(now), self.usual_slack or SHORTEST)
