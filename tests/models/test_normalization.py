import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.models.layers import BatchNormalization

SHAPE = (4, 6, 5, 3)
ARGUMENTS = dict(momentum=0.7, epsilon=1e-5, gamma_initializer="ones", beta_initializer="zeros")


def pair(shape=SHAPE, **arguments):
    """Keras's layer and ours with the same weights, all different from their initial values."""
    layers = [kind(**{**ARGUMENTS, **arguments}) for kind in (keras.layers.BatchNormalization, BatchNormalization)]
    for layer in layers:
        layer.build(shape)
        layer.set_weights([np.linspace(0.5, 2, shape[-1]) + n for n in range(len(layer.weights))])
    return layers


def numbers(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(3, 2, shape).astype("float32")


@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 1, 3), (2, 7, 3), (5, 3)])
@pytest.mark.parametrize("training", [True, False])
def test_output_and_averages_are_those_of_keras(shape, training):
    keras_layer, layer = pair(shape)
    expected, found = keras_layer(numbers(shape), training=training), layer(numbers(shape), training=training)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    for one, other in zip(layer.weights, keras_layer.weights):
        assert one.path.split("/")[-1] == other.path.split("/")[-1]
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_unsupported_cases_are_left_to_keras():
    others = [dict(axis=1), dict(scale=False), dict(center=False), dict(renorm=True), dict(dtype="bfloat16")]
    if keras.backend.backend() == "tensorflow":  # JAX needs a setting for it
        others.append(dict(dtype="float64"))
    for arguments in others:
        shape = SHAPE if "axis" not in arguments else (4, 3, 6, 3)
        keras_layer, layer = pair(shape, **arguments)
        found, expected = (np.asarray(one(numbers(shape), training=True), "float32") for one in (layer, keras_layer))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    keras_layer, layer = pair()
    mask = np.random.default_rng(2).random(SHAPE[:3]) < 0.5
    expected = keras_layer(numbers(), training=True, mask=mask)
    np.testing.assert_allclose(layer(numbers(), training=True, mask=mask), expected, rtol=1e-5, atol=1e-5)
    keras_layer, layer = pair(dtype="mixed_float16")
    large = np.full(SHAPE, 300_000, "int32")  # not in float16
    found, expected = layer(large, training=True), keras_layer(large, training=True)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(layer.moving_mean, keras_layer.moving_mean)
    _, frozen = pair()
    frozen.trainable = False
    before = frozen.get_weights()
    frozen(numbers(), training=True)
    np.testing.assert_array_equal(frozen.get_weights(), before)


def test_it_costs_nothing_however_it_is_called():
    image = keras.Input(SHAPE[1:])
    for kind in (keras.layers.BatchNormalization, BatchNormalization):
        assert ak.cost.macs(kind(), image) == ak.cost.macs(kind(), image, training=True) == 0
    names = [
        keras.layers.GlobalAveragePooling2D(name=f"exit_{n}")(BatchNormalization()(image, training=True)) for n in "12"
    ]
    model = ak.AnytimeModel(image, dict(zip(("exit_1", "exit_2"), names)))
    assert [exit.macs for exit in model.exits] == [0, 0]


def test_it_is_saved_and_loaded(tmp_path):
    model = keras.Sequential([keras.Input(SHAPE[1:]), BatchNormalization(**ARGUMENTS)])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again.layers[0]) is BatchNormalization
    np.testing.assert_array_equal(again(numbers()), model(numbers()))


@pytest.mark.tensorflow
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_gradients_are_those_of_keras(policy):
    import tensorflow as tf

    x, towards = numbers(), numbers(seed=1)
    gradients = []
    for layer in pair(dtype=policy):
        # Half precision rounds its inputs, so use numbers that it represents exactly.
        images = tf.cast(tf.cast(x, layer.compute_dtype), "float32")
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(tf.cast(layer(images, training=True), "float32") * towards)
        gradients.append(tape.gradient(loss, [images, layer.gamma.value, layer.beta.value]))
    # bfloat16 has 8 bits of precision
    tolerance = {"float32": 1e-4, "mixed_float16": 0.01, "mixed_bfloat16": 0.1}[policy]
    for one, other in zip(*gradients):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.tensorflow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_under_xla_the_variance_equals_that_of_keras(policy):
    import tensorflow as tf

    x = np.concatenate([np.full((8, 8, 8, 1), 37.0), np.random.default_rng(0).normal(1000, 1, (8, 8, 8, 1))], axis=-1)
    outputs = []
    for layer in pair(x.shape, dtype=policy):
        outputs.append(tf.function(lambda x: layer(x, training=True), jit_compile=True)(x.astype("float32")))
        outputs[-1] = np.asarray(tf.cast(outputs[-1], "float32"))
    assert np.isfinite(outputs[1]).all()
    np.testing.assert_array_equal(outputs[1], outputs[0])


@pytest.mark.tensorflow
def test_training_is_one_operation_except_on_synchronized_replicas():
    import tensorflow as tf

    def operations(layer):
        graph = tf.function(lambda x: layer(x, training=True)).get_concrete_function(tf.TensorSpec(SHAPE)).graph
        return {operation.type for operation in graph.get_operations()}

    assert "FusedBatchNormV3" in operations(pair()[1])
    assert "FusedBatchNormV3" not in operations(pair()[0])
    _, layer = pair()
    layer.synchronized = True
    assert "FusedBatchNormV3" not in operations(layer)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "channels, gpus, computed_in",
    [(6, [], "float32"), (24, [], "float32"), (16, [], "bfloat16"), (6, ["GPU:0"], "bfloat16")],
)
def test_half_precision_is_computed_in_single_where_that_is_faster(channels, gpus, computed_in, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: gpus)
    shape = (4, 6, 5, channels)
    keras_layer, layer = pair(shape, dtype="mixed_bfloat16")
    x = tf.cast(numbers(shape), "bfloat16")
    graph = tf.function(lambda x: layer(x, training=True)).get_concrete_function(x).graph
    (fused,) = [operation for operation in graph.get_operations() if operation.type == "FusedBatchNormV3"]
    assert fused.get_attr("T") == computed_in
    found, expected = layer(x, training=True), keras_layer(x, training=True)
    assert found.dtype == "bfloat16"
    np.testing.assert_allclose(np.asarray(found, "float32"), np.asarray(expected, "float32"), rtol=0.02, atol=0.02)
    np.testing.assert_allclose(layer.moving_variance, keras_layer.moving_variance, rtol=1e-3)
