"""Policies of the `Scheduler`: how many requests form the next batch, and whether a batch continues past an exit."""

import bisect
import dataclasses
import math
import re

import numpy as np

CONSIDERED = 64  # waiting requests whose deadlines a decision reads
HORIZON = 2.0  # a plan covers the arrivals of this many usual deadlines
CAUTION = 0.01  # value of an idle machine per request, in accuracy, because arrivals are random
PLANS_PER_OCTAVE = 4  # of usual slacks
LEAST_GAIN = 0.001  # of a later exit, so that all requests reach the last one without load
COMMITTED = 0.4  # most of a usual deadline that may pass until a request that has just missed a batch has an answer
EFFICIENT = 1.02  # batches are not made larger for a gain in seconds per request below this factor


@dataclasses.dataclass
class Situation:
    """What a policy knows at a decision.

    Attributes:
        now: float, the moment.
        slacks: list of float, ascending, the seconds until the deadlines of the first `CONSIDERED` waiting requests.
        waiting: int, the number of waiting requests.
        rate: float, arrivals per second.
        usual_slack: float, seconds from `Scheduler.offer` to deadline, an average that favors short ones.
    """

    now: float
    slacks: list
    waiting: int
    rate: float
    usual_slack: float


class Policy:
    """Base of the policies.

    Args:
        times: `StageTimes`.
        accuracies: array, one per exit.

    Attributes:
        refuses: bool, whether requests that cannot be answered in time are refused on arrival.
        leaves_in_time: bool, whether requests leave a running batch before they would be late.
        by_deadline: bool, whether requests of the same priority are served by deadline; otherwise first in, first out.
        least_share: float, the fewest seconds per request, at the first exit.
        last: int, the last exit that answers.
    """

    refuses = leaves_in_time = by_deadline = True

    def __init__(self, times, accuracies):
        self.times, self.accuracies = times, accuracies
        self.last = times.num_exits - 1
        rows = np.arange(1, times.max_batch + 1)
        self.least_share = float((times.table[1:, 1] / rows).min())
        self.sizes = np.array(times.sizes)

    @property
    def patience(self):
        """The factor on the time of the first allowed exit below which a waiting request counts as expired."""
        return self.times.usual

    def order(self, request):
        """Returns the sorting key of a request in the queue; equal ones keep the order in which they were offered."""
        return request.order if self.by_deadline else request.order[0]

    def batch_size(self, situation):
        """Returns the size of the next batch, at most `situation.waiting`."""
        raise NotImplementedError

    def continues(self, situation, batch, position):
        """Returns whether a batch runs to the exit after `position`."""
        raise NotImplementedError

    def runs_straight(self, situation, batch):
        """Returns whether a batch runs to the last exit without heads and decisions before it, if that is possible."""
        return False


class Static(Policy):
    """Runs every batch to one exit, first in, first out, as servers of ordinary networks do.

    Requests are dropped only when their deadline passes in the queue, as with Triton's `timeout`.
    """

    refuses = leaves_in_time = by_deadline = False
    patience = 0.0

    def __init__(self, times, accuracies, last):
        super().__init__(times, accuracies)
        self.last = last

    def batch_size(self, situation):
        return min(situation.waiting, self.times.max_batch)

    def continues(self, situation, batch, position):
        return position < self.last

    def runs_straight(self, situation, batch):
        size = len(batch)
        return self.last + 1 == self.times.num_exits and self.times.straight[size] <= self.times.rows[size][-1]


class Slack(Policy):
    """Chooses the batch and exit whose time is closest to the most urgent slack (SlackFit of SuperServe, NSDI 2025)."""

    def batch_size(self, situation):
        sizes = np.unique(np.minimum(self.sizes, situation.waiting))
        seconds = self.times.table[sizes, 1:] * self.times.safety
        fits = seconds <= situation.slacks[0]
        if not fits.any():
            return 1
        return int(sizes[np.where(fits, seconds, 0.0).max(axis=1).argmax()])

    def continues(self, situation, batch, position):
        row = self.times.rows[len(batch)]
        needed = row[position + 2] - row[position + 1] + row[1]
        return not situation.slacks or needed * self.times.safety <= situation.slacks[0]


