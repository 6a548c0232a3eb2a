"""Gives a trained network untrained last layers, for other classes."""

import keras
from keras import layers

from anytime_keras import graph
from anytime_keras._checks import check_int
from anytime_keras.cost import rules
from anytime_keras.models.anytime_model import AnytimeModel
from anytime_keras.models.blocks import Family, logits_dtype
from anytime_keras.models.layers import HeNormal


def with_classes(model: AnytimeModel, num_classes: int) -> AnytimeModel:
    """Replaces each exit's last linear layer by an untrained one for another number of classes.

    All other layers keep their weights; families of `ak.models.build` stay of their class, with copies of the weights,
    and other networks become an `AnytimeModel` that shares its layers with the original. Activations that follow the
    last layer, such as a softmax, are removed, so all outputs are logits.

    Args:
        model: `AnytimeModel`.
        num_classes: int, at least 2.

    Returns:
        An `AnytimeModel`, not compiled, with the model's `preprocessor`.

    Raises:
        ValueError: if an exit does not end in a linear layer.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> new = ak.models.with_classes(model, 3)
    >>> new.outputs[0].shape, new.num_exits
    ((None, 3), 3)
    """
    if not isinstance(model, AnytimeModel):
        raise ValueError(
            f"`model` must be an `AnytimeModel`. Received: {type(model).__name__}. Convert it with `ak.to_anytime`."
        )
    num_classes = check_int("num_classes", num_classes)
    new = _rebuilt(model, num_classes) if isinstance(model, Family) else _regrown(model, num_classes)
    new.preprocessor = model.preprocessor
    return new


def _rebuilt(model, num_classes):
    new = type(model).from_config({**model.get_config(), "num_classes": num_classes})
    last = {f"{name}/" for name in model.exit_names}
    values = {variable.path: variable for variable in model.weights}
    for variable in new.weights:
        if not any(variable.path.startswith(prefix) for prefix in last):
            variable.assign(values[variable.path])
    return new


def _regrown(model, num_classes):
    outputs = {}
    for name, output in graph.outputs_by_name(model).items():
        x = _features(output, name)
        if len(x.shape) > 2:  # a 1x1 convolution read it
            x = layers.Flatten(name=f"{name}_flatten")(x)
        options = {"dtype": logits_dtype(x), "name": f"{name}_classes"}
        outputs[name] = layers.Dense(num_classes, kernel_initializer=HeNormal(), **options)(x)
    return AnytimeModel(model.input, outputs, name=model.name, dtype=model.dtype_policy)


def _features(output, name):
    """Returns the tensor that the last linear layer before an exit's output reads."""
    call = graph.last_with_weights(output)
    vector = all(size == 1 for size in call.output_tensors[0].shape[1:-1])
    if not isinstance(call.operation, (layers.Dense, layers.EinsumDense, *rules.CONVOLUTIONS)) or not vector:
        raise ValueError(
            "Each exit's last layer with weights must be linear: a `Dense` layer, or a 1x1 convolution. "
            f"Received: '{call.operation.name}' of type {type(call.operation).__name__} for exit '{name}', of output "
            f"shape {call.output_tensors[0].shape}."
        )
    (features,) = keras.tree.flatten(call.input_tensors)
    return features
