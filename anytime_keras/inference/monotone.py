"""Answers that get worse less often from exit to exit, without training.

Reference: [Jazbec, Allingham, Zhang, Nalisnick, NeurIPS 2023](https://arxiv.org/abs/2306.02652), "Towards Anytime
Classification in Early-Exit Architectures by Enforcing Conditional Monotonicity".
"""

import keras
from keras import ops

from anytime_keras import graph
from anytime_keras._checks import check_choice
from anytime_keras.inference.ensemble import EANN
from anytime_keras.inference.predictor import Predictor
from anytime_keras.models import AnytimeModel

METHODS = ("product", "caching")
EXCLUDED = -1.0e4  # log probability of a class that an expert excludes; far below any other
LOWEST = -3.0e4  # keeps sums of `EXCLUDED` within float16


def monotone(model, method="product"):
    """Returns a network whose answer at each exit combines the exits so far, so that it gets worse less often.

    The exits of a trained network disagree: a later exit may be wrong on a sample that an earlier one has right. Both
    methods change the answers only, not the weights, and cost a few operations on the logits of each exit. However, an
    exit's answer now needs the heads of all earlier exits.

    - `"product"` multiplies the exits' probabilities, of which exit `i` of `n` is proportional to
      `max(logits, 0) ** (i / n)`, as in the authors' code. A class is excluded for good once its logit is below 0. If
      the exits exclude all classes, the answer is the current exit's softmax. Early answers are less confident than the
      network's, since an exit spreads its probability over all classes with a positive logit. Weak early exits exclude
      true classes and so lower the accuracy of later ones; leave them out with `Predictor(exits=...)`.
    - `"caching"` returns the most confident answer so far.

    The returned model shares the layers, weights, preprocessor and class names of `model`. It works wherever an anytime
    model does: `Predictor`, `Classifier`, `Server`, `export`, `EANN` and `.keras` files. Its outputs are log
    probabilities up to a constant. Temperatures found by `Predictor.calibrate` are applied before answers are combined.
    `evaluate(...).monotonicity()` measures the effect.

    Args:
        model: functional Keras model whose outputs are its exits, an `EANN`, or a `Predictor` of either.
        method: `"product"` or `"caching"`.

    Returns:
        An `AnytimeModel` with the same exits, earliest first. For an `EANN`, it holds a copy of the members' weights
        and has the exits in use. For a `Predictor`, a `Predictor` of such a model, prepared for the same sizes, with
        the same `engine` argument.

    Raises:
        ValueError: if the method is unknown, or the exits are not those of a classifier with one class for each sample.

    Example:
    >>> import numpy as np, anytime_keras as ak
    >>> model = ak.zoo.load("resann2x16_adaloss_digits")
    >>> steady = ak.monotone(model)
    >>> steady.exit_names == model.exit_names, steady.exits[-1].macs == model.exits[-1].macs
    (True, True)
    >>> data = ak.data.load("digits")
    >>> before, after = (ak.evaluate(network, data.test).monotonicity() for network in (model, steady))
    >>> after.falls[0.05] < before.falls[0.05]
    True
    """
    check_choice("method", method, METHODS)
    if isinstance(model, Predictor):
        return _of_predictor(model, method)
    if isinstance(model, EANN):
        return _combined(joined(model, model.exit_names), model.inference, method)
    graph.check_functional(model)
    return _combined(model, getattr(model, "inference", None), method)


def _of_predictor(predictor, method):
    model, names = predictor._model, predictor.exit_names
    if isinstance(model, EANN):
        model = joined(model, names)
    else:
        opened = graph.opened(model)
        tensors = graph.outputs_by_name(opened)
        model = keras.Model(opened.input, {name: tensors[name] for name in names}, name=model.name)
    found = {"temperatures": dict(zip(names, predictor.temperatures))}
    first, *others = [times.example for times in predictor._state.times.values()]
    options = {"dtype": predictor.latencies.dtype, **predictor.requested}
    combined = Predictor(_combined(model, found, method), first, exits=names, **options)
    for example in others:
        combined.prepare(example)
    return combined


def _combined(model, inference, method):
    """Appends the layers that combine the exits of a functional model."""
    opened = graph.opened(model)
    tensors = graph.outputs_by_name(opened)
    temperatures = (inference or {}).get("temperatures", {})
    outputs, carried = {}, []
    for position, (name, tensor) in enumerate(tensors.items()):
        _check(name, tensor)
        options = {"name": f"{name.replace('/', '_')}_{method}", "dtype": "float32"}
        options.update(temperature=temperatures.get(name, 1.0), probabilities=graph.ends_in(tensor, "softmax"))
        if method == "product":
            outputs[name], total = ExitProduct((position + 1) / len(tensors), **options)([tensor, *carried])
            carried = [total]
        else:
            outputs[name] = ExitCache(**options)([tensor, *carried])
            carried = [outputs[name]]
    combined = AnytimeModel(opened.input, outputs, name=model.name, dtype=getattr(model, "dtype_policy", None))
    combined.preprocessor = getattr(model, "preprocessor", None)
    combined.class_names = getattr(model, "class_names", None)
    return combined


def _check(name, tensor):
    if len(tensor.shape) != 2 or tensor.shape[1] < 2 or graph.ends_in_sigmoid(tensor):
        kind = "a sigmoid" if graph.ends_in_sigmoid(tensor) else f"outputs of shape {tuple(tensor.shape)}"
        raise ValueError(
            "`monotone` needs exits of shape (batch, classes) that predict one of two classes or more. "
            f"Received: '{name}' with {kind}."
        )


