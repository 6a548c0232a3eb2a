"""Policies of the `Scheduler`: how many requests form the next batch, and whether a batch continues past an exit."""

import dataclasses
import math
import re

import numpy as np

CONSIDERED = 64  # waiting requests whose deadlines a decision reads
HORIZON = 2.0  # a plan covers the arrivals of this many usual deadlines
CAUTION = 0.01  # value of an idle machine per request, in accuracy, because arrivals are random
LEAST_GAIN = 0.001  # of a later exit, so that all requests reach the last one without load
EFFICIENT = 1.02  # batches are not made larger for a gain in seconds per request below this factor


@dataclasses.dataclass
class Situation:
    """What a policy knows at a decision.

    Attributes:
        now: float, the moment.
        slacks: array, the seconds until the deadlines of the first `CONSIDERED` waiting requests.
        waiting: int, the number of waiting requests.
        rate: float, arrivals per second.
        usual_slack: float, seconds from arrival to deadline, on average.
    """

    now: float
    slacks: np.ndarray
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
        least_share: float, the fewest seconds per request, at the first exit.
    """

    refuses = leaves_in_time = True

    def __init__(self, times, accuracies):
        self.times, self.accuracies = times, accuracies
        rows = np.arange(1, times.max_batch + 1)
        self.least_share = float((times.table[1:, 1] / rows).min())
        self.sizes = np.array(times.sizes)

    @property
    def patience(self):
        """The factor on the time of the first allowed exit below which a waiting request counts as expired."""
        return self.times.usual

    @staticmethod
    def order(request):
        return request.order

    def batch_size(self, situation):
        """Returns the size of the next batch, at most `situation.waiting`."""
        raise NotImplementedError

    def continues(self, situation, batch, position):
        """Returns whether a batch runs to the exit after `position`."""
        raise NotImplementedError


class Static(Policy):
    """Runs every batch to one exit, first in, first out, as servers of ordinary networks do.

    Requests are dropped only when their deadline passes in the queue, as with Triton's `timeout`.
    """

    refuses = leaves_in_time = False
    patience = 0.0

    def __init__(self, times, accuracies, last):
        super().__init__(times, accuracies)
        self.last = last

    @staticmethod
    def order(request):
        return request.order[0], request.arrival

    def batch_size(self, situation):
        return min(situation.waiting, self.times.max_batch)

    def continues(self, situation, batch, position):
        return position < self.last


class Slack(Policy):
    """Chooses the batch and exit whose time is closest to the most urgent slack (SlackFit of SuperServe, NSDI 2025)."""

    def batch_size(self, situation):
        sizes = np.unique(np.minimum(self.sizes, situation.waiting))
        seconds = self.times.table[sizes, 1:] * self.times.safety
        fits = seconds <= situation.slacks.min()
        if not fits.any():
            return 1
        return int(sizes[np.where(fits, seconds, 0.0).max(axis=1).argmax()])

    def continues(self, situation, batch, position):
        row = self.times.table[len(batch)]
        needed = (row[position + 2] - row[position + 1]) * self.times.safety
        return not len(situation.slacks) or needed + row[1] * self.times.safety <= situation.slacks.min()


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
    """

    def __init__(self, times, accuracies):
        super().__init__(times, accuracies)
        self._plans = {}
        self._steps = np.maximum(np.diff(accuracies, prepend=0.0), LEAST_GAIN)

    def batch_size(self, situation):
        if situation.waiting == 1:
            return 1
        sizes = np.minimum(situation.waiting, self._plan(situation.usual_slack)[0])  # for each exit
        if (sizes == sizes[0]).all():
            return int(sizes[0])
        slacks = np.sort(situation.slacks)
        exits = np.arange(1, len(sizes) + 1)
        seconds = self.times.table[sizes, exits]
        before = slacks.searchsorted(self.times.table[sizes, 1:] * self.times.safety)
        ends = np.minimum(before[:, :1] + sizes[:, None], len(slacks))
        gains = (np.maximum(ends - before, 0) * self._steps).cumsum(axis=1)[exits - 1, exits - 1]
        rest = situation.waiting - sizes
        values = gains + self._rest(situation, slacks, seconds * self.times.pace, rest)
        return int(sizes[values.argmax()])

    def continues(self, situation, batch, position):
        row = self.times.table[len(batch)]
        seconds = row[position + 1 :] - row[position + 1]  # from here to this exit, the next one, ...
        slacks = np.sort([request.deadline for request in batch]) - situation.now
        in_time = len(batch) - slacks.searchsorted(seconds * self.times.safety)
        gains = (in_time * self._steps[position:])[1:].cumsum()
        gains += sum(self._missing(request.min_exit, position, len(gains)) for request in batch if request.min_exit)
        waiting = np.sort(situation.slacks)
        rest = self._rest(situation, waiting, seconds * self.times.pace, np.full(len(seconds), situation.waiting))
        return bool((gains + rest[1:]).max() > rest[0])

    def _missing(self, min_exit, position, count):
        """Returns what a request gains in addition when a later exit is the first acceptable one."""
        later = np.arange(position + 1, position + 1 + count)
        return np.where(min_exit > position, np.where(later >= min_exit, self.accuracies[position], 0.0), 0.0)

    def _rest(self, situation, slacks, seconds, rest):
        """Returns the expected value of the other requests if the machine is busy for `seconds`."""
        _, shares, values = self._plan(situation.usual_slack)
        coming = situation.rate * HORIZON * situation.usual_slack
        span = (1 + HORIZON) * situation.usual_slack
        far = (span - seconds) / (rest + coming + 1e-9)
        near = far
        if len(slacks):
            rest_at_least = np.maximum(rest, 1)
            last, middle = slacks[-1], slacks[len(slacks) // 2]
            near = np.minimum(far, (last - seconds) / rest_at_least)
            near = np.minimum(near, (middle - seconds) / np.maximum(rest - len(slacks) // 2, 1))
        pace = self.times.pace
        work = seconds + (rest + coming) * shares[-1] * pace
        return (
            rest * np.interp(near / pace, shares, values)
            + coming * np.interp(far / pace, shares, values)
            - CAUTION * (situation.waiting + coming + 1) * work / span
        )

    def _plan(self, slack):
        """Returns the most efficient batch size for each exit, and the concave hull, by the requests' usual slack."""
        key = round(4 * math.log2(max(slack, 1e-9)))
        if key not in self._plans:
            if len(self._plans) > 100:
                self._plans.clear()
            slack = 2 ** (key / 4)
            sizes = efficient_sizes(self.times.table, slack)
            self._plans[key] = sizes, *concave_hull(self.times.table, self.accuracies, slack / 2)
        return self._plans[key]


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
    points = sorted(
        (table[size, exit + 1] / size, accuracy)
        for exit, accuracy in enumerate(accuracies)
        for size in rows
        if usable[size - 1, exit]
    )
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
    if num_exits is None:
        if name not in ("value", "slack", "last") and not re.fullmatch(r"exit_[1-9]\d*", str(name)):
            known = "'value', 'slack', 'last', 'exit_1', 'exit_2', ..."
            raise ValueError(f"`policy` must be one of {known} Received: policy={name!r}.")
        return
    known = ["value", "slack", "last", *(f"exit_{number}" for number in range(1, num_exits + 1))]
    if name not in known:
        raise ValueError(f"`policy` must be one of {known}. Received: policy={name!r}.")
