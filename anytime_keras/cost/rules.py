"""Counts the multiply-accumulates of a layer call, with one rule per kind of layer.

Convention: one multiply-accumulate (MAC) is a product that is added to a sum, as in convolutions and matrix
products. "FLOPs" in the paper are 2 x MACs. Padding counts like any other input. Element-wise work
(normalisation, activations, additions, pooling, table look-ups) is not counted, as in the papers that we
compare with.
"""

import contextlib
import inspect
import math

import keras
from keras import layers, ops, tree

from anytime_keras import graph

WRAPPERS = (layers.Bidirectional, layers.TimeDistributed, layers.SpectralNormalization)

_rules = {}


def register_rule(kind, rule=None):
    """Registers how to count the MACs of a custom layer; also usable as a decorator.

    Args:
        kind: subclass of `keras.Layer` or `keras.Operation`. The rule also applies to subclasses that define neither
            a rule nor `call`.
        rule: function called as `rule(layer, inputs, outputs)` that returns the int number of MACs. `inputs` and
            `outputs` are lists of shapes, including a batch axis of length 1. For a recurrent cell they describe one
            step, with the states after the input and after the output.

    Raises:
        TypeError: if `kind` is not such a class, or `rule` is not callable.

    Example:
    >>> import keras, anytime_keras as ak
    >>> class Scale(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.scale = self.add_weight(shape=(shape[-1],))
    ...     def call(self, x):
    ...         return x * self.scale
    >>> ak.cost.register_rule(Scale, lambda layer, inputs, outputs: 0)
    """
    if not (isinstance(kind, type) and issubclass(kind, keras.Operation)):
        raise TypeError(f"`kind` must be a class of Keras layers or operations. Received: {kind!r}.")
    if rule is None:
        return lambda decorated: register_rule(kind, decorated) or decorated
    if not callable(rule):
        raise TypeError(f"`rule` must be a function (layer, inputs, outputs) -> MACs. Received: {rule!r}.")
    _rules[kind] = rule


def macs(layer, *args, only=None, **kwargs):
    """Counts the multiply-accumulates of one call of `layer` on one sample.

    Args:
        layer: built layer, model or operation.
        *args, **kwargs: arguments of the call, with `keras.KerasTensor`s for tensors. Their batch axis is ignored.
        only: layer class or tuple of layer classes to count, such as `CONVOLUTIONS`; None counts all.

    Returns:
        int.

    Raises:
        ValueError: if a layer with weights has no rule, or a size is unknown.

    Example:
    >>> import keras, anytime_keras as ak
    >>> layer = keras.layers.Dense(10)
    >>> layer.build((None, 64))
    >>> ak.cost.macs(layer, keras.KerasTensor((None, 64)))
    640
    """
    args, kwargs = tree.map_structure(_one_sample, (args, kwargs))
    return _count(layer, args, kwargs, only)


def _rule(layer):
    kinds = _kinds(layer)
    if not isinstance(layer, keras.Layer):
        kinds = (*kinds, type(layer).__name__)
    return next((_rules[kind] for kind in kinds if kind in _rules), None)


def _kinds(layer):
    """Lists the classes whose rule applies to `layer`: its MRO up to the first class outside Keras with a `call`."""
    kinds = type(layer).__mro__
    own = (place for place, kind in enumerate(kinds) if "call" in vars(kind) and not _is_kerass(kind))
    return kinds[: next(own, len(kinds)) + 1]


def _is_kerass(kind):
    return kind.__module__.startswith("keras.src.")


def _shapes(values):
    """Lists the shapes of the tensors in `values`, in the order of the call's signature."""
    return [tuple(t.shape) for value in values for t in tree.flatten(value) if hasattr(t, "shape")]


def _one_sample(value):
    if isinstance(value, keras.KerasTensor):
        return keras.KerasTensor((1, *value.shape[1:]), value.dtype)
    return value


