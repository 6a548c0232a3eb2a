"""Measures how deadlines are met, beside a naive bet, and writes `results/deadlines.json`.

    python -m tests.benchmarks.deadlines
    python -m tests.benchmarks.deadlines --engine=litert --num_threads=1 --seconds=2 --out=/tmp/quick.json

Takes about 5 x `--seconds` plus the conversion. The network is a ResANN(5, 16) for images of 32 x 32 with random
weights and 8 exits. Deadlines are drawn uniformly from 0.2 to 2 times the median seconds of a run through all exits.

Contents of the file, for a quiet machine, beside one busy process, and with two busy processes per core from the middle
of the measurement on (`slows`):
    met                fraction of deadlines met, among those that the first exit meets in the median; at least 0.999 on
                       a quiet machine and 0.99 beside one busy process
    deepest            fraction of the answers from the deepest exit that a clairvoyant would have reached, or a later
                       one: the last exit whose time, the median of the ten full runs nearest in time, is within the
                       deadline; at least 0.9
    naive_met          fraction of deadlines met by the naive bet: a run straight to the last exit whose median seconds,
                       run like that on a quiet machine, are within the deadline
    misses             why deadlines that counted were missed: their number; `preempted`, those in which the system gave
                       the processor to another thread; `collected`, those in which Python collected garbage; and
                       quantiles of how late the others were, in microseconds
    pace               for `slows`: by second, the slowdown that the predictor assumed, and the fraction met
"""

import gc
import os
import resource
import subprocess
import sys
import time

import keras
import numpy as np

import anytime_keras as ak
from tests.benchmarks.measuring import in_turns, parser, write

SEED, SPAN, NEAREST = 0, (0.2, 2.0), 10


def network():
    keras.utils.set_random_seed(SEED)
    return ak.models.build("resann", num_units=5, channels=16, input_shape=(32, 32, 3), num_classes=10)


def full_run(predictor, x):
    """Returns the seconds until each exit's answer, had the call returned then."""
    seconds, begin = [], time.perf_counter()
    predictor.predict(x, until=lambda answer: seconds.append(answer.seconds))
    back = time.perf_counter() - begin - seconds[-1]
    return [own + back for own in seconds]


def measure(predictor, x, seconds, ask, rng):
    """Asks for answers by random deadlines, in turns with full runs.

    Args:
        ask: function of a deadline that returns an `Answer`.

    Returns:
        A dict of arrays with an item per deadline: `"at"`, seconds since the beginning; `"deadlines"`; `"seconds"`, the
        caller's; `"positions"`; `"slowdowns"`; `"preempted"` and `"collected"`, how often each happened meanwhile; and
        `"full"`, shape `(deadlines, exits)`, from the full runs.
    """
    rows, begin, collected = [], time.perf_counter(), [0]

    def count(phase, _):
        collected[0] += phase == "start"

    gc.callbacks.append(count)
    full = predictor.latencies.quantile(len(x), 0.5)[-1]
    while time.perf_counter() - begin < seconds:
        deadline = full * rng.uniform(*SPAN)
        before, collections = _preempted(), collected[0]
        start = time.perf_counter()
        answer = ask(deadline)
        taken = time.perf_counter() - start
        pauses = _preempted() - before, collected[0] - collections
        slowdown = predictor._state.paces[len(x)].slowdown
        rows.append([start - begin, deadline, taken, answer.position, slowdown, *pauses, *full_run(predictor, x)])
    gc.callbacks.remove(count)
    names = ("at", "deadlines", "seconds", "positions", "slowdowns", "preempted", "collected")
    columns = np.array(rows).T
    return {**dict(zip(names, columns)), "full": columns[len(names) :].T}


def _preempted():
    """Returns how often the system gave this thread's processor to another thread."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def judge(found):
    """Returns which deadlines count, which were met, and which answers were as deep as a clairvoyant's."""
    count, width = len(found["deadlines"]), NEAREST // 2
    near = [found["full"][max(at - width, 0) : at + width] for at in range(count)]
    usual = np.median([rows if len(rows) == NEAREST else np.resize(rows, (NEAREST, rows.shape[1])) for rows in near], 1)
    possible = usual[:, 0] <= found["deadlines"]
    clairvoyant = (usual <= found["deadlines"][:, None]).sum(axis=1) - 1
    return possible, found["seconds"] <= found["deadlines"], found["positions"] >= clairvoyant


