import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.training import heads
from tests import checks


def small(name="resann"):
    if name == "resann":
        return ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    arguments = dict(num_exits=2, base=1, step=1, growth_rate=2, channels=2, factors=(1, 2))
    return ak.models.build("msdnet_cifar_7exits", input_shape=(8, 8, 1), **arguments)


@pytest.mark.parametrize("name", ["resann", "msdnet"])
def test_the_two_parts_compute_what_the_network_does(name):
    model = small(name)
    checks.scramble(model)
    frozen, head = heads.split(model)
    x = checks.some_input(model)
    expected, found = checks.answers(model, x), head(frozen(x))
    for exit, logits in expected.items():
        np.testing.assert_allclose(keras.ops.convert_to_numpy(found[exit]), logits, rtol=1e-5, atol=1e-6)
    assert not {id(variable) for variable in head.weights} & {id(variable) for variable in frozen.weights}
    assert len(head.weights) + len(frozen.weights) == len(model.weights)


def train(model, data, seconds=60.0):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    heads.train_heads(model, data, seconds, keras.optimizers.AdamW(0.01), loss)


@pytest.mark.long
def test_only_the_heads_are_trained_and_they_learn(monkeypatch):
    monkeypatch.setattr(heads, "MOST_PASSES", 2)
    monkeypatch.setattr(heads, "MOST_EPOCHS", 10)
    data = ak.data.load("digits", validation=0, test=1200)
    trained = ak.zoo.load("resann2x16_adaloss_digits")
    model = ak.models.with_classes(trained, 10)
    before = {variable.path: np.array(variable) for variable in model.weights}
    train(model, data)
    for variable in model.weights:
        in_head = variable.path.split("/")[0].startswith("exit_")
        assert in_head != np.array_equal(np.array(variable), before[variable.path]), variable.path
    assert ak.evaluate(model, data.test).errors[-1] < 0.1  # 0.9 untrained


def test_features_stay_within_the_memory_and_the_time(monkeypatch):
    data, model = ak.data.load("digits", batch_size=100), small()
    frozen, _ = heads.split(model)
    features, labels = heads._features(frozen, data, deadline=0.0)  # over at once, so one pass
    assert len(labels) == 1200 and {len(array) for array in features} == {1200}
    monkeypatch.setattr(heads, "MOST_BYTES", 3 * sum(array[:300].nbytes for array in features))
    features, labels = heads._features(frozen, data, deadline=float("inf"))
    assert 100 <= len(labels) < 1200 and 2 * sum(array.nbytes for array in features) <= heads.MOST_BYTES
