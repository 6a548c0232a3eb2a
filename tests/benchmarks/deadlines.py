"""Measures how well engines meet deadlines, beside a naive bet, and writes `results/deadlines.json`.

    python -m tests.benchmarks.deadlines
    python -m tests.benchmarks.deadlines --engines=litert --num_threads=1 --seconds=2 --out=/tmp/quick.json

The network is a ResANN(5, 16) for images of 32 x 32 with random weights and 8 exits. The engines take turns of about a
second, first on a quiet machine, then beside one busy process, so that disturbances affect all of them alike. Deadlines
are drawn uniformly from 0.2 to 2 times the median seconds of a run through all exits on the fastest engine. The run
takes about 5 x `--seconds` for each engine, plus the conversion.

Contents of the file:
    auto               the engine that `engine="auto"` chooses on this machine
    engines            by engine, for a quiet machine, beside one busy process, and with two busy processes per core
                       from the middle of the measurement on (`slows`):
      met              fraction of deadlines met, among those that the first exit meets in the median; at least 0.999 on
                       a quiet machine and 0.99 beside one busy process
      deepest          fraction of the answers from the deepest exit that a clairvoyant would have reached, or a later
                       one: the last exit whose time, the median of the ten full runs nearest in time, is within the
                       deadline; at least 0.9
      depth            mean over all deadlines of the exit that answered in time, from 1 / exits for the first to 1 for
                       the last; 0 for a late answer. It compares engines, whose times differ
      naive_met        fraction of deadlines met by the naive bet: a run straight to the last exit whose median seconds,
                       run like that on a quiet machine, are within the deadline
      naive_deepest, naive_depth    `deepest` and `depth` of the naive bet
      misses           why deadlines that counted were missed: their number; `preempted`, those in which the system gave
                       the processor to another thread; `collected`, those in which Python collected garbage; and
                       quantiles of how late the others were, in microseconds
      pace             for `slows`: by second, the slowdown that the predictor assumed, and the fraction met
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
BLOCK_SECONDS = 1.0  # of each engine's turn


def network():
    keras.utils.set_random_seed(SEED)
    return ak.models.build("resann", num_units=5, channels=16, input_shape=(32, 32, 3), num_classes=10)


def full_run(predictor, x):
    """Returns the seconds until each exit's answer, had the call returned then."""
    seconds, begin = [], time.perf_counter()
    predictor.predict(x, until=lambda answer: seconds.append(answer.seconds))
    back = time.perf_counter() - begin - seconds[-1]
    return [own + back for own in seconds]


def measure(predictor, x, seconds, ask, span, rng):
    """Asks for answers by random deadlines, in turns with full runs.

    Args:
        ask: function of a deadline that returns an `Answer`.
        span: pair of floats, the shortest and the longest deadline in seconds.

    Returns:
        A dict of arrays with an item per deadline: `"at"`, seconds since the beginning; `"deadlines"`; `"seconds"`, the
        caller's; `"positions"`; `"slowdowns"`; `"preempted"` and `"collected"`, how often each happened meanwhile; and
        `"full"`, shape `(deadlines, exits)`, from the full runs.
    """
    rows, begin, collected = [], time.perf_counter(), [0]

    def count(phase, _):
        collected[0] += phase == "start"

    gc.callbacks.append(count)
    while time.perf_counter() - begin < seconds:
        deadline = rng.uniform(*span)
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
    depth = met * (1 + found["positions"]) / found["full"].shape[1]
    shares = {"met": met[possible].mean(), "deepest": deepest[possible].mean(), "depth": depth.mean()}
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


class Subject:
    """An engine's predictor, and the two ways to ask it for an answer by a deadline."""

    def __init__(self, network, x, engine, num_threads):
        self.x, self.predictor = x, ak.Predictor(network, x, engine=engine, num_threads=num_threads)
        self.predictor.prepare(x, budgets=True)
        self._costs = costs = [cost.with_head for cost in self.predictor.costs]
        taken = in_turns({cost: lambda cost=cost: self.predictor.predict(x, budget=cost) for cost in costs}, 3.0)
        self.straight = np.array([np.median(taken[cost]) for cost in costs])
        self.full = float(np.median([full_run(self.predictor, x)[-1] for _ in range(100)]))  # the cache may be older

    def ours(self, deadline):
        return self.predictor.predict(self.x, deadline=deadline)

    def naive(self, deadline):
        last = max((self.straight <= deadline).sum() - 1, 0)
        return self.predictor.predict(self.x, budget=self._costs[last])

    def measure(self, how, seconds, span, rng):
        return measure(self.predictor, self.x, seconds, getattr(self, how), span, rng)


def in_blocks(subjects, seconds, span, rng):
    """Measures all engines in turns; returns a dict from engine to its summary."""
    order = [(name, how) for name in subjects for how in ("ours", "naive")]
    found = {each: [] for each in order}
    for _ in range(max(round(seconds / BLOCK_SECONDS), 1)):
        for name, how in order:
            found[name, how].append(subjects[name].measure(how, min(seconds, BLOCK_SECONDS), span, rng))
        order.append(order.pop(0))  # so that no engine always follows the same one
    table = {}
    for name in subjects:
        naive = summary(joined(found[name, "naive"]))
        table[name] = summary(joined(found[name, "ours"]))
        table[name].update({f"naive_{key}": naive[key] for key in ("met", "deepest", "depth")})
    return table


def joined(blocks):
    """Joins results of `measure`, each of which begins at the next full second."""
    for before, after in zip(blocks, blocks[1:]):
        after["at"] += np.ceil(before["at"][-1])
    return {name: np.concatenate([each[name] for each in blocks]) for name in blocks[0]}


def slows(subject, seconds, span, rng):
    """Measures one engine while the machine becomes busy in the middle."""
    before = subject.measure("ours", seconds / 2, span, rng)
    with Busy(2 * os.cpu_count()):
        after = subject.measure("ours", seconds / 2, span, rng)
    return {"before": summary(before), "after": summary(after), "pace": by_second(joined([before, after]))}


def main():
    arguments = parser(__doc__, seconds=20.0)
    arguments.add_argument("--engines", default="litert,openvino", help="names for `ak.Predictor`, separated by commas")
    arguments.add_argument("--num_threads", type=int, default=None)
    flags = arguments.parse_args()
    load, rng = os.getloadavg(), np.random.default_rng(SEED)
    x, model = rng.normal(size=(1, 32, 32, 3)).astype("float32"), network()
    auto = ak.Predictor(model, x).engine
    subjects = {name: Subject(model, x, name, flags.num_threads) for name in flags.engines.split(",")}
    span = np.array(SPAN) * min(subject.full for subject in subjects.values())
    found = {
        name: {
            "num_threads": getattr(subject.predictor._state.engine, "num_threads", None),
            "full_run_ms": 1e3 * subject.full,
            "straight_ms": (1e3 * subject.straight).tolist(),
        }
        for name, subject in subjects.items()
    }
    for phase, busy in (("quiet", 0), ("beside_a_busy_process", 1)):
        with Busy(busy):
            for name, own in in_blocks(subjects, flags.seconds, span, rng).items():
                found[name][phase] = own
    for name, subject in subjects.items():
        found[name]["slows"] = slows(subject, flags.seconds, span, rng)
    table = {"network": "ResANN(5, 16), 32x32", "exits": subject.predictor.exit_names, "auto": auto}
    table.update(deadlines_ms=(1e3 * span).tolist(), load_before=load, engines=found)
    write("deadlines", flags, table)


if __name__ == "__main__":
    main()
