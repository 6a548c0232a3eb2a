import keras
import numpy as np
import pytest
from keras import layers

import anytime_keras as ak
from tests import checks


def small(**config):
    return ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 3), num_classes=10, **config)


def chain(activation="softmax", last=None):
    """A functional anytime model with two exits that belongs to no family."""
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu")(image)
    early = layers.Dense(5, activation, name="dense_early")(layers.GlobalAveragePooling2D()(x))
    x = layers.Conv2D(6, 3, activation="relu")(x)
    late = last(x) if last else layers.Softmax()(layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))
    return ak.AnytimeModel(image, {"early": early, "late": late})


def test_the_family_and_all_other_weights_are_kept():
    model = small()
    checks.scramble(model)
    model.preprocessor = ak.preprocessing.Preprocessor((8, 8, 3), 0.5, 0.25)
    new = ak.models.with_classes(model, 3)
    assert type(new) is ak.models.ResANN and new.num_classes == 3 and new.exit_names == model.exit_names
    assert new.preprocessor is model.preprocessor and new.class_names is None
    before = {variable.path: np.array(variable) for variable in model.weights}
    for variable in new.weights:
        if variable.path.split("/")[0] in model.exit_names:
            assert variable.shape[-1] == 3
        else:
            np.testing.assert_array_equal(np.array(variable), before[variable.path])


def test_other_networks_share_their_layers_and_return_logits():
    model = chain()
    new = ak.models.with_classes(model, 3)
    x = 100 * checks.some_input(new)
    assert {logits.shape for logits in checks.answers(new, x).values()} == {(2, 3)}
    assert any(np.abs(logits.sum(axis=1) - 1).max() > 0.01 for logits in checks.answers(new, x).values())
    kernels = [layer.kernel for layer in model.layers if isinstance(layer, layers.Conv2D)]
    assert all(any(kernel is weight for weight in new.weights) for kernel in kernels)
    assert not any(layer.name == "dense_early" for layer in new.layers)


@pytest.mark.long
def test_a_converted_network_gets_new_classes_at_every_exit(tmp_path):
    base = keras.applications.MobileNet(input_shape=(32, 32, 3), alpha=0.25, weights=None, classes=7)
    new = ak.models.with_classes(ak.to_anytime(base, num_exits=3), 4)  # ends in a 1x1 convolution
    x = checks.some_input(new)
    expected = checks.answers(new, x)
    assert [logits.shape for logits in expected.values()] == 3 * [(2, 4)]
    new.save(tmp_path / "model.keras")
    for name, logits in checks.answers(keras.saving.load_model(tmp_path / "model.keras"), x).items():
        np.testing.assert_allclose(logits, expected[name], rtol=1e-5, atol=1e-6)


def test_exits_without_a_linear_layer_and_other_models_are_refused():
    with pytest.raises(ValueError, match="of type Conv2D for exit 'late', of output shape .*4, 4, 6"):
        ak.models.with_classes(chain(last=layers.GlobalAveragePooling2D()), 3)
    with pytest.raises(ValueError, match="Received: Sequential. Convert it with `ak.to_anytime`"):
        ak.models.with_classes(keras.Sequential([keras.Input((4,)), layers.Dense(2)]), 3)
    with pytest.raises(ValueError, match="num_classes=0"):
        ak.models.with_classes(small(), 0)
