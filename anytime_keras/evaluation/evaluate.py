"""`evaluate` measures a network on data and returns a curve; `latencies` measures the time to each exit."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from anytime_keras import graph, runtime
from anytime_keras._checks import check_int
from anytime_keras.cost import exit_costs
from anytime_keras.evaluation.curve import Curve, CurvePoint
from anytime_keras.evaluation.samples import SamplesBuilder, class_numbers, log_probabilities
from anytime_keras.models.anytime_model import by_exit


def evaluate(
    model: Any,
    data: Any,
    layers: str = "all",
    latency: bool = False,
    name: str | None = None,
    batch_size: int = 256,
    forward: Callable | None = None,
    temperatures: dict[str, float] | None = None,
) -> Curve:
    """Measures a classifier's error, loss and cost at each exit.

    The model does not need to be compiled and is not changed. All exits are computed in one forward pass. For exits
    that end in a sigmoid (multi-label or binary classification), the error is the share of wrong labels at a threshold
    of 0.5 and the loss is the binary cross entropy, both averaged over labels.

    A `Predictor` is evaluated like a model: its exits in use, on its engine and in its dtype, which the curve's
    `about` records. So the errors include what conversion and quantization change.

    Args:
        model: functional Keras model whose outputs are the exits: logits or probabilities, `(batch, classes)`; or a
            `Predictor`.
        data: batches of (x, y) or (x, y, sample_weight), such as a `tf.data.Dataset` or `keras.utils.PyDataset`, or a
            tuple of such arrays. Labels are ints of shape `(batch,)` or one-hot vectors; for sigmoids, 0 or 1 for each
            output. Sample weights are an array for all exits, a dict by exit name, or a list in the order of the exits;
            errors and losses are weighted means.
        layers: `"all"` or `"conv"`, the layers whose MACs are counted; see `anytime_keras.cost.exit_costs`. For a
            predictor `"all"`.
        latency: bool, whether to also measure the latency of each exit, with a batch of one image. For a predictor, the
            medians of its latency table.
        name: str, the curve's name; defaults to the model's.
        batch_size: int, used for arrays only.
        forward: the model's forward pass compiled by `anytime_keras.runtime.compiled`, to avoid compiling it again.
        temperatures: dict from exit name to temperature, for `Curve.calibration`; None uses those that
            `Predictor.calibrate` stored with the model. Errors and losses are those of the outputs as they are.

    Returns:
        A `Curve`. Unless samples are weighted or exits end in a sigmoid, it also has `samples`, from which
        `Curve.calibration` and `Curve.monotonicity` are computed.

    Raises:
        ValueError: if there is no data, or the labels do not match the outputs, as in a regression.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> curve = ak.evaluate(model, ak.data.load("digits").test)
    >>> len(curve), 0 <= curve[-1].error <= 1
    (3, True)
    """
    check_int("batch_size", batch_size)
    subject = _Network(model, layers, forward) if graph.is_functional(model) else _Predicted(model, layers)
    names = [cost.exit for cost in subject.costs]
    sums = {exit_name: np.zeros(3) for exit_name in names}  # of weights, errors and losses
    samples = SamplesBuilder(names, subject.temperatures if temperatures is None else temperatures)
    example, count = None, 0
    for x, y, sample_weight in weighted_batches(data, batch_size):
        example = keras.tree.map_structure(lambda value: value[:1], x) if example is None else example
        outputs = subject.outputs(x)
        count += len(outputs[0])
        weights_by_exit = dict.fromkeys(names, sample_weight)
        if isinstance(sample_weight, (dict, list, tuple)):
            weights_by_exit = by_exit("sample_weight", sample_weight, names)
        for exit_name, output, sigmoid in zip(names, outputs, subject.sigmoid):
            if isinstance(y, dict) and exit_name not in y:
                raise ValueError(
                    f"A dict of labels must have an entry for each exit. Received: {list(y)}, without '{exit_name}'."
                )
            labels = y[exit_name] if isinstance(y, dict) else y
            sums[exit_name] += _sums(output, labels, weights_by_exit.get(exit_name), sigmoid, exit_name)
        if not (isinstance(y, dict) or sample_weight is not None or any(subject.sigmoid)):
            samples.add(outputs, y)
    if example is None:
        raise ValueError("`data` must contain at least one batch. Received: none.")
    for exit_name, (weight, *_) in sums.items():
        if not weight:
            raise ValueError(f"Sample weights must not all be 0. Received: only 0 for '{exit_name}'.")
    seconds = subject.seconds(example) if latency else {}
    points = []
    for cost, (weight, wrong, total) in zip(subject.costs, sums.values()):
        error, loss = float(wrong / weight), float(total / weight)
        points.append(CurvePoint(**dataclasses.asdict(cost), error=error, loss=loss, latency=seconds.get(cost.exit)))
    about = {"images": count, "macs": layers, "machine": runtime.machine(), **subject.about}
    return Curve(points, name or subject.name, about, samples.finish(count))


class _Network:
    def __init__(self, model, layers, forward):
        exits = graph.outputs_by_name(model)
        self.model, self.name, self.about, self.costs = model, model.name, {}, exit_costs(model, layers)
        self.sigmoid = [graph.ends_in_sigmoid(exits[cost.exit]) for cost in self.costs]
        self.temperatures = (getattr(model, "inference", None) or {}).get("temperatures", {})
        self._forward = runtime.compiled(model) if forward is None else forward

    def outputs(self, x):
        """Returns the outputs of all exits in order."""
        outputs = runtime.finish(self._forward(x))
        if isinstance(outputs, dict):
            return [outputs[cost.exit] for cost in self.costs]
        return outputs if isinstance(outputs, (list, tuple)) else [outputs]

    def seconds(self, example):
        """Returns a dict from exit name to latency."""
        return latencies(self.model, example)


class _Predicted:
    def __init__(self, predictor, layers):
        if not hasattr(predictor, "predict_exits"):  # rooms below this one are not imported
            raise ValueError(
                "`model` must be a functional Keras model whose outputs are its exits, or a `Predictor`. "
                f"Received: {type(predictor).__name__}."
            )
        if layers != "all":
            raise ValueError(f"`layers` must be 'all' for a predictor. Received: {layers!r}. Evaluate its model.")
        self._predictor, self.name, self.costs = predictor, predictor.name, predictor.costs
        self.sigmoid, self.about = predictor.sigmoid, {"engine": predictor.engine, "dtype": predictor.dtype}
        self.temperatures = dict(zip(predictor.exit_names, predictor.temperatures))

    def outputs(self, x):
        return list(self._predictor.predict_exits(x).values())

    def seconds(self, example):
        table = self._predictor.latencies
        if 1 not in table.direct:
            raise ValueError(
                "`latency=True` needs a predictor that is prepared for a batch of one. Received: prepared batch sizes "
                f"{sorted(table.direct)}. Call `predictor.prepare(image)` with a batch of one."
            )
        return dict(zip(self._predictor.exit_names, table.quantile(1, 0.5)))


def batches(data, batch_size=256):
    """Yields the batches (x, y) of data for `evaluate`."""
    for x, y, _ in weighted_batches(data, batch_size):
        yield x, y


def weighted_batches(data, batch_size=256):
    """Yields the batches (x, y, sample weights or None) of data for `evaluate`."""
    expected = "`data` must be batches of (x, y) or (x, y, sample_weight), or such a tuple of arrays. Received: "
    listed = isinstance(data, (tuple, list)) and bool(data) and all(isinstance(part, (tuple, list)) for part in data)
    if isinstance(data, (tuple, list)) and not listed:
        if len(data) != 2 and not (len(data) == 3 and isinstance(data, tuple)):
            raise ValueError(f"{expected}{len(data)} elements.")
        x, y, sample_weight = (*data, None)[:3]
        count = len(keras.tree.flatten(y)[0])
        sizes = {len(array) for array in keras.tree.flatten((x, y, sample_weight)) if array is not None}
        if len(sizes) > 1:
            raise ValueError(f"x, y and sample weights must have the same length. Received: lengths {sorted(sizes)}.")
        for start in range(0, count, batch_size):
            yield keras.tree.map_structure(
                lambda array: None if array is None else array[start : start + batch_size], (x, y, sample_weight)
            )
        return
    if isinstance(data, keras.utils.PyDataset):
        data = map(data.__getitem__, range(data.num_batches))
    if not hasattr(data, "__iter__"):
        raise ValueError(f"{expected}{type(data).__name__}.")
    for batch in data:
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise ValueError(f"{expected}a batch of type {type(batch).__name__}.")
        yield (*batch, None)[:3]


def _sums(output, labels, weights, sigmoid, name):
    """Returns the sums of a batch's sample weights, and of an exit's errors and losses weighted by them."""
    output, labels = np.asarray(output, "float64"), np.asarray(keras.ops.convert_to_numpy(labels))
    weights = np.ones(len(output)) if weights is None else _checked(weights, len(output), name)
    wrong, losses = (_binary if sigmoid else _of_classes)(output, labels, name)
    return weights.sum(), (weights * wrong).sum(), (weights * losses).sum()


def _checked(weights, count, name):
    weights = np.asarray(keras.ops.convert_to_numpy(weights), "float64")
    flat = weights.reshape(-1)
    if flat.shape != (count,) or not (flat >= 0).all() or not np.isfinite(flat).all():
        raise ValueError(
            f"Sample weights must be one finite number of 0 or more for each of {count} samples. Received: shape "
            f"{weights.shape} for '{name}', values from {weights.min()} to {weights.max()}."
        )
    return flat


def _of_classes(output, labels, name):
    """Returns whether each sample's likeliest class is wrong, and its cross entropy in nats."""
    labels = class_numbers(labels, output.shape, name)
    losses = -log_probabilities(output)[np.arange(len(labels)), labels]
    return output.argmax(axis=1) != labels, losses