def joined(eann, names):
    """Copies the members of an `EANN` into one functional model with the exits `names`, in order."""
    first = graph.opened(eann.members[0])
    inputs = keras.tree.map_structure(
        lambda tensor: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name), first.input
    )
    outputs = {}
    for number, member in enumerate(eann.members, 1):
        used = {own.exit: own.name for own in eann.exits if own.member == number - 1 and own.name in names}
        if used:
            tensors = graph.outputs_by_name(member)
            part = graph.opened(keras.Model(graph.functional(member).input, {own: tensors[own] for own in used}))
            outputs.update((used[own], tensor) for own, tensor in _renamed(part, inputs, f"member_{number}_").items())
    return keras.Model(inputs, {name: outputs[name] for name in names}, name="eann")


def _renamed(model, inputs, prefix):
    """Applies copies of a model's layers, with other names and the same weights, to `inputs`; returns its outputs."""
    copies = {}

    def call(operation, args, kwargs):
        if id(operation) not in copies:
            config = {**operation.get_config(), "name": prefix + operation.name}
            trusted = {"safe_mode": False} if isinstance(operation, keras.layers.Lambda) else {}
            copies[id(operation)] = operation, type(operation).from_config(config, **trusted)
        return copies[id(operation)][1](*args, **kwargs)

    values = graph.run(model, keras.tree.flatten(inputs), call)
    for original, copied in copies.values():
        if isinstance(original, keras.Layer):
            for variable, value in zip(copied.variables, original.variables, strict=True):
                variable.assign(value)
    return {name: values[id(tensor)] for name, tensor in graph.outputs_by_name(model).items()}


class _Combining(keras.layers.Layer):
    """Base of the layers that combine an exit's outputs with those of earlier exits.

    Args:
        temperature: float by which the exit's logits are divided.
        probabilities: bool, whether the exit's outputs are probabilities; if not, they are logits.
    """

    def __init__(self, temperature=1.0, probabilities=False, **kwargs):
        super().__init__(**kwargs)
        self.temperature, self.probabilities = temperature, probabilities

    def get_config(self):  # Keras derives none from NumPy's numbers
        return {**super().get_config(), "temperature": self.temperature, "probabilities": self.probabilities}

    def _logits(self, outputs):
        """Returns an exit's logits. Those of probabilities have mean 0, to which a softmax's training keeps logits."""
        if self.probabilities:
            outputs = ops.log(ops.maximum(outputs, 1e-30 if self.compute_dtype != "float16" else 1e-7))
            outputs = outputs - ops.mean(outputs, axis=-1, keepdims=True)
        return outputs / self.temperature


@keras.saving.register_keras_serializable(package="anytime_keras")
class ExitProduct(_Combining):
    """Multiplies the probabilities of the exits so far, each proportional to `max(logits, 0) ** weight`.

    Called on `[outputs]` at the first exit, and on `[outputs, total]` later, each of shape `(batch, classes)`. Returns
    the log of the product, or the exit's logits where the product is 0 for all classes, and the new total.

    Args:
        weight: float, the exponent of this exit.
        temperature, probabilities: as in `_Combining`.

    Example:
    >>> import numpy as np
    >>> logits = np.array([[3.0, 1.0, -2.0]], "float32")
    >>> answer, total = ExitProduct(weight=1.0)([logits])
    >>> ops.convert_to_numpy(ops.softmax(answer)).round(2).tolist()  # 3 : 1 : 0
    [[0.75, 0.25, 0.0]]
    """

    def __init__(self, weight, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight

    def get_config(self):
        return {**super().get_config(), "weight": self.weight}

    def call(self, inputs):
        logits = self._logits(inputs[0])
        positive = logits > 0
        total = ops.where(positive, self.weight * ops.log(ops.where(positive, logits, 1.0)), EXCLUDED)
        if len(inputs) > 1:
            total = ops.maximum(total + inputs[1], LOWEST)
        top = ops.max(total, axis=-1, keepdims=True)
        return ops.where(top > EXCLUDED / 2, total, logits), total

    def compute_output_shape(self, input_shape):
        return input_shape[0], input_shape[0]


@keras.saving.register_keras_serializable(package="anytime_keras")
class ExitCache(_Combining):
    """Returns the exit's logits or those of earlier exits, whichever are more confident; of equal ones, the exit's.

    Called on `[outputs]` at the first exit, and on `[outputs, earlier answer]` later, each of shape `(batch, classes)`.

    Args:
        temperature, probabilities: as in `_Combining`.

    Example:
    >>> import numpy as np
    >>> sure, unsure = np.array([[0.0, 4.0]], "float32"), np.array([[1.0, 0.0]], "float32")
    >>> ops.convert_to_numpy(ExitCache()([unsure, sure])).tolist()
    [[0.0, 4.0]]
    """

    def call(self, inputs):
        logits = self._logits(inputs[0])
        if len(inputs) == 1:
            return logits
        return ops.where(_confidence(logits) >= _confidence(inputs[1]), logits, inputs[1])

    def compute_output_shape(self, input_shape):
        return input_shape[0]


def _confidence(logits):
    """The largest softmax probability of each sample, shape `(batch, 1)`."""
    return 1 / ops.sum(ops.exp(logits - ops.max(logits, axis=-1, keepdims=True)), axis=-1, keepdims=True)
