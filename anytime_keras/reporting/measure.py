"""Measures what a report shows. All results are plain numbers, `Curve`s or `Samples`."""

import dataclasses

import keras
import numpy as np

from anytime_keras import graph, runtime
from anytime_keras.evaluation import Curve, Monotonicity, Samples, evaluate
from anytime_keras.evaluation.evaluate import medians, models_by_exit
from anytime_keras.inference import calibration, early_exit, risk
from anytime_keras.inference.answers import as_logits
from anytime_keras.inference.monotone import METHODS, monotone
from anytime_keras.models import AnytimeModel

BUDGETS = 13  # of the curve of average cost against accuracy
SHARES = (0.25, 0.5, 0.75)  # of the last exit's cost, in the table of thresholds
RISKS = (0.005, 0.01, 0.02, 0.05)
FOR_TEMPERATURES = 0.2  # of the validation samples, so that thresholds are fitted on others
LEAST = 200  # samples; with fewer, temperatures would be too uncertain


def outputs(model, data, temperatures=None, name=None):
    """Evaluates a model in one pass. Returns a `Curve` and the outputs, shape `(exits, samples, classes)`."""
    names, forward, parts = list(graph.outputs_by_name(model)), runtime.compiled(model), []

    def recorded(x):
        found = runtime.finish(forward(x))
        values = [found[name] for name in names] if isinstance(found, dict) else keras.tree.flatten(found)
        parts.append(np.stack(values))
        return found

    curve = evaluate(model, data, name=name, forward=recorded, temperatures=temperatures)
    if curve.samples is None:
        raise ValueError(
            "A report needs exits that predict one class for each sample, and samples of equal weight. Received: model "
            f"'{model.name}', whose exits end in a sigmoid or whose data have sample weights."
        )
    logits = np.concatenate(parts, axis=1)
    if np.isnan(logits).any():
        raise ValueError(
            f"A report needs numbers at each exit. Received: NaN from model '{model.name}'. Check the inputs and the "
            "network's weights for NaN."
        )
    return curve, logits


def held_out(count, share):
    """Splits samples at random. Returns the indices of a `share` of them for validation, and of the others for test."""
    order = np.random.default_rng(0).permutation(count)
    split = round(share * len(order))
    if not 0 < split < len(order):
        raise ValueError(
            f"`validation` as a share must leave test and validation samples. Received: {share} of {count} samples."
        )
    return np.sort(order[:split]), np.sort(order[split:])


def restricted(curve, samples):
    """Returns a curve with the errors and losses of some of its samples."""
    losses = -np.log(np.maximum(samples.true, 1e-300)).mean(axis=1)
    points = [
        dataclasses.replace(point, error=float(1 - right), loss=float(loss))
        for point, right, loss in zip(curve, samples.correct.mean(axis=1), losses)
    ]
    return Curve(points, curve.name, {**curve.about, "images": len(samples.labels)}, samples)


def leak(thresholds, samples):
    """Returns the last exit's errors on validation and test samples if validation's is lower beyond chance, or None."""
    errors, test = thresholds.errors, ~samples.correct[-1]
    deviation = np.sqrt(errors.var() / len(errors) + test.var() / len(test))
    found = float(errors.mean()), float(test.mean())
    # 4 standard errors: validation samples may have been trained on, or test samples are harder
    return found if found[1] - found[0] > 4 * deviation else None


class Thresholds:
    """Validation outputs, on which temperatures and thresholds are fitted; the arguments are those of `Samples.of`.

    Attributes:
        temperatures: as given, or fitted on a fifth of the samples; empty if these are fewer than `LEAST`.
        source: str, the origin of the temperatures.
        count: int, number of samples for thresholds.
        confidences, losses: arrays of shape `(exits, samples)`, on the samples for thresholds.
        errors: float array of shape `(samples,)`, whether the last exit is wrong on each validation sample.
    """

    def __init__(self, temperatures, names, logits, labels):
        self.temperatures = dict(temperatures)
        self.errors = (logits[-1].argmax(axis=-1) != labels).astype(float)
        kept = np.random.default_rng(0).permutation(len(labels))
        split = round(FOR_TEMPERATURES * len(labels))
        self.source = "those of the model"
        if not self.temperatures and split < LEAST:
            self.source = f"none, because {len(labels)} validation images are too few to fit them"
        elif not self.temperatures:
            first, kept = kept[:split], kept[split:]
            self.source = f"fitted on {split} validation images that are not used for thresholds"
            self.temperatures = {
                name: calibration.fit_temperature(own[first], labels[first]) for name, own in zip(names, logits)
            }
        samples = Samples.of(names, logits[:, kept], labels[kept], self.temperatures)
        self.count = len(kept)
        self.confidences, self.losses = samples.best_confidences, (~samples.correct).astype(float)


