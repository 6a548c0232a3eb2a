"""`evaluate` measures a network on data and returns a curve."""

import keras
import numpy as np

from anytime_keras import graph, runtime
from anytime_keras.cost import exit_costs
from anytime_keras.evaluation.curve import Curve, CurvePoint
from anytime_keras.evaluation.latency import latencies


def evaluate(model, data, layers="all", latency=False, name=None, batch_size=256, forward=None):
    """Measures a classifier's error, loss and cost at each exit.

    The model does not need to be compiled and is not changed. All exits are computed in one forward pass.

    Args:
        model: functional Keras model whose outputs are the exits: logits or probabilities, `(batch, classes)`.
        data: batches of (x, y), such as a `tf.data.Dataset` or `keras.utils.PyDataset`, or a pair of arrays `(x, y)`.
            Labels are ints of shape `(batch,)` or one-hot vectors.
        layers: `"all"` or `"conv"`, the layers whose MACs are counted; see `anytime_keras.cost.exit_costs`.
        latency: bool, whether to also measure the latency of each exit, with a batch of one image.
        name: str, the curve's name; defaults to the model's.
        batch_size: int, used for arrays only.
        forward: the model's forward pass compiled by `anytime_keras.runtime.compiled`, to avoid compiling it again.

    Returns:
        A `Curve`.

    Raises:
        ValueError: if there is no data, or the labels do not match the outputs.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> curve = ak.evaluate(model, ak.data.load("digits").test)
    >>> len(curve), 0 <= curve[-1].error <= 1
    (3, True)
    """
    if not graph.is_functional(model):
        raise ValueError(
            f"`model` must be a functional Keras model whose outputs are its exits. Received: {type(model).__name__}."
        )
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"`batch_size` must be a positive int. Received: batch_size={batch_size!r}.")
    costs = exit_costs(model, layers)
    names = [cost.exit for cost in costs]
    tallies = {exit_name: _Tally(exit_name) for exit_name in names}
    forward = runtime.compiled(model) if forward is None else forward
    example = None
    for x, y in batches(data, batch_size):
        example = keras.tree.map_structure(lambda value: value[:1], x) if example is None else example
        outputs = runtime.finish(forward(x))
        for exit_name, output in zip(names, _in_order(outputs, names)):
            if isinstance(y, dict) and exit_name not in y:
                raise ValueError(
                    f"A dict of labels must have an entry for each exit. Received: {list(y)}, without '{exit_name}'."
                )
            tallies[exit_name].add(output, y[exit_name] if isinstance(y, dict) else y)
    if example is None:
        raise ValueError("`data` must contain at least one batch. Received: none.")
    seconds = latencies(model, example) if latency else {}
    points = [
        CurvePoint(
            exit=cost.exit,
            error=tallies[cost.exit].error,
            loss=tallies[cost.exit].loss,
            backbone=cost.backbone,
            with_head=cost.with_head,
            with_all_heads=cost.with_all_heads,
            params=cost.params,
            latency=seconds.get(cost.exit),
        )
        for cost in costs
    ]
    about = {"images": tallies[names[0]].count, "macs": layers, "machine": runtime.machine()}
    return Curve(points, name or model.name, about)


def _in_order(outputs, names):
    if isinstance(outputs, dict):
        return [outputs[name] for name in names]
    return outputs if isinstance(outputs, (list, tuple)) else [outputs]


def batches(data, batch_size=256):
    """Yields batches (x, y) from any form of data that `evaluate` accepts."""
    listed = isinstance(data, (tuple, list)) and bool(data) and all(isinstance(part, (tuple, list)) for part in data)
    if isinstance(data, (tuple, list)) and not listed:
        if len(data) != 2:
            raise ValueError(f"`data` must be batches or a pair (x, y) of arrays. Received: {len(data)} elements.")
        x, y = data
        count = len(keras.tree.flatten(y)[0])
        sizes = {len(array) for array in keras.tree.flatten((x, y))}
        if len(sizes) > 1:
            raise ValueError(f"x and y must have the same length. Received: lengths {sorted(sizes)}.")
        for start in range(0, count, batch_size):
            yield keras.tree.map_structure(lambda array: array[start : start + batch_size], (x, y))
        return
    if isinstance(data, keras.utils.PyDataset):
        data = map(data.__getitem__, range(data.num_batches))
    if not hasattr(data, "__iter__"):
        raise ValueError(f"`data` must be batches or a pair (x, y) of arrays. Received: {type(data).__name__}.")
    for batch in data:
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise ValueError(f"`data` must yield batches (x, y). Received: a batch of type {type(batch).__name__}.")
        yield batch[0], batch[1]


class _Tally:
    """Accumulates the errors and the loss of one exit over batches."""

    def __init__(self, name):
        self.name, self.count, self.wrong, self.total = name, 0, 0, 0.0

    @property
    def error(self):
        return self.wrong / self.count

    @property
    def loss(self):
        return self.total / self.count

    def add(self, output, labels):
        output = np.asarray(output, "float64")
        labels = np.asarray(keras.ops.convert_to_numpy(labels))
        if output.ndim != 2:
            raise ValueError(
                f"Exits must output logits of shape (batch, classes). Received: shape {output.shape} at '{self.name}'."
            )
        if labels.shape == output.shape and output.shape[1] > 1:
            labels = labels.argmax(axis=1)  # one-hot
        labels = labels.reshape(-1)
        whole = labels.dtype.kind in "iub" or (labels == np.floor(labels)).all()
        if labels.shape != output.shape[:1] or not whole or labels.min() < 0 or labels.max() >= output.shape[1]:
            raise ValueError(
                f"Labels must be one int from 0 to {output.shape[1] - 1} for each of {output.shape[0]} images. "
                f"Received: shape {labels.shape}, values from {labels.min()} to {labels.max()}."
            )
        labels = labels.astype(int)
        chosen = output[np.arange(len(labels)), labels]
        if (output >= 0).all() and np.abs(output.sum(axis=1) - 1).max() < 1e-2:  # probabilities
            losses = -np.log(np.maximum(chosen, 1e-12))
        else:
            top = output.max(axis=1)
            losses = top + np.log(np.exp(output - top[:, None]).sum(axis=1)) - chosen
        self.count += len(labels)
        self.wrong += int((output.argmax(axis=1) != labels).sum())
        self.total += float(losses.sum())
