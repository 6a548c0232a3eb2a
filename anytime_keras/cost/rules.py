"""The rules that count the multiply-accumulates of Keras's layers and operations.

A rule is a function (layer, input shapes, output shapes) -> MACs per sample.
"""

import math

from keras import layers

from anytime_keras.cost import counting

PLAIN = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
RECURRENT = (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
CONVOLUTIONS = (*PLAIN, *TRANSPOSED, *DEPTHWISE, *SEPARABLE, *RECURRENT)


def _for(*kinds):
    """Registers a rule for classes of layers, or for names of operations, whose classes Keras does not export."""

    def register(rule):
        counting.RULES.update(dict.fromkeys(kinds, rule))
        return rule

    return register


def _channels(layer, shape):
    return shape[-1 if layer.data_format == "channels_last" else 1]


def _kernel(layer):
    size = layer.kernel_size
    return math.prod(size) if isinstance(size, (tuple, list)) else size


def _positions(layer, shape):
    return math.prod(shape[1:-1] if layer.data_format == "channels_last" else shape[2:])


# Rules of one line. The shapes of kernels are: (*sizes, channels of a group, filters) of "Conv", (*sizes, filters,
# channels) of "ConvTranspose", and (*sizes, channels, multiplier) of "DepthwiseConv".
NORMALIZATIONS: tuple = (layers.BatchNormalization, layers.LayerNormalization, layers.GroupNormalization)
NORMALIZATIONS += (layers.UnitNormalization, layers.RMSNormalization, layers.Normalization)
_for(*NORMALIZATIONS, layers.Embedding, layers.PReLU, layers.Dropout)(lambda layer, x, y: 0)
_for(*PLAIN)(lambda layer, x, y: math.prod(y[0]) * _kernel(layer) * (_channels(layer, x[0]) // layer.groups))
_for(*TRANSPOSED)(lambda layer, x, y: math.prod(x[0]) * _kernel(layer) * layer.filters)
_for(*DEPTHWISE)(lambda layer, x, y: math.prod(y[0]) * _kernel(layer))
_for(layers.Dense, "Dot", "Matmul")(lambda layer, x, y: math.prod(y[0]) * x[0][-1])
_for(layers.EinsumDense)(lambda layer, x, y: einsum_macs(layer.equation, x[0], tuple(layer.kernel.shape)))
_for(layers.Attention, layers.AdditiveAttention)(lambda layer, x, y: (math.prod(x[0]) + math.prod(y[0])) * x[1][-2])
_for("Einsum")(lambda operation, x, y: einsum_macs(operation.subscripts, *x))
_for("Tensordot")(lambda operation, x, y: math.isqrt(math.prod(x[0]) * math.prod(x[1]) * math.prod(y[0])))
_for("Conv")(lambda operation, x, y: math.prod(y[0]) * math.prod(x[1][:-1]))
_for("ConvTranspose")(lambda operation, x, y: math.prod(x[0]) * math.prod(x[1][:-1]))
_for("DepthwiseConv")(lambda operation, x, y: math.prod(y[0]) * math.prod(x[1][:-2]))


@_for(*SEPARABLE)
def _separable_macs(layer, inputs, outputs):
    between = _channels(layer, inputs[0]) * layer.depth_multiplier
    return _positions(layer, outputs[0]) * between * (_kernel(layer) + layer.filters)


@_for("SeparableConv")
def _separable_conv_operation_macs(operation, inputs, outputs):
    positions = math.prod(outputs[0]) // inputs[2][-1]
    return positions * (math.prod(inputs[1]) + math.prod(inputs[2]))


@_for(layers.ReversibleEmbedding)
def _reversible_embedding_macs(layer, inputs, outputs):
    looks_up = len(outputs[0]) > len(inputs[0])  # int to vector; the reverse maps a vector to scores
    return 0 if looks_up else math.prod(outputs[0]) * inputs[0][-1]


@_for(layers.MultiHeadAttention)
def _multi_head_attention_macs(layer, inputs, outputs):
    query, value = inputs[:2]
    axes = [axis % len(query) for axis in layer.get_config()["attention_axes"]]
    targets, sources = (math.prod(shape[axis] for axis in axes) for shape in (query, value))
    elsewhere = math.prod(query[axis] for axis in range(1, len(query) - 1) if axis not in axes)
    projections = targets * (
        math.prod(layer.query_dense.kernel.shape) + math.prod(layer.output_dense.kernel.shape)
    ) + sources * (math.prod(layer.key_dense.kernel.shape) + math.prod(layer.value_dense.kernel.shape))
    return elsewhere * (projections + layer.num_heads * targets * sources * (layer.key_dim + layer.value_dim))


@_for(layers.GroupQueryAttention)
def _group_query_attention_macs(layer, inputs, outputs):
    (_, targets, features), (_, sources, _) = inputs[:2]
    heads, key_heads, size = layer.num_query_heads, layer.num_key_value_heads, layer.head_dim
    return 2 * size * (targets * features * heads + sources * features * key_heads + heads * targets * sources)


@_for(layers.Dot)
def _dot_layer_macs(layer, inputs, outputs):
    axis = layer.axes if isinstance(layer.axes, int) else layer.axes[0]
    return math.prod(outputs[0]) * inputs[0][axis]


@_for(layers.SimpleRNNCell, layers.GRUCell, layers.LSTMCell)
def _recurrent_cell_macs(layer, inputs, outputs):
    gates = 4 if isinstance(layer, layers.LSTMCell) else 3 if isinstance(layer, layers.GRUCell) else 1
    return gates * layer.units * (inputs[0][-1] + layer.units)


@_for(layers.StackedRNNCells)
def _stacked_cells_macs(layer, inputs, outputs):
    total, size = 0, inputs[0][-1]
    for cell in layer.cells:
        total += _cell_macs(cell, (1, size))
        size = cell.output_size if isinstance(cell.output_size, int) else cell.output_size[-1]
    return total


def _cell_macs(cell, shape):
    rule = counting.rule_of(cell)
    if rule is None:
        raise counting.no_rule(cell, "is a recurrent cell")
    states = [_of_one(size) for size in _list(cell.state_size)]
    output = getattr(cell, "output_size", None)
    return rule(cell, [shape, *states], [states[0] if output is None else _of_one(output), *states])


def _of_one(size):
    """Returns the shape of a cell's output for one sample, from an int or a shape without batch axis."""
    return (1, *_list(size))


def _list(value):
    return list(value) if isinstance(value, (list, tuple)) else [value]


@_for(layers.RNN)
def _recurrent_macs(layer, inputs, outputs):
    steps, features = inputs[0][1], inputs[0][2:]
    return steps * _cell_macs(layer.cell, (1, *features))


@_for(*RECURRENT)
def _convolution_recurrent_macs(layer, inputs, outputs):
    cell, (_, steps, *image) = layer.cell, inputs[0]
    last = cell.data_format == "channels_last"
    spatial = outputs[0][-1 - cell.rank : -1] if last else outputs[0][-cell.rank :]
    channels = image[-1 if last else 0]
    return steps * math.prod(spatial) * math.prod(cell.kernel_size) * 4 * cell.filters * (channels + cell.filters)


def einsum_macs(equation: str, *shapes: tuple[int, ...]) -> int:
    """Counts the MACs of an einsum, the product of the sizes of all its indices."""
    sizes: dict[str, int] = {}
    for term, shape in zip(equation.replace(" ", "").split("->")[0].split(","), shapes):
        if "..." in term:
            before, after = term.split("...")
            rest = [f"...{n}" for n in range(len(shape) - len(before) - len(after), 0, -1)]
            named = [*before, *rest, *after]
        else:
            named = list(term)
        for index, size in zip(named, shape):
            sizes[index] = max(size, sizes.get(index, 1))
    return math.prod(sizes.values())


@_for("DotProductAttention")
def _dot_product_attention_macs(operation, inputs, outputs):
    query, key = inputs[:2]  # (batch, length, heads, size)
    return 2 * math.prod(query) * key[1]