def _binary(output, labels, name):
    """Returns each sample's share of wrong labels at a threshold of 0.5 and its mean binary cross entropy in nats."""
    if labels.size != output.size or not ((labels == 0) | (labels == 1)).all():
        raise ValueError(
            f"Labels of an exit that ends in a sigmoid must be 0 or 1 for each of its outputs, shape {output.shape}. "
            f"Received: shape {labels.shape}, values from {labels.min()} to {labels.max()}, for '{name}'."
        )
    output, labels = output.reshape(len(output), -1), labels.reshape(len(output), -1).astype(bool)
    losses = -np.log(np.maximum(np.where(labels, output, 1 - output), 1e-12))
    return ((output > 0.5) != labels).mean(axis=1), losses.mean(axis=1)


def latencies(model: keras.Model, example: Any, repeats: int = 30, seconds: float = 2.0) -> dict[str, float]:
    """Measures the median time from the input to each exit's answer.

    Each exit is one compiled graph without the earlier heads. Exits are measured in turns, so that a temporary slowdown
    of the machine affects all of them.

    Args:
        model: functional Keras model; its outputs are the exits.
        example: input with the batch size to measure, shape `(batch, ...)`, or a list of inputs.
        repeats: int, the minimum number of runs of each exit.
        seconds: float, the minimum duration over all exits, at most 60.

    Returns:
        A dict from each exit's name to its median latency in seconds.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> list(ak.evaluation.latencies(model, keras.ops.zeros((1, 8, 8, 1)), repeats=3, seconds=0))
    ['exit_1', 'exit_2', 'exit_3']
    """
    return medians(models_by_exit(model), example, repeats, seconds)


def models_by_exit(model):
    """Returns a dict from each exit's name to a model of this exit, which shares the layers."""
    model = graph.opened(model)
    return {name: keras.Model(model.input, tensor) for name, tensor in graph.outputs_by_name(model).items()}


def medians(models: dict, example: Any, repeats: int = 30, seconds: float = 2.0) -> dict:
    """Measures the median time of several models in turns. Returns a dict from the key of each model to seconds."""
    example = keras.tree.map_structure(keras.ops.convert_to_tensor, example)
    runs = {key: runtime.compiled(model) for key, model in models.items()}
    times: dict[Any, list[float]] = {key: [] for key in runs}
    for run in runs.values():
        runtime.finish(run(example))  # compiles
    start, rounds = time.perf_counter(), 0
    while rounds < repeats or time.perf_counter() - start < min(seconds, 60.0):
        for key, run in runs.items():
            begin = time.perf_counter()
            runtime.finish(run(example))
            times[key].append(time.perf_counter() - begin)
        rounds += 1
    return {key: float(np.median(measured)) for key, measured in times.items()}
