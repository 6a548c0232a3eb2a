import keras
import numpy as np
import pytest

from anytime_keras.models.layers import HeNormal


@pytest.mark.parametrize("shape, fan_in", [((3, 3, 32, 64), 288), ((300, 200), 300), ((5, 32, 64), 160)])
def test_values_follow_he_et_al(shape, fan_in):
    std = (2 / fan_in) ** 0.5
    for kind in (HeNormal, keras.initializers.HeNormal):
        numbers = np.asarray(kind(seed=3)(shape))
        assert numbers.shape == shape and numbers.dtype == "float32"
        assert abs(numbers.mean()) < 0.03 * std
        assert numbers.std() == pytest.approx(std, rel=0.03)
        # cut at two standard deviations of what was drawn
        assert 0.98 * 2 < np.abs(numbers).max() / std * 0.87962566 <= 2.0001


def test_values_depend_on_the_seed():
    draw = {seed: np.asarray(HeNormal(seed=seed)((3, 3, 4, 4))) for seed in (1, 2, -1)}
    np.testing.assert_array_equal(draw[1], HeNormal(seed=1)((3, 3, 4, 4)))
    assert not np.allclose(draw[1], draw[2]) and not np.allclose(draw[1], draw[-1])
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        drawn += [np.asarray(HeNormal()((4, 4))), np.asarray(HeNormal()((4, 4)))]
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert not np.allclose(drawn[0], drawn[1])


def test_precision_and_seed_generators():
    assert keras.backend.standardize_dtype(HeNormal(seed=1)((4, 4), "bfloat16").dtype) == "bfloat16"
    keras.config.set_dtype_policy("mixed_bfloat16")
    layer = keras.layers.Dense(3, kernel_initializer=HeNormal(seed=keras.random.SeedGenerator(1)))
    layer.build((None, 4))
    assert layer.kernel.dtype == "float32" and np.asarray(layer.kernel).std() > 0


def test_a_layer_with_it_is_saved(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, kernel_initializer=HeNormal(seed=1))])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again.layers[0].kernel_initializer) is HeNormal
    np.testing.assert_array_equal(again.layers[0].kernel, model.layers[0].kernel)


def test_other_axes_and_shapes_are_left_to_keras():
    for arguments, shape in ((dict(input_axes=[0], output_axes=[2]), (64, 8, 64)), ({}, (4096,)), ({}, ())):
        ours, kerass = (kind(seed=3, **arguments)(shape) for kind in (HeNormal, keras.initializers.HeNormal))
        np.testing.assert_array_equal(ours, kerass)
