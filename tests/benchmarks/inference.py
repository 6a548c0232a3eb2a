"""Measures the overhead of interruptible inference, and writes `results/inference_<backend>.json`.

    python -m tests.benchmarks.inference                       # TensorFlow
    KERAS_BACKEND=jax python -m tests.benchmarks.inference     # JAX
    python -m tests.benchmarks.inference --seconds 2 --out /tmp/quick.json

Takes about 20 x `--seconds` plus compilation (some 9 minutes in total by default). Compared runs alternate and medians
are compared, so that a slowdown of the machine affects both. The machine's load before and after is recorded too. The
network is a ResANN with random weights, because its predictions do not matter here.

Contents of the file, with targets:
    staged_over_whole      a run with an answer at each of 8 exits, over one graph with the same 8 exits; at most 1.05
    direct_over_plain      a run straight to an exit, over a plain model with this exit only; at most 1.03
    first_answer           seconds to the first answer over those of the whole run; `macs` is the same ratio of costs
    deadlines              `met`: fraction of random deadlines that an answer met, among those that the first exit can
                           meet (not shorter than any of 500 runs straight to it); at least 0.999. `deepest`: fraction
                           of answers at least as deep as the deepest exit whose median time fits, run straight; at
                           least 0.95. `straight_to_the_deepest_met`: fraction met when always running straight to that
                           exit, which shows how steady the machine is. Measured alone and beside a second busy
                           process, for 1 image and for 32.
    early_exit             speed-up over the last exit for all, over the speed-up in MACs; at least 0.8
"""

import os
import subprocess
import sys
import time

import keras
import numpy as np

import anytime_keras as ak
from anytime_keras import runtime
from anytime_keras.inference import early_exit, engines
from anytime_keras.inference.answers import probabilities
from tests.benchmarks.measuring import in_turns, parser, ratio, write

SEED = 0


class Recorded(engines.Run):
    """A complete run that records the times of its answers."""

    def __init__(self, count, first, last):
        super().__init__(first, last, engines.ALWAYS, np.zeros(count))
        self.times, self._begin = {}, time.perf_counter()

    def emit(self, position, logits):
        self.times[position] = time.perf_counter() - self._begin


def stages_table(predictor, model, batch, seconds):
    """Measures the ratios that involve no deadlines."""
    names, engine = predictor.exit_names, predictor._state.engine
    count, x = len(names), images(model, batch)
    inputs = predictor._state.stages.start(x)
    one_graph = runtime.compiled(keras.Model(model.inputs[0], {name: model.output[name] for name in names}))
    plain = [runtime.compiled(keras.Model(model.inputs[0], model.output[name])) for name in names]
    firsts, wholes = [], []

    def staged():
        run = Recorded(count, 0, count - 1)
        engine.run(inputs, run)
        firsts.append(min(run.times.values()))
        wholes.append(max(run.times.values()))

    whole = in_turns({"staged": staged, "whole": lambda: runtime.finish(one_graph(inputs[0]))}, 2 * seconds)
    functions = {}
    for position, name in enumerate(names):
        functions[f"direct {name}"] = lambda at=position: engine.run(inputs, Recorded(count, at, at))
        functions[f"plain {name}"] = lambda at=position: runtime.finish(plain[at](inputs[0]))
    taken = in_turns(functions, 4 * seconds)
    direct = {name: ratio(taken, f"direct {name}", f"plain {name}") for name in names}
    macs = [cost.with_all_heads for cost in predictor.costs]
    return {
        "staged_over_whole": ratio(whole, "staged", "whole"),
        "direct_over_plain": {"median_ratio": float(np.median([row["ratio"] for row in direct.values()])), **direct},
        "first_answer": {"seconds": np.median(firsts) / np.median(wholes), "macs": macs[0] / macs[-1]},
    }


