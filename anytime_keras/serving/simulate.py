"""Simulates a `Scheduler` on arrivals in virtual time, to compare policies without a machine."""

import copy
import dataclasses
import math

import numpy as np

from anytime_keras._checks import check_choice
from anytime_keras.serving.scheduler import Overloaded, Request, Scheduler


@dataclasses.dataclass
class Outcome:
    """The result of a simulation.

    Attributes:
        asked: int, the number of requests.
        in_time: int, the number of requests answered by their deadlines.
        late: int, the number of requests answered after their deadlines.
        refused: int, the number of requests that were not answered.
        right: float, the expected number of right answers in time.
        exits: list of int, the number of answers in time from each exit.
        seconds: float, how long the machine was busy.

    Example:
    >>> Outcome(asked=10, in_time=8, late=0, refused=2, right=6.0, exits=[4, 4], seconds=1.0).goodput
    0.6
    """

    asked: int
    in_time: int
    late: int
    refused: int
    right: float
    exits: list
    seconds: float

    @property
    def goodput(self):
        """The expected share of requests that got a right answer in time."""
        return self.right / self.asked


def simulate(
    times, accuracies, arrivals, deadline, policy="value", noise=0.0, seed=0, machine=None, receiving=0.0, **options
):
    """Runs a scheduler on arrivals in virtual time.

    Args:
        times: `StageTimes`, what the scheduler knows; it learns the current pace as in a server.
        accuracies: list of float, one per exit.
        arrivals: array of moments in seconds, ascending; see `arrival_times`.
        deadline: float, seconds from a request's arrival; or an array with one value per request.
        policy, options: see `Scheduler`.
        noise: float, the standard deviation of the logarithm of each stage's time.
        seed: int, for the noise.
        machine: `StageTimes` with the same exits and largest batch, the true times of the machine; None for those in
            `times`.
        receiving: float, seconds by which each request that arrives while a stage runs prolongs it, because receiving
            it takes the processor.

    Returns:
        An `Outcome`.

    Example: at 1.5 times the last exit's capacity
    >>> from anytime_keras.serving import StageTimes, arrival_times, simulate
    >>> times = StageTimes([1], [[0.002, 0.003, 0.005]])
    >>> arrivals = arrival_times("poisson", rate=150, seconds=10)
    >>> value = simulate(times, [0.5, 0.7, 0.8], arrivals, deadline=0.05)
    >>> last = simulate(times, [0.5, 0.7, 0.8], arrivals, deadline=0.05, policy="last")
    >>> value.goodput > 0.7, last.goodput < 0.3
    (True, True)
    """
    if machine is not None and (
        machine.table.shape != times.table.shape or (times.straight is not None and machine.straight is None)
    ):
        raise ValueError(
            "`machine` must have the exits and the largest batch of `times`, and `straight` if `times` has it. "
            f"Received: machine with {machine.num_exits} exits, batches up to {machine.max_batch} and "
            f"straight={machine.straight}; times with {times.num_exits}, {times.max_batch} and {times.straight}."
        )
    now, rng = 0.0, np.random.default_rng(seed)
    machine, times = machine or times, copy.copy(times)  # the copy learns the pace
    scheduler = Scheduler(times, accuracies, policy, clock=lambda: now, **options)
    deadlines = np.broadcast_to(np.asarray(deadline, float), np.shape(arrivals))
    coming = list(zip(np.asarray(arrivals, float).tolist(), deadlines.tolist()))[::-1]
    exits, late, refused, busy = [0] * times.num_exits, 0, 0, 0.0

    def arrive_until(moment, receiving=0.0):
        nonlocal now, refused
        while coming and coming[-1][0] <= moment:
            now, slack = coming.pop()
            moment += receiving
            try:
                refused += len(scheduler.offer(Request(now, now + slack)))
            except Overloaded:
                refused += 1
        now = moment

    while coming or scheduler.waiting:
        if not scheduler.waiting:
            arrive_until(coming[-1][0])
        batch, expired = scheduler.next_batch()
        refused += len(expired)
        straight = bool(batch) and scheduler.runs_straight(batch)
        for position in [times.num_exits - 1] if straight else range(times.num_exits):
            if not batch:
                break
            row, begin = machine.rows[len(batch)], now
            seconds = machine.straight[len(batch)] if straight else row[position + 1] - row[position]
            arrive_until(now + seconds * math.exp(noise * rng.normal()), receiving)
            busy += now - begin
            times.saw(len(batch), None if straight else position, now - begin)
            gone = set(scheduler.leaving(batch, position))
            in_time = sum(request.deadline >= now for request in gone)
            exits[position] += in_time
            late += len(gone) - in_time
            batch = [request for request in batch if request not in gone]
    right = float(np.dot(exits, accuracies))
    return Outcome(len(arrivals), sum(exits), late, refused, right, exits, busy)


def arrival_times(kind, rate, seconds, seed=0, cv=4.0):
    """Returns random arrivals.

    Args:
        kind: `"poisson"`; `"gamma"`, with a coefficient of variation `cv`; `"step"`, Poisson at `rate`, and at three
            times the rate in the middle third; or `"afternoon"`, Poisson at a rate that rises from a fifth of `rate` to
            `rate` and falls back.
        rate: float, arrivals per second.
        seconds: float, the length.
        seed: int.
        cv: float, for `"gamma"`.

    Returns:
        A float array of moments in seconds, ascending.

    Raises:
        ValueError: if `kind` is unknown.

    Example:
    >>> len(arrival_times("poisson", rate=100, seconds=10)) in range(900, 1100)
    True
    """
    rng = np.random.default_rng(seed)
    if kind == "gamma":
        gaps = rng.gamma(1 / cv**2, cv**2 / rate, int(2 * rate * seconds + 100))
        moments = gaps.cumsum()
        return moments[moments < seconds]
    shapes = {
        "poisson": (1.0, lambda share: np.ones_like(share)),
        "step": (3.0, lambda share: np.where((share >= 1 / 3) & (share < 2 / 3), 3.0, 1.0)),
        "afternoon": (1.0, lambda share: 0.2 + 0.8 * np.sin(np.pi * share) ** 2),
    }
    check_choice("kind", kind, ["gamma", *shapes])
    highest, shape = shapes[kind]
    moments = np.sort(rng.uniform(0, seconds, rng.poisson(highest * rate * seconds)))
    return moments[rng.uniform(0, highest, len(moments)) < shape(moments / seconds)]