class Value(Policy):
    """Maximizes the expected right answers in time, over running, waiting and expected requests.

    Let A(s) be the best average accuracy if each request may use s seconds of the machine: the concave hull of the
    points (seconds per request, accuracy) of all batch sizes and exits. A run of T seconds is worth what its own
    requests gain by their deadlines, plus the expected value of the others: the waiting requests, which share the time
    until their deadlines, and those that arrive within a horizon at the current rate. As time becomes short for the
    others, A falls, and shorter runs win. The seconds per request are those of the critical interval, as in speed
    scaling with deadlines (Yao, Demers, Shenker, FOCS 1995).

    Batch sizes are the most efficient for each exit, or all waiting requests if there are fewer. Choosing freely among
    sizes serves the most urgent requests one by one under load, and the queue never recovers.

    A decision must take microseconds, so it computes with plain floats: arrays of eight numbers are slower.
    """

    def __init__(self, times, accuracies):
        super().__init__(times, accuracies)
        self._first_key, self._plans = plans(times, accuracies)
        self._steps = np.maximum(np.diff(accuracies, prepend=0.0), LEAST_GAIN).tolist()
        self._accuracy = sum(self._steps)  # of the last exit, in the same terms

    def batch_size(self, situation):
        if situation.waiting == 1:
            return 1
        sizes = [min(size, situation.waiting) for size in self._plan(situation.usual_slack).sizes]  # for each exit
        if min(sizes) == max(sizes):
            return sizes[0]
        values = self._values(situation, sizes)
        return sizes[values.index(max(values))]

    def _values(self, situation, sizes):
        """Returns the expected value of a new batch for each exit where it may end, a list of float.

        Args:
            situation: `Situation`.
            sizes: list of int, the batch size for each exit, then that for a straight run if there may be one.
        """
        slacks, safety, pace, values = situation.slacks, self.times.safety, self.times.pace, [0.0] * len(sizes)
        for size in set(sizes):
            row, others, gain = self.times.rows[size], self._value_of_others(situation, situation.waiting - size), 0.0
            behind = min(bisect.bisect_left(slacks, row[1] * safety) + size, len(slacks))  # first one not in the batch
            for exit, (end, step) in enumerate(zip(row[1:], self._steps)):
                gain += max(behind - bisect.bisect_left(slacks, end * safety), 0) * step
                if sizes[exit] == size:
                    values[exit] = gain + others(end * pace)
            if sizes[len(self._steps) :] == [size]:
                end = self.times.straight[size]
                in_time = min(size, len(slacks) - bisect.bisect_left(slacks, end * safety))
                values[-1] = in_time * self._accuracy + others(end * pace)
        return values

    def continues(self, situation, batch, position):
        row, safety, pace = self.times.rows[len(batch)], self.times.safety, self.times.pace
        slacks = sorted([request.deadline - situation.now for request in batch])
        least = [request.min_exit for request in batch if request.min_exit > position]
        others = self._value_of_others(situation, situation.waiting)
        stop, gain = others(0.0), 0.0
        for later in range(position + 1, len(self._steps)):
            seconds = row[later + 1] - row[position + 1]
            in_time = len(slacks) - bisect.bisect_left(slacks, seconds * safety)
            gain += in_time * self._steps[later]
            # A request gains all of an exit's accuracy if earlier ones were not acceptable.
            missing = self.accuracies[position] * sum(exit <= later for exit in least)
            if gain + missing + others(seconds * pace) > stop:
                return True
        return False

    def runs_straight(self, situation, batch):
        seconds, row, safety = self.times.straight[len(batch)], self.times.rows[len(batch)], self.times.safety
        if (seconds + self.times.rows[1][1]) * safety > COMMITTED * situation.usual_slack:
            return False
        slacks = sorted([request.deadline - situation.now for request in batch])
        if slacks[0] < seconds * safety:
            return False
        others, pace, gain = self._value_of_others(situation, situation.waiting), self.times.pace, 0.0
        straight = len(batch) * self._accuracy + others(seconds * pace)
        for end, step in zip(row[1:], self._steps):
            gain += (len(batch) - bisect.bisect_left(slacks, end * safety)) * step
            if gain + others(end * pace) > straight:
                return False
        return True

    def _value_of_others(self, situation, rest):
        """Returns a function from the seconds that the machine is busy to the expected value of the other requests.

        Args:
            situation: `Situation`.
            rest: int, the number of waiting requests that are not in the batch.
        """
        plan, slacks, pace = self._plan(situation.usual_slack), situation.slacks, self.times.pace
        coming = situation.rate * HORIZON * situation.usual_slack
        span = (1 + HORIZON) * situation.usual_slack
        every, work = rest + coming, (rest + coming) * plan.shares[-1] * pace
        idle = CAUTION * (situation.waiting + coming + 1) / span
        if slacks:
            half = len(slacks) // 2
            last, middle, second_half = slacks[-1], slacks[half], max(rest - half, 1)

        def value(seconds):
            near = far = (span - seconds) / (every + 1e-9)
            if slacks:
                near = min(far, (last - seconds) / max(rest, 1), (middle - seconds) / second_half)
            best = rest * plan.accuracy(near / pace) if rest else 0.0
            return best + coming * plan.accuracy(far / pace) - idle * (seconds + work)

        return value

    def _plan(self, slack):
        """Returns the `Plan` for the requests' usual slack."""
        key = round(PLANS_PER_OCTAVE * math.log2(slack)) - self._first_key
        return self._plans[min(max(key, 0), len(self._plans) - 1)]