def deadlines_table(predictor, model, batch, seconds, rng):
    """Predicts with random deadlines, alternating with runs straight to each exit."""
    x, budgets = images(model, batch), [cost.with_head for cost in predictor.costs]
    for budget in budgets:
        predictor.predict(x, budget=budget)

    def straight_to(position):
        start = time.perf_counter()
        predictor.predict(x, budget=budgets[position])
        return time.perf_counter() - start

    # It is not certain that the first exit can meet shorter deadlines.
    shortest = max(straight_to(0) for _ in range(500))
    longest = shortest + 1.3 * predictor.latencies.quantile(batch, 0.5)[-1]
    direct, asked = [[] for _ in budgets], []
    begin, trial = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds or trial < 20:
        direct[trial % len(budgets)].append(straight_to(trial % len(budgets)))
        deadline = rng.uniform(shortest, longest)
        start = time.perf_counter()
        answer = predictor.predict(x, deadline=deadline)
        asked.append((deadline, time.perf_counter() - start, answer.position))
        trial += 1
    deadline, took, position = np.array(asked).T
    medians = np.maximum.accumulate([np.median(times) for times in direct])
    deepest = np.searchsorted(medians, deadline, side="right") - 1
    straight = [np.mean(np.array(direct[place]) <= limit) for place, limit in zip(deepest, deadline)]
    return {
        "met": float((took <= deadline).mean()),
        "deepest": float((position >= deepest).mean()),
        "deeper": float((position > deepest).mean()),
        "straight_to_the_deepest_met": float(np.mean(straight)),
        "deadlines": trial,
        "from_seconds": shortest,
        "to_seconds": longest,
        "missed_by_seconds": sorted((took - deadline)[took > deadline].tolist()),
    }


def early_exit_table(predictor, model, seconds, samples=512, batch=256):
    """Returns thresholds with which a fifth of the remaining images leaves at each exit."""
    x, engine, last = images(model, samples), predictor._state.engine, len(predictor.exit_names) - 1
    parts = [predictor._state.stages.start(x[at : at + batch]) for at in range(0, samples, batch)]
    logits = [early_exit.exit_outputs(engine, part, predictor._worker.lock) for part in parts]
    sure = probabilities(np.concatenate(logits, axis=1)).max(axis=-1)
    left, thresholds = np.ones(samples, bool), []
    for row in sure[:-1]:
        thresholds.append(float(np.quantile(row[left], 0.8)))
        left &= row < thresholds[-1]

    def full():
        for part in parts:
            engine.run(part, Recorded(last + 1, last, last))

    def early():
        predictor.predict_batch(x, confidence=thresholds, batch_size=batch)

    taken = in_turns({"full": full, "early": early}, 3 * seconds, least=3)
    spent = predictor.predict_batch(x, confidence=thresholds, batch_size=batch).average_macs
    speed_up = np.median(taken["full"]) / np.median(taken["early"])
    in_macs = predictor.costs[-1].with_head / spent
    return {"ratio": speed_up / in_macs, "speed_up": speed_up, "speed_up_in_macs": in_macs}


def network(num_units, channels):
    """Returns a ResANN with random weights but logits of size 1, so that confidences differ as after training."""
    model = ak.models.build("resann", num_units=num_units, channels=channels, input_shape=(32, 32, 3), num_classes=10)
    for name, logits in model.predict(images(model, 64), verbose=0).items():
        kernel = model.get_layer(name).kernel
        kernel.assign(kernel / logits.std())
    return model


def images(model, batch):
    return np.random.default_rng(SEED).normal(size=(batch, *model.inputs[0].shape[1:])).astype("float32")


def main():
    made = parser(__doc__, seconds=20.0)
    made.add_argument("--num_units", type=int, default=9)
    made.add_argument("--channels", type=int, default=16)
    flags = made.parse_args()
    load = os.getloadavg()
    keras.utils.set_random_seed(SEED)
    rng = np.random.default_rng(SEED)
    model = network(flags.num_units, flags.channels)
    predictor = ak.Predictor(model, images(model, 1))
    size = "" if flags.channels == 16 else f"{flags.channels}channels_"
    table = {
        "network": f"ResANN({flags.num_units}, {flags.channels}), 32x32",
        "exits": predictor.exit_names,
        "seed": SEED,
        "load_before": load,
    }
    for batch in (1, 32):
        table[f"batch_{batch}"] = stages_table(predictor, model, batch, flags.seconds)
    table["early_exit"] = early_exit_table(predictor, model, flags.seconds)
    predictor.prepare(images(model, 32))
    table["deadlines"] = {"alone": {}, "beside_a_busy_process": {}}
    for beside, of_batches in table["deadlines"].items():
        busy = [sys.executable, "-c", "while True: pass" if beside != "alone" else ""]
        process = subprocess.Popen(busy)
        try:
            for batch in (1, 32):
                of_batches[f"batch_{batch}"] = deadlines_table(predictor, model, batch, 2 * flags.seconds, rng)
        finally:
            process.kill()
            process.wait()
    write(f"inference_{size}{keras.backend.backend()}", flags, table)


if __name__ == "__main__":
    main()
