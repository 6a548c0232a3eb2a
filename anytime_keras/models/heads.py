"""The heads that `to_anytime` adds, the activations at the end of a network's heads, and heads for other classes."""

import keras
from keras import layers

from anytime_keras import graph
from anytime_keras._checks import check_int
from anytime_keras.cost import rules
from anytime_keras.models.anytime_model import AnytimeModel
from anytime_keras.models.blocks import Family, logits_dtype
from anytime_keras.models.layers import BatchNormalization, Conv2D, HeNormal

DROPOUT = (layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D)
_ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU)

POOLING = {3: layers.GlobalAveragePooling1D, 4: layers.GlobalAveragePooling2D, 5: layers.GlobalAveragePooling3D}
_CONVOLUTION = {3: layers.Conv1D, 4: Conv2D, 5: layers.Conv3D}


def pool_head(x, name, num_classes):
    """Applies global average pooling and a linear layer.

    Features that do not come from an activation are normalised first: maps by batch normalisation and ReLU, as in the
    paper's exits, and all others by layer normalisation, as before a transformer's own head.
    """
    rank, layout = len(x.shape), data_format(x)
    if not is_activated(x):
        if rank > 3:
            x = _bn_relu(x, name, layout)
        else:
            axis = 1 if rank == 3 and layout == "channels_first" else -1
            x = layers.LayerNormalization(axis=axis, epsilon=1e-6, dtype=policy_of(x), name=f"{name}_norm")(x)
    return _classify(x, name, num_classes, layout)


def msd_head(x, name, num_classes):
    """Applies MSDNet's head: two 3x3 convolutions of stride 2, each with BN-ReLU, then pooling and a linear layer."""
    if len(x.shape) < 3:
        raise ValueError(
            f"`head='msd'` needs maps or sequences. Received: features of shape {x.shape} for '{name}'. "
            "Pass `head='pool'`, or choose exits at earlier layers."
        )
    layout = data_format(x)
    channels = x.shape[1 if layout == "channels_first" else -1]
    for number in (1, 2):
        options = {"data_format": layout, "dtype": policy_of(x), "name": f"{name}_conv_{number}"}
        convolution = _CONVOLUTION[len(x.shape)]
        x = convolution(channels, 3, 2, "same", use_bias=False, kernel_initializer=HeNormal(), **options)(x)
        x = _bn_relu(x, f"{name}_{number}", layout)
    return _classify(x, name, num_classes, layout)


HEADS = {"pool": pool_head, "msd": msd_head}


def _bn_relu(x, name, layout):
    dtype, axis = policy_of(x), 1 if layout == "channels_first" else -1
    # Momentum and epsilon as in the families of this package.
    x = BatchNormalization(axis=axis, momentum=0.9, epsilon=1e-5, dtype=dtype, name=f"{name}_bn")(x)
    return layers.ReLU(dtype=dtype, name=f"{name}_relu")(x)


def _classify(x, name, num_classes, layout):
    if len(x.shape) > 2:
        x = POOLING[len(x.shape)](data_format=layout, dtype=policy_of(x), name=f"{name}_pool")(x)
    return layers.Dense(num_classes, dtype=logits_dtype(x), name=name)(x)


def policy_of(x):
    """Returns the dtype policy that computes in the dtype of `x`, with full-precision variables."""
    return keras.dtype_policies.get(f"mixed_{x.dtype}" if x.dtype in ("float16", "bfloat16") else x.dtype)


def squeezes(call):
    """Returns whether a call only drops axes of length 1, as after a 1x1 convolution that classifies."""
    return sum(size != 1 for size in call.input_tensors[0].shape[1:]) <= 1


def output_activations(output):
    """Lists the operations after the model's logits, such as softmax, as (operation, its call or None), in order."""
    found, call = [], graph.producer(output)
    while len(call.input_tensors) == 1 and not getattr(call.operation, "weights", None):
        if call.input_tensors[0].shape == call.output_tensors[0].shape == output.shape:
            found.append((call.operation, call))
        elif not squeezes(call):
            break
        call = graph.producer(call.input_tensors[0])
    if isinstance(call.operation, (layers.Dense, layers.EinsumDense, *rules.CONVOLUTIONS)):
        if call.operation.activation is not keras.activations.linear:
            found.append((layers.Activation(call.operation.activation, name="activation"), None))
    return found[::-1]


def append_activations(logits, activations, name):
    """Applies the result of `output_activations` to `logits`, with new layers."""
    for operation, call in activations:
        config = {**operation.get_config(), "name": f"{name}_{operation.name}"}
        if isinstance(operation, keras.Layer):
            config["dtype"] = logits.dtype
        args, kwargs = ((logits,), {}) if call is None else call.arguments.fill_in({id(call.input_tensors[0]): logits})
        logits = type(operation).from_config(config)(*args, **kwargs)
    return logits


def is_activated(x):
    """Returns whether features come from an activation and so need no normalisation before a linear layer."""
    call = graph.producer(x)
    while isinstance(call.operation, DROPOUT):
        call = graph.producer(call.input_tensors[0])
    operation = call.operation
    if isinstance(operation, _ACTIVATIONS) or graph.is_from_keras(type(operation), "ops.nn"):
        return True
    activation = None if graph.is_foreign(operation) else getattr(operation, "activation", None)
    return activation not in (None, keras.activations.linear)


def data_format(x):
    """Returns the data format of the nearest layer before `x` that has one for tensors of its rank."""
    for call in reversed(graph.calls(x)):
        found = getattr(call.operation, "data_format", None)
        if found in ("channels_last", "channels_first") and len(call.output_tensors[0].shape) == len(x.shape):
            return found
    return "channels_last"


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