def summary(found):
    possible, met, deepest = judge(found)
    missed = possible & ~met
    preempted, collected = missed & (found["preempted"] > 0), missed & (found["collected"] > 0)
    late = 1e6 * (found["seconds"] - found["deadlines"])[missed & ~preempted & ~collected]
    misses = {"number": int(missed.sum()), "preempted": int(preempted.sum()), "collected": int(collected.sum())}
    if len(late):
        misses["others_late_us"] = {str(q): round(float(np.quantile(late, q)), 1) for q in (0.1, 0.5, 0.9)}
    shares = {"met": met[possible].mean(), "deepest": deepest[possible].mean()}
    return {"deadlines": int(possible.sum()), **shares, "misses": misses}


def by_second(found):
    _, met, _ = judge(found)
    seconds = found["at"].astype(int)
    every = [seconds == second for second in np.unique(seconds)]
    return {
        "slowdown": [round(float(np.median(found["slowdowns"][own])), 3) for own in every],
        "full_run_ms": [round(1e3 * float(np.median(found["full"][own, -1])), 3) for own in every],
        "met": [round(float(met[own].mean()), 3) for own in every],
    }


class Busy:
    """Busy processes, while it is used as a context manager."""

    def __init__(self, count):
        self._count, self._processes = count, []

    def __enter__(self):
        self._processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(self._count)]

    def __exit__(self, *_):
        for process in self._processes:
            process.kill()
            process.wait()


def slows(predictor, x, seconds, rng):
    half = [measure(predictor, x, seconds / 2, lambda deadline: predictor.predict(x, deadline=deadline), rng)]
    with Busy(2 * os.cpu_count()):
        half.append(measure(predictor, x, seconds / 2, lambda deadline: predictor.predict(x, deadline=deadline), rng))
    half[1]["at"] += np.ceil(half[0]["at"][-1])
    found = {name: np.concatenate([each[name] for each in half]) for name in half[0]}
    return {"before": summary(half[0]), "after": summary(half[1]), "pace": by_second(found)}


def main():
    made = parser(__doc__, seconds=20.0)
    made.add_argument("--engine", default="auto")
    made.add_argument("--num_threads", type=int, default=None)
    flags = made.parse_args()
    load, rng = os.getloadavg(), np.random.default_rng(SEED)
    x = rng.normal(size=(1, 32, 32, 3)).astype("float32")
    predictor = ak.Predictor(network(), x, engine=flags.engine, num_threads=flags.num_threads)
    predictor.prepare(x, budgets=True)
    costs = [cost.with_head for cost in predictor.costs]
    straight = in_turns({cost: lambda cost=cost: predictor.predict(x, budget=cost) for cost in costs}, 3.0)
    straight = np.array([np.median(straight[cost]) for cost in costs])

    def ours(deadline):
        return predictor.predict(x, deadline=deadline)

    def naive(deadline):
        return predictor.predict(x, budget=costs[max((straight <= deadline).sum() - 1, 0)])

    table = {
        "network": "ResANN(5, 16), 32x32",
        "engine": predictor.engine,
        "exits": predictor.exit_names,
        "full_run_ms": 1e3 * predictor.latencies.quantile(1, 0.5)[-1],
        "straight_ms": (1e3 * straight).tolist(),
        "load_before": load,
    }
    for name, busy in (("quiet", 0), ("beside_a_busy_process", 1)):
        with Busy(busy):
            table[name] = summary(measure(predictor, x, flags.seconds, ours, rng))
            found = summary(measure(predictor, x, flags.seconds, naive, rng))
            table[name].update(naive_met=found["met"], naive_deepest=found["deepest"])
    table["slows"] = slows(predictor, x, flags.seconds, rng)
    write("deadlines", flags, table)


if __name__ == "__main__":
    main()
