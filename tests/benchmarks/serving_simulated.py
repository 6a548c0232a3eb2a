"""The parts of the serving benchmark that need no server: policies in virtual time, and the time of a decision."""

import time

import numpy as np

import anytime_keras as ak
from anytime_keras.serving import Request, Scheduler, StageTimes, arrival_times, simulate

LEAST_DIFFERENCE = -0.005  # the aim for `difference`


def decisions():
    """Returns the median microseconds of a decision with 8 exits, batches up to 32 and a queue of 30.

    `batch_us` is for a new batch, `exit_us` for a running one, and `first_us` for the first new batch at each of 50
    different usual slacks.
    """
    sizes = [1, 2, 4, 8, 16, 32]
    stages = [0.001 * (0.8 + 0.2 * size) for size in sizes]
    times = StageTimes(sizes, [[own] * 8 for own in stages], straight=[7 * own for own in stages])
    moment = 0.0
    scheduler = Scheduler(times, np.linspace(0.5, 0.9, 8), clock=lambda: moment)
    for number in range(50):
        moment = 0.002 * number
        scheduler.offer(Request(moment, moment + 1.0))

    def decide():
        scheduler.waiting = [Request(moment, moment + 0.02 + 0.003 * number) for number in range(30)]
        begin = time.perf_counter()
        batch, _ = scheduler.next_batch()
        scheduler.runs_straight(batch)
        middle = time.perf_counter()
        scheduler.leaving(batch, 3)
        return 1e6 * (middle - begin), 1e6 * (time.perf_counter() - middle)

    starts, exits = np.median([decide() for _ in range(500)], axis=0).tolist()
    first = []
    for scheduler.usual_slack in np.geomspace(0.005, 5.0, 50).tolist():
        first.append(decide()[0])
    return {"batch_us": starts, "exit_us": exits, "first_us": float(np.median(first))}


def simulated(flags):
    """Returns the content of `networks` for three simulated machines."""
    entry = ak.zoo.show("resann5x16_adaloss").pick("cifar10")
    chosen = [0, 2, 4, 6, 8, 10, 12, 14]
    accuracies = [entry.accuracies[place] for place in chosen]
    stages = 0.010 * np.diff([entry.macs[place] for place in chosen], prepend=0) / entry.macs[-1]
    sizes = [1, 2, 4, 8, 16, 32]
    each, own = [0.2 * size * stages for size in sizes], ([1e-4 + 5e-5 * size for size in sizes], [3e-5] * 6)
    straight = np.array([0.002 * size for size in sizes])
    known = StageTimes(sizes, each).plus(*own, straight)
    slower = StageTimes(sizes, 1.2 * np.array(each)).plus(*1.2 * np.array(own), 1.2 * straight)
    machines = {
        "one by one": (StageTimes(sizes, [0.0004 + size * stages for size in sizes]), {}),
        "batches": (StageTimes(sizes, [0.0004 + (0.8 + 0.2 * size) * stages for size in sizes]), {}),
        "2 ms": (known, {"machine": slower, "receiving": 6e-5}),
    }
    policies = ["value", "slack", "last", *(f"exit_{number + 1}" for number in range(len(chosen)))]
    networks = {}
    for name, (times, more) in machines.items():
        rows, counts = [], np.arange(1, 33)
        seconds = times.table[1:, -1] if times.straight is None else np.array(times.straight[1:])
        for arrivals in flags.arrivals.split(","):
            for factor in map(float, flags.factors.split(",")):
                deadline = factor * seconds[0]
                capacity = float((counts / seconds)[(seconds <= deadline) | (counts == 1)].max())
                for load in map(float, flags.loads.split(",")):
                    moments = arrival_times(arrivals, load * capacity, flags.seconds, seed=1)
                    results = {}
                    for policy in policies:
                        found = simulate(times, accuracies, moments, deadline, policy, noise=0.1, **more)
                        results[policy] = {"in_time": found.in_time / found.asked, "right": found.goodput}
                    row = {"arrivals": arrivals, "factor": factor, "load": load, "capacity": capacity}
                    rows.append({**row, "policies": results})
                    print(name, arrivals, factor, load, {key: round(own["right"], 3) for key, own in results.items()})
        networks[name] = {"accuracies": accuracies, "aims": aims(rows), "rows": rows}
    return networks


def difference(row):
    """Returns by how much "value" is better than the best static exit, in right answers in time per request."""
    right = {name: result["right"] for name, result in row["policies"].items()}
    return right["value"] - max(own for name, own in right.items() if name.startswith(("exit_", "last")))


def aims(rows):
    """Returns the numbers that have targets."""
    over_last = []
    for row in rows:
        if row["load"] == 1.3:
            right = {name: row["policies"][name]["right"] for name in ("value", "last")}
            over_last.append(right["value"] / max(right["last"], 1e-3))
    worst = min(map(difference, rows), default=None)
    return {"worst_difference": worst, "over_last_at_1.3": min(over_last, default=None)}
