"""Compares our counts with counters independent of Keras: TensorFlow's profiler, and the program that JAX traces.

The profiler counts two operations a multiply-accumulate, and counts biases, pooling and normalisation too; only the
kinds of operations that multiply by weights are taken here, so that the numbers must be equal to the unit.
"""

import math

import keras
import pytest
from keras import layers

from anytime_keras import cost

NETWORKS = {
    "VGG16": (32, 32, 3),
    "MobileNet": (64, 64, 3),
    "MobileNetV3Small": (33, 47, 3),  # odd sizes, where padding matters
    "EfficientNetB0": (64, 48, 3),
}
SLOW = {
    "ResNet50": (64, 64, 3),
    "ResNet50V2": (64, 64, 3),
    "DenseNet121": (33, 47, 3),
    "NASNetMobile": (64, 64, 3),
    "ConvNeXtTiny": (64, 64, 3),
}
names = [*NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
# TensorFlow compiles grouped convolutions as separate functions, which its profiler ignores.
names_without_groups = [name for name in names if "ConvNeXtTiny" not in getattr(name, "values", ())]


def network(name):
    return getattr(keras.applications, name)(weights=None, input_shape={**NETWORKS, **SLOW}[name], classes=7)


def ours(model):
    return cost.exit_costs(model, layers="all")[-1].with_all_heads


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", names_without_groups)
def test_costs_of_applications_equal_tensorflows_profiler(name):
    model = network(name)
    assert ours(model) == profiled(model)


def profiled(model):
    import tensorflow as tf

    shapes = [tf.TensorSpec((1, *x.shape[1:]), x.dtype) for x in model.inputs]
    program = tf.function(lambda x: model(x, training=False)).get_concrete_function(*shapes)
    options = {**tf.compat.v1.profiler.ProfileOptionBuilder.float_operation(), "output": "none"}
    counted = tf.compat.v1.profiler.profile(program.graph, cmd="op", options=options)
    total, stack = 0, [counted]
    while stack:
        node = stack.pop()
        stack.extend(node.children)
        if node.name in ("Conv2D", "DepthwiseConv2dNative", "MatMul"):
            total += node.float_ops
    return total // 2


def transformer():
    tokens = keras.Input((12,), dtype="int32")
    x = layers.Embedding(20, 8)(tokens)
    for _ in range(2):
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
        x = layers.LayerNormalization()(x + layers.Dense(8)(layers.Dense(32, activation="gelu")(x)))
    x = layers.GroupQueryAttention(4, 4, 2)(x, x)
    return keras.Model(tokens, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def recurrent():
    series = keras.Input((12, 5))
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(series)
    x = layers.Conv1D(7, 3, padding="same")(x)
    return keras.Model(series, layers.Dense(3)(layers.GRU(4, reset_after=True)(x)))


def convolutions():
    image = keras.Input((13, 17, 4))
    x = layers.Conv2D(8, 3, strides=2, groups=2)(image)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(x)
    x = layers.SeparableConv2D(6, 5, padding="same")(x)
    return keras.Model(image, layers.Dense(3)(layers.Flatten()(x)))


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="traces the program with JAX")
@pytest.mark.parametrize("build", [transformer, recurrent, convolutions])
def test_costs_equal_the_products_in_the_program_that_jax_traces(build):
    model = build()
    assert ours(model) == traced(model)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "jax", reason="traces the program with JAX")
@pytest.mark.parametrize("name", {**NETWORKS, **SLOW})
def test_costs_of_applications_equal_the_products_in_the_program_that_jax_traces(name):
    model = network(name)
    assert ours(model) == traced(model)


def traced(model):
    import jax

    (x,) = (jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype) for x in model.inputs)
    return products(jax.make_jaxpr(lambda x: model(x, training=False))(x).jaxpr)


def products(program):
    """Counts the multiply-accumulates of a jaxpr: each output of a product, times the products for one output."""
    total = 0
    for step in program.eqns:
        out = math.prod(step.outvars[0].aval.shape) if step.outvars else 0
        if step.primitive.name == "dot_general":
            (contracted, _), _ = step.params["dimension_numbers"]
            total += out * math.prod(step.invars[0].aval.shape[axis] for axis in contracted)
        elif step.primitive.name == "conv_general_dilated":
            kernel, numbers = step.invars[1].aval.shape, step.params["dimension_numbers"]
            total += out * math.prod(kernel) // kernel[numbers.rhs_spec[0]]
        else:
            times = step.params["length"] if step.primitive.name == "scan" else 1
            for value in step.params.values():
                inner = getattr(value, "jaxpr", value)
                total += times * products(inner) if hasattr(inner, "eqns") else 0
    return total