class Plan:
    """What a machine can do for requests with a usual slack.

    Args:
        times: `StageTimes`.
        accuracies: array, one per exit.
        slack: float, seconds from `Scheduler.offer` to deadline.

    Attributes:
        sizes: list of int, the most efficient batch size for each exit, and for a straight run if there is one.
        shares: list of float, seconds per request at the corners of the concave hull; see `concave_hull`.
    """

    def __init__(self, times, accuracies, slack):
        table, accuracies = times.table, list(accuracies)
        if times.straight is not None and times.straight[1] + table[1, 1] <= COMMITTED * slack:
            straight = np.array(times.straight)
            straight[straight + table[1, 1] > COMMITTED * slack] = np.inf
            table, accuracies = np.c_[table, straight], [*accuracies, accuracies[-1]]
        self.sizes = efficient_sizes(table, slack).tolist()
        shares, values = concave_hull(table, accuracies, slack / 2)
        self.shares, self._values = shares.tolist(), values.tolist()
        self._slopes = (np.diff(values) / np.diff(shares)).tolist()

    def accuracy(self, share):
        """Returns the best average accuracy if each request may use `share` seconds."""
        if share <= 0:
            return 0.0
        if share >= self.shares[-1]:
            return self._values[-1]
        left = bisect.bisect_right(self.shares, share) - 1
        return self._values[left] + self._slopes[left] * (share - self.shares[left])


def plans(times, accuracies):
    """Makes a `Plan` for each usual slack on a grid, ahead of all decisions, because making one takes too long.

    Returns an int k and a list; its item i is for slacks of `2 ** ((k + i) / PLANS_PER_OCTAVE)` seconds. Slacks below
    the first allow no batch of two, and slacks above the last allow every batch.
    """
    first = float(times.table[1, 1])
    longest = max(2 * times.table[1:].max(), (max(times.straight or [0.0]) + first) / COMMITTED)
    begin, end = (PLANS_PER_OCTAVE * math.log2(seconds) for seconds in (first, longest))
    keys = range(math.floor(begin), math.ceil(end) + 1)
    return keys[0], [Plan(times, accuracies, 2 ** (key / PLANS_PER_OCTAVE)) for key in keys]


def efficient_sizes(table, longest):
    """Returns, for each exit, the smallest batch size with nearly the fewest seconds per request.

    Args:
        table: `StageTimes.table`.
        longest: float, the most seconds a batch may take.

    >>> efficient_sizes(np.array([[0, 0], [0, 1.0], [0, 1.2], [0, 2.4]]), longest=10).tolist()
    [2]
    """
    rows = np.arange(1, len(table))[:, None]
    seconds = table[1:, 1:]
    shares = np.where((seconds <= longest) | (rows == 1), seconds / rows, np.inf)
    return 1 + (shares <= EFFICIENT * shares.min(axis=0)).argmax(axis=0)


def concave_hull(table, accuracies, longest):
    """Returns the best average accuracy by the seconds of the machine that each request may use.

    Args:
        table: `StageTimes.table`.
        accuracies: array, one per exit.
        longest: float, seconds. Batches of two or more that take longer than this are left out, because requests that
            wait for one batch and run in the next must meet their deadline.

    Returns:
        Two arrays: seconds per request, ascending from 0, and accuracies.

    >>> seconds, values = concave_hull(np.array([[0, 0, 0], [0, 1.0, 2.0]]), np.array([0.5, 0.8]), longest=10)
    >>> seconds.tolist(), values.tolist()
    ([0.0, 1.0, 2.0], [0.0, 0.5, 0.8])
    """
    rows = np.arange(1, len(table))
    usable = (table[1:, 1:] <= longest) | (rows == 1)[:, None]
    points = sorted((table[row + 1, exit + 1] / (row + 1), accuracies[exit]) for row, exit in np.argwhere(usable))
    hull = [(0.0, 0.0)]
    for x, y in points:
        if y <= hull[-1][1]:
            continue
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (x - hull[-2][0]) <= (y - hull[-2][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        hull.append((x, y))
    x, y = map(np.array, zip(*hull))
    return x, y


def make(name, times, accuracies):
    """Creates a policy by its name.

    Raises:
        ValueError: if the name is unknown; the error lists the names.

    >>> from anytime_keras.serving import StageTimes
    >>> type(make("exit_1", StageTimes([1], [[0.001, 0.002]]), np.array([0.6, 0.9]))).__name__
    'Static'
    """
    check(name, times.num_exits)
    if name in ("value", "slack"):
        return {"value": Value, "slack": Slack}[name](times, accuracies)
    return Static(times, accuracies, times.num_exits - 1 if name == "last" else int(name[5:]) - 1)


def check(name, num_exits=None):
    """Raises a ValueError that lists the policies' names unless `name` is one of them; None allows any exit."""
    static = re.fullmatch(r"exit_([1-9]\d*)", str(name))
    if name in ("value", "slack", "last") or static and int(static[1]) <= (num_exits or math.inf):
        return
    exits = ", ".join(f"'exit_{number}'" for number in range(1, (num_exits or 2) + 1))
    exits += "." if num_exits else ", ..."
    raise ValueError(f"`policy` must be one of 'value', 'slack', 'last', {exits} Received: policy={name!r}.")