def early_exits(samples, macs, confidences, shares=None):
    """Fits a threshold for each average cost on validation `confidences`, and applies it to `samples`.

    `macs` is the cost of each exit; `confidences` has shape `(exits, samples)`. `shares` are fractions of the last
    exit's cost; None spaces budgets evenly on a logarithmic scale.
    """
    budgets = np.geomspace(macs[0], macs[-1], BUDGETS) if shares is None else np.asarray(shares) * macs[-1]
    budgets[-1] = macs[-1] if shares is None else budgets[-1]
    found = []
    for budget in budgets[budgets >= macs[0]]:
        threshold = early_exit.fit_threshold(confidences, macs, budget)
        found.append({"budget": float(budget), "threshold": threshold, **applied(samples, macs, threshold)})
    return found


def applied(samples, macs, threshold):
    """Returns the average cost and the accuracy of early exit on test samples."""
    positions = early_exit.exit_positions(samples.best_confidences, threshold)
    right = samples.correct[positions, np.arange(len(positions))]
    return {"macs": float(np.asarray(macs, float)[positions].mean()), "accuracy": float(right.mean())}


def promises(samples, macs, thresholds, confidence):
    """Fits a threshold for each tolerated risk on validation samples and applies it to test samples."""
    found = []
    for tolerated in RISKS:
        needed = risk.least_samples(tolerated, confidence)
        if needed > thresholds.count:
            found.append({"risk": tolerated, "needed": needed})
            continue
        threshold = risk.safe_threshold(thresholds.confidences, thresholds.losses, tolerated, confidence)
        test = applied(samples, macs, threshold)
        excess = float(samples.correct[-1].mean()) - test["accuracy"]
        found.append({"risk": tolerated, "threshold": threshold, **test, "excess": excess})
    return found


def combined(logits, samples, temperatures):
    """Applies both methods of `monotone` to outputs, and returns the `Monotonicity` of each and as trained."""
    names, given = samples.exit_names, as_logits(logits)
    if given is not logits:  # of probabilities
        given = given - given.mean(axis=-1, keepdims=True)
    found = {"as trained": Monotonicity(samples)}
    for method in METHODS:
        inputs = {name: keras.Input((logits.shape[-1],), name=name.replace("/", "_")) for name in names}
        network = AnytimeModel(list(inputs.values()), {name: keras.layers.Identity()(inputs[name]) for name in names})
        network.inference = {"temperatures": temperatures}
        answers = monotone(network, method).predict(list(given), batch_size=1024, verbose=0)
        found[method] = Monotonicity(Samples.of(names, np.stack(list(answers.values())), samples.labels))
    return found


def latencies(model, smaller, example, seconds=2.0):
    """Measures one sample's time to the exits of a network and of smaller ones, in turns.

    Returns three groups of seconds: a dict by exit; a dict for all exits at once and the last exit of `monotone`; and a
    list with a dict by exit for each smaller network.
    """
    last = list(graph.outputs_by_name(model))[-1]
    models = {("", name): each for name, each in models_by_exit(model).items()}
    models["whole", "all exits"] = model
    models.update((("whole", method), models_by_exit(monotone(model, method))[last]) for method in METHODS)
    for number, network in enumerate(smaller.values()):
        models.update(((number, name), each) for name, each in models_by_exit(network).items())
    times = medians(models, example, seconds=seconds)

    def group(first):
        return {name: value for (owner, name), value in times.items() if owner == first}

    return group(""), group("whole"), [group(number) for number in range(len(smaller))]


def compared(curve, others):
    """Compares each exit of smaller networks with the latest exit that is as fast, sample by sample.

    If no exit is as fast, the comparison is with the fastest that is as accurate, if there is one. All curves need
    latencies, and samples of the same data.
    """
    found = []
    for name, other in others.items():
        for row, point in enumerate(other):
            label = name if len(other) == 1 else f"{name}, {point.exit}"
            entry = {"name": label, "accuracy": 1 - point.error, "macs": point.with_all_heads, "seconds": point.latency}
            fast = [position for position, own in enumerate(curve) if own.latency <= point.latency]
            if fast:
                best = max(fast, key=lambda position: (curve[position].latency, position))
                difference = other.samples.correct[row].astype(float) - curve.samples.correct[best]
                entry["exit"], entry["exit_accuracy"] = curve[best].exit, 1 - curve[best].error
                entry["exit_seconds"], entry["gain"] = curve[best].latency, float(difference.mean())
                entry["standard_error"] = float(difference.std() / np.sqrt(len(difference)))
            elif good := [own for own in curve if own.error <= point.error]:
                fastest = min(good, key=lambda own: own.latency)
                entry["exit_as_accurate"], entry["exit_seconds"] = fastest.exit, fastest.latency
            found.append(entry)
    return found
