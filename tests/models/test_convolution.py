import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras import runtime
from anytime_keras.models.layers import Conv2D

SHAPE = (4, 9, 8, 3)
TOLERANCE = {"bfloat16": 0.05, "float16": 0.005}  # of the largest number: 8 and 11 bits, and sums of emulated ones


def pair(dtype, **arguments):
    """Keras's layer and ours with the same weights."""
    layers = [kind(6, 3, dtype=f"mixed_{dtype}", **arguments) for kind in (keras.layers.Conv2D, Conv2D)]
    for layer in layers:
        layer.build(SHAPE)
        layer.set_weights(layers[0].get_weights())
    return layers


def numbers():
    return np.random.default_rng(0).normal(size=SHAPE).astype("float32")


def assert_close(found, expected, dtype):
    found, expected = (np.asarray(keras.ops.cast(one, "float32")) for one in (found, expected))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE[dtype] * np.abs(expected).max(), rtol=0)


@pytest.fixture(params=[(), ("bfloat16", "float16")], ids=["native", "emulated"])
def emulated(request, monkeypatch):
    monkeypatch.setattr(runtime, "emulated_dtypes", lambda: request.param)
    return request.param


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("arguments", [{}, dict(strides=2, padding="same", activation="relu"), dict(use_bias=False)])
def test_output_is_that_of_keras(dtype, arguments, emulated):
    keras_layer, layer = pair(dtype, **arguments)
    found = layer(numbers())
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    assert_close(found, keras_layer(numbers()), dtype)


@pytest.mark.tensorflow
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_gradients_are_those_of_keras_and_single_precision_computes_them_where_half_is_emulated(dtype, emulated):
    import tensorflow as tf

    def gradients(layer, images, kernel):
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(tf.cast(layer(images) ** 2, "float32"))
        return tape.gradient(loss, [images, kernel])

    keras_layer, layer = pair(dtype)
    images = tf.cast(numbers(), dtype)
    every = [gradients(one, images, one.kernel.value) for one in (layer, keras_layer)]
    for found, expected in zip(*every):
        assert found.dtype == expected.dtype
        assert_close(found, expected, dtype)
    graph = tf.function(lambda images: gradients(layer, images, layer.kernel.value)).get_concrete_function(images).graph
    computed_in = {each.get_attr("T").name for each in graph.get_operations() if each.type.startswith("Conv2D")}
    assert computed_in == {"float32" if emulated else dtype}


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "lines, expected",
    [
        (["flags\t\t: fpu avx2"], ("bfloat16", "float16")),
        (["model name\t: a", "flags\t\t: avx2 avx512f"], ("float16",)),
        (["flags\t\t: avx512f amx_bf16 avx512_fp16"], ()),
        (["Features\t: asimd"], ()),  # ARM
        ([], ()),
    ],
)
def test_half_precision_is_emulated_where_an_x86_cpu_does_not_have_it(lines, expected, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(runtime, "_cpuinfo", lambda: lines)
    assert runtime.emulated_dtypes.__wrapped__() == expected
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["GPU:0"] if kind == "GPU" else [])
    assert runtime.emulated_dtypes.__wrapped__() == ()


def test_networks_use_it_and_load_with_it(tmp_path, emulated):
    config = dict(num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=3, dtype="mixed_bfloat16")
    model = ak.models.build("resann", **config)
    assert {type(layer) for layer in model.layers if isinstance(layer, keras.layers.Conv2D)} == {Conv2D}
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 1))
    for name, logits in model(images).items():
        np.testing.assert_array_equal(again(images)[name], logits)