def _count(layer, args, kwargs, only):
    rule = _rule(layer)
    if rule is None and any(kind in WRAPPERS for kind in _kinds(layer)):
        return sum(times * _count(inner, inner_args, {}, only) for times, inner, inner_args in _unwrap(layer, *args))
    if rule is not None:
        if only is not None and not isinstance(layer, only):
            return 0
        return _count_by(rule, layer, args, kwargs)
    if graph.runs_its_graph(layer):
        return _count_graph(layer, args, only)
    if not getattr(layer, "weights", None) and not graph.is_foreign(layer):
        return 0
    # Everything that a convolution with a custom `call` computes counts as convolution.
    only = None if only is not None and isinstance(layer, only) else only
    try:
        return _count_within(layer, args, kwargs, only)
    except _OpenSizes:
        inherited = next((_rules[kind] for kind in type(layer).__mro__ if kind in _rules), None)
        if inherited is None or only is not None:
            raise
        # In Keras 3.15, einsum layers can return symbolic tensors with unknown sizes although their inputs are fully
        # known. This happens in keras-hub's cached attention, for which the parent's rule is correct.
        return _count_by(inherited, layer, args, kwargs)


def _count_by(rule, layer, args, kwargs):
    arguments = inspect.signature(layer.call).bind(*args, **graph.accepted(layer, kwargs)).arguments
    inputs, outputs = _shapes(arguments.values()), _shapes([graph.spec(layer, args, kwargs)])
    try:
        return int(rule(layer, inputs, outputs))
    except TypeError as error:
        if not any(size is None for shape in inputs + outputs for size in shape):
            raise
        raise _open_sizes(layer, inputs, outputs) from error


def _unwrap(layer, inputs, *args):
    """Lists the calls of a wrapper as (times, layer, arguments)."""
    if isinstance(layer, layers.Bidirectional):
        return [(1, layer.forward_layer, (inputs,)), (1, layer.backward_layer, (inputs,))]
    if isinstance(layer, layers.TimeDistributed):
        one_step = keras.KerasTensor((inputs.shape[0], *inputs.shape[2:]), inputs.dtype)
        return [(inputs.shape[1], layer.layer, (one_step,))]
    return [(1, layer.layer, (inputs,))]


def _count_graph(model, args, only):
    total = 0

    def apply(operation, args, kwargs):
        nonlocal total
        total += _count(operation, args, kwargs, only)
        return graph.spec(operation, args, kwargs)

    graph.run(model, tree.flatten(args), apply)
    return total


class _OpenSizes(ValueError):
    """The cost depends on an unknown size."""


def _open_sizes(layer, inputs, outputs):
    return _OpenSizes(
        f"Layer '{layer.name}' must have fully known shapes, because its cost depends on them. "
        f"Received: inputs {inputs}, outputs {outputs}. "
        "Pass `exit_costs(model, input_shape=...)`, or build the model with a full `input_shape`."
    )


def _count_within(layer, args, kwargs, only):
    """Counts a layer without a rule by tracing its `call`.

    If `call` does not accept symbolic tensors and the layer owns no weights, only the layers that it calls are
    counted. This omits products between activations in `call` itself.
    """
    try:
        results = tree.flatten(graph.trace(layer, *args, **kwargs))
    except Exception as error:  # a custom layer may raise anything when traced without values
        if not layer.weights:
            return 0
        shapes = _shapes([args, kwargs])
        if any(size is None for shape in shapes for size in shape):
            raise _open_sizes(layer, shapes, "unknown") from error
        if graph.is_composite(layer):
            return sum(_count(child, *arguments, only) for child, arguments in _calls_within(layer, args, kwargs))
        why = f"its `call` cannot be traced with symbolic tensors ({type(error).__name__}: {error})"
        raise _no_rule(layer, why) from error
    calls = graph.calls([x for x in results if isinstance(x, keras.KerasTensor)], (args, kwargs))
    try:
        total = sum(_count(call.operation, call.arguments.args, call.arguments.kwargs, only) for call in calls)
        if total == 0 and only is None and not _only_looks_up(layer, calls, results):
            raise _no_rule(layer, "its `call` contains no product with a known rule")
    finally:
        graph.forget(calls)
    return total


def _no_rule(layer, why):
    return ValueError(
        f"No rule counts layer '{layer.name}' of type {type(layer).__name__}, which has weights, and {why}. Register a "
        f"rule with `anytime_keras.cost.register_rule({type(layer).__name__}, lambda layer, inputs, outputs: ...)`."
    )


_LOOK_UPS = ("Add", "BroadcastTo", "Concatenate", "GetItem", "Subtract", "Take", "TakeAlongAxis", "Where")


def _only_looks_up(layer, calls, results):
    """Returns whether a layer only looks up, adds or concatenates its own matrices."""
    children = {id(w) for child in layer._flatten_layers(include_self=False) for w in child.weights}
    if not any(_is_matrix(weight) for weight in layer.weights if id(weight) not in children):
        return True
    users = [call for call in calls if any(map(_is_matrix, tree.flatten((call.arguments.args, call.arguments.kwargs))))]
    constant = any(ops.is_tensor(result) and _is_matrix(result) for result in results)  # such as position embeddings
    return (bool(users) or constant) and all(type(call.operation).__name__ in _LOOK_UPS for call in users)


def _is_matrix(value):
    """Returns whether `value` is an array with at least two axes longer than 1, unlike a vector of scales."""
    if isinstance(value, keras.KerasTensor) or not hasattr(value, "shape"):
        return False
    return sum(size != 1 for size in value.shape) >= 2


def _calls_within(layer, args, kwargs):
    """Runs `layer` on shapes only and lists the layers that it calls, with their arguments."""
    recorded, depth = [], 0
    call = layers.Layer.__call__

    def recording_call(child, *child_args, **child_kwargs):
        nonlocal depth
        depth += 1
        try:
            result = call(child, *child_args, **child_kwargs)
        finally:
            depth -= 1
        if depth == 0:
            recorded.append((child, tree.map_structure(_spec, (child_args, child_kwargs))))
        return result

    class Trace(keras.Operation):
        def call(self, *args, **kwargs):
            return layer.call(*args, **kwargs)

    with contextlib.ExitStack() as stack:
        layers.Layer.__call__ = recording_call
        stack.callback(setattr, layers.Layer, "__call__", call)
        Trace(name="trace").compute_output_spec(*args, **graph.accepted(layer, kwargs))
    return recorded


def _spec(value):
    if ops.is_tensor(value):
        return keras.KerasTensor(tuple(value.shape), keras.backend.standardize_dtype(value.dtype))
    return value


# Signature of the rules below: (layer, input shapes, output shapes) -> MACs per sample.


def _free(layer, inputs, outputs):
    return 0


for _kind in (
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.GroupNormalization,
    layers.UnitNormalization,
    layers.RMSNormalization,
    layers.Normalization,
    layers.Embedding,
    layers.PReLU,
    layers.Dropout,
):
    register_rule(_kind, _free)


def _channels(layer, shape):
    return shape[-1 if layer.data_format == "channels_last" else 1]


def _kernel(layer):
    size = layer.kernel_size
    return math.prod(size) if isinstance(size, (tuple, list)) else size


def _positions(layer, shape):
    return math.prod(shape[1:-1] if layer.data_format == "channels_last" else shape[2:])


# Keras does not export the base classes of its convolutions.
_convolution = layers.Conv2D.__mro__[1]
_convolution_transpose = layers.Conv2DTranspose.__mro__[1]
_depthwise = layers.DepthwiseConv2D.__mro__[1]
_separable = layers.SeparableConv2D.__mro__[1]
_convolution_recurrent = layers.ConvLSTM2D.__mro__[1]
CONVOLUTIONS = (_convolution, _convolution_transpose, _depthwise, _separable, _convolution_recurrent)


@register_rule(_convolution)
def _convolution_macs(layer, inputs, outputs):
    return math.prod(outputs[0]) * _kernel(layer) * (_channels(layer, inputs[0]) // layer.groups)


@register_rule(_convolution_transpose)
def _convolution_transpose_macs(layer, inputs, outputs):
    return math.prod(inputs[0]) * _kernel(layer) * layer.filters


@register_rule(_depthwise)
def _depthwise_macs(layer, inputs, outputs):
    return math.prod(outputs[0]) * _kernel(layer)


@register_rule(_separable)
def _separable_macs(layer, inputs, outputs):
    between = _channels(layer, inputs[0]) * layer.depth_multiplier
    return _positions(layer, outputs[0]) * between * (_kernel(layer) + layer.filters)


@register_rule(layers.Dense)
def _dense_macs(layer, inputs, outputs):
    return math.prod(outputs[0]) * inputs[0][-1]


@register_rule(layers.EinsumDense)
def _einsum_dense_macs(layer, inputs, outputs):
    return einsum_macs(layer.equation, inputs[0], tuple(layer.kernel.shape))


@register_rule(layers.ReversibleEmbedding)
def _reversible_embedding_macs(layer, inputs, outputs):
    looks_up = len(outputs[0]) > len(inputs[0])  # int to vector; the reverse maps a vector to scores
    return 0 if looks_up else math.prod(outputs[0]) * inputs[0][-1]


@register_rule(layers.MultiHeadAttention)
def _multi_head_attention_macs(layer, inputs, outputs):
    query, value = inputs[:2]
    axes = [axis % len(query) for axis in layer._attention_axes]
    targets, sources = (math.prod(shape[axis] for axis in axes) for shape in (query, value))
    elsewhere = math.prod(query[axis] for axis in range(1, len(query) - 1) if axis not in axes)
    projections = targets * (
        math.prod(layer.query_dense.kernel.shape) + math.prod(layer.output_dense.kernel.shape)
    ) + sources * (math.prod(layer.key_dense.kernel.shape) + math.prod(layer.value_dense.kernel.shape))
    return elsewhere * (projections + layer.num_heads * targets * sources * (layer.key_dim + layer.value_dim))


@register_rule(layers.GroupQueryAttention)
def _group_query_attention_macs(layer, inputs, outputs):
    (_, targets, features), (_, sources, _) = inputs[:2]
    heads, key_heads, size = layer.num_query_heads, layer.num_key_value_heads, layer.head_dim
    return 2 * size * (targets * features * heads + sources * features * key_heads + heads * targets * sources)


@register_rule(layers.Attention)
def _dot_attention_macs(layer, inputs, outputs):
    query, value = inputs[0], inputs[1]
    return math.prod(query) * value[-2] + math.prod(outputs[0]) * value[-2]


register_rule(layers.AdditiveAttention, _dot_attention_macs)


@register_rule(layers.Dot)
def _dot_layer_macs(layer, inputs, outputs):
    axis = layer.axes if isinstance(layer.axes, int) else layer.axes[0]
    return math.prod(outputs[0]) * inputs[0][axis]


@register_rule(layers.SimpleRNNCell)
def _simple_cell_macs(layer, inputs, outputs):
    return layer.units * (inputs[0][-1] + layer.units)


@register_rule(layers.GRUCell)
def _gru_cell_macs(layer, inputs, outputs):
    return 3 * layer.units * (inputs[0][-1] + layer.units)


@register_rule(layers.LSTMCell)
def _lstm_cell_macs(layer, inputs, outputs):
    return 4 * layer.units * (inputs[0][-1] + layer.units)


@register_rule(layers.StackedRNNCells)
def _stacked_cells_macs(layer, inputs, outputs):
    total, size = 0, inputs[0][-1]
    for cell in layer.cells:
        total += _cell_macs(cell, (1, size))
        size = cell.output_size if isinstance(cell.output_size, int) else cell.output_size[-1]
    return total


def _cell_macs(cell, shape):
    rule = _rule(cell)
    if rule is None:
        raise ValueError(
            f"No rule counts the recurrent cell '{cell.name}' of type {type(cell).__name__}. "
            f"Register one with `anytime_keras.cost.register_rule({type(cell).__name__}, ...)`."
        )
    states = [_of_one(size) for size in _list(cell.state_size)]
    output = getattr(cell, "output_size", None)
    return rule(cell, [shape, *states], [states[0] if output is None else _of_one(output), *states])


def _of_one(size):
    """Returns the shape of a cell's output for one sample, from an int or a shape without batch axis."""
    return (1, *_list(size))


def _list(value):
    return list(value) if isinstance(value, (list, tuple)) else [value]


@register_rule(layers.RNN)
def _recurrent_macs(layer, inputs, outputs):
    steps, features = inputs[0][1], inputs[0][2:]
    return steps * _cell_macs(layer.cell, (1, *features))


@register_rule(_convolution_recurrent)
def _convolution_recurrent_macs(layer, inputs, outputs):
    cell, (_, steps, *image) = layer.cell, inputs[0]
    last = cell.data_format == "channels_last"
    spatial = outputs[0][-1 - cell.rank : -1] if last else outputs[0][-cell.rank :]
    channels = image[-1 if last else 0]
    return steps * math.prod(spatial) * math.prod(cell.kernel_size) * 4 * cell.filters * (channels + cell.filters)


def einsum_macs(equation, *shapes):
    """Counts the MACs of an einsum, the product of the sizes of all its indices.

    >>> einsum_macs("ab,bc->ac", (2, 3), (3, 4))
    24
    """
    sizes = {}
    for term, shape in zip(equation.replace(" ", "").split("->")[0].split(","), shapes):
        if "..." in term:
            before, after = term.split("...")
            named = (
                list(before) + [f"...{n}" for n in range(len(shape) - len(before) - len(after), 0, -1)] + list(after)
            )
        else:
            named = list(term)
        for index, size in zip(named, shape):
            sizes[index] = max(size, sizes.get(index, 1))
    return math.prod(sizes.values())


# Products written with `keras.ops` appear as operations in a functional model's graph and in a traced `call`. Keras
# does not export the classes of these operations, so they are registered by name.


def _matmul_macs(operation, inputs, outputs):
    return math.prod(outputs[0]) * inputs[0][-1]


def _einsum_operation_macs(operation, inputs, outputs):
    return einsum_macs(operation.subscripts, *inputs)


def _tensordot_macs(operation, inputs, outputs):
    return math.isqrt(math.prod(inputs[0]) * math.prod(inputs[1]) * math.prod(outputs[0]))


def _dot_product_attention_macs(operation, inputs, outputs):
    query, key = inputs[:2]  # (batch, length, heads, size)
    return 2 * math.prod(query) * key[1]


def _conv_operation_macs(operation, inputs, outputs):
    return math.prod(outputs[0]) * math.prod(inputs[1][:-1])  # kernel: (*sizes, channels of a group, filters)


def _conv_transpose_operation_macs(operation, inputs, outputs):
    return math.prod(inputs[0]) * math.prod(inputs[1][:-1])  # kernel: (*sizes, filters, channels)


def _depthwise_conv_operation_macs(operation, inputs, outputs):
    return math.prod(outputs[0]) * math.prod(inputs[1][:-2])  # kernel: (*sizes, channels, multiplier)


def _separable_conv_operation_macs(operation, inputs, outputs):
    positions = math.prod(outputs[0]) // inputs[2][-1]
    return positions * (math.prod(inputs[1]) + math.prod(inputs[2]))


_rules.update(
    Conv=_conv_operation_macs,
    ConvTranspose=_conv_transpose_operation_macs,
    DepthwiseConv=_depthwise_conv_operation_macs,
    Dot=_matmul_macs,
    DotProductAttention=_dot_product_attention_macs,
    Einsum=_einsum_operation_macs,
    Matmul=_matmul_macs,
    SeparableConv=_separable_conv_operation_macs,
    Tensordot=_tensordot_macs,
)
