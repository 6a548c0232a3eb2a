import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.evaluation import Samples
from anytime_keras.export.reader import ExportedModel
from tests import checks
from tests.evaluation.test_calibration import softmax
from tests.inference import networks
from tests.inference.test_predictor import quick


def product(logits):
    """The authors' product: cumulative, normalised, with the exit's softmax if all classes are excluded."""
    exits = len(logits)
    product, answers = np.ones_like(logits[0], "float64"), []
    for number, own in enumerate(np.asarray(logits, "float64"), 1):
        product = product * np.maximum(own, 0) ** (number / exits)
        total = product.sum(axis=-1, keepdims=True)
        answers.append(np.where(total == 0, softmax(own), product / np.where(total == 0, 1, total)))
    return np.stack(answers)


def caching(logits):
    shares = softmax(np.asarray(logits, "float64"))
    answers = [shares[0]]
    for own in shares[1:]:
        better = own.max(axis=-1) >= answers[-1].max(axis=-1)
        answers.append(np.where(better[:, None], own, answers[-1]))
    return np.stack(answers)


BY_HAND = {"product": product, "caching": caching}


def probabilities(model, x):
    return softmax(np.stack(list(checks.answers(model, x).values())).astype("float64"))


def spread(model, factor=2.0):
    """Makes the exits of a random network confident and different."""
    checks.scramble(model)
    for variable in model.weights:
        if variable.name == "kernel" and variable.shape[-1] == 3 and len(variable.shape) == 2:
            variable.assign(factor * variable.value)
    return model


@pytest.mark.parametrize("method", BY_HAND)
@pytest.mark.parametrize("make", networks.GRAPHS)
def test_answers_equal_those_computed_from_the_logits(make, method):
    model = spread(make(), factor={"product": 6.0, "caching": 2.0}[method])
    x = networks.inputs_for(model, batch=40)
    logits = np.stack(list(checks.answers(model, x).values()))
    combined = ak.monotone(model, method)
    assert combined.exit_names == model.exit_names
    assert [exit.macs for exit in combined.exits] == [exit.macs for exit in model.exits]
    found, expected = probabilities(combined, x), BY_HAND[method](logits)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected - softmax(logits)).max() > 0.1, "or there is nothing to test"


def test_the_product_falls_back_to_the_exit_if_all_classes_are_excluded():
    features = keras.Input((2,))
    exits = {name: keras.layers.Identity(name=name)(features * sign) for name, sign in (("a", 1), ("b", -1), ("c", 1))}
    combined = ak.monotone(ak.AnytimeModel(features, exits))
    x = np.array([[1.0, 2.0], [3.0, -1.0], [-1.0, -2.0]], "float32")
    np.testing.assert_allclose(probabilities(combined, x), product(np.stack([x, -x, x])), atol=1e-6)
    np.testing.assert_allclose(probabilities(combined, x)[1:, 0], softmax(np.stack([-x[0], x[0]])), atol=1e-6)


@pytest.mark.parametrize("method", BY_HAND)
def test_fewer_answers_get_worse(method):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 2000)
    logits = rng.normal(size=(6, 2000, 5)) + 2 * np.eye(5)[labels]
    names = [f"exit_{number}" for number in range(1, 7)]
    answers = np.log(np.maximum(BY_HAND[method](logits), 1e-30))
    before, after = (
        ak.evaluation.Monotonicity(Samples.of(names, values, labels)) for values in (logits, answers)
    )
    assert after.falls[0.1] < 0.7 * before.falls[0.1] and after.flips < before.flips


@pytest.mark.parametrize("method", BY_HAND)
def test_exits_that_end_in_a_softmax_are_combined_in_the_same_way(method):
    def network(activation):
        keras.utils.set_random_seed(0)
        features = x = keras.Input((4,))
        exits = {}
        for name in "abc":
            x = keras.layers.Dense(6, "relu")(x)
            exits[name] = keras.layers.Dense(3, activation, name=name)(x)
        model = spread(ak.AnytimeModel(features, exits))
        for variable in model.weights:  # with mean 0 over classes, as after training with a softmax
            if variable.shape[-1] == 3:
                variable.assign(variable - keras.ops.mean(variable, axis=-1, keepdims=True))
        return model

    x = networks.inputs_for(network(None), batch=30)
    plain, activated = (ak.monotone(network(activation), method) for activation in (None, "softmax"))
    np.testing.assert_allclose(probabilities(activated, x), probabilities(plain, x), atol=1e-4)


@pytest.mark.parametrize("method", BY_HAND)
def test_temperatures_are_applied_first_and_saved(method, tmp_path):
    model = spread(networks.eleven_exits(3))
    model.inference = {"temperatures": {"exit_1": 8.0, "exit_3": 0.5}}
    x = networks.inputs_for(model, batch=40)
    logits = np.stack(list(checks.answers(model, x).values())) / np.array([8.0, 1.0, 0.5])[:, None, None]
    combined = ak.monotone(model, method)
    np.testing.assert_allclose(probabilities(combined, x), BY_HAND[method](logits), atol=1e-5)
    combined.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is ak.AnytimeModel and loaded.exit_names == model.exit_names
    np.testing.assert_array_equal(probabilities(loaded, x), probabilities(combined, x))
    assert combined.inference is None, "temperatures are applied once"


@pytest.mark.parametrize("method", BY_HAND)
def test_all_methods_of_a_predictor_return_the_same_answers(method):
    model = spread(networks.eleven_exits(4))
    x = networks.inputs_for(model, batch=9)
    combined = ak.monotone(model, method)
    expected = BY_HAND[method](np.stack(list(checks.answers(model, x).values())))
    predictor = quick(combined)
    seen = []
    predictor.predict(x, until=seen.append)
    np.testing.assert_allclose(np.stack([answer.probabilities for answer in seen]), expected, atol=1e-5)
    for position, exit in enumerate(combined.exits):  # straight to an exit, which needs the heads before it
        np.testing.assert_allclose(predictor.predict(x, budget=exit.macs).probabilities, expected[position], atol=1e-5)
    answer = predictor.predict_batch(x, confidence=0.6)
    np.testing.assert_allclose(answer.confidence, expected[answer.positions, np.arange(9)].max(axis=1), atol=1e-5)


@pytest.mark.long
def test_for_a_predictor_it_combines_the_exits_and_temperatures_in_use():
    model = spread(networks.eleven_exits(4))
    model.inference = {"exits": ["exit_1", "exit_2", "exit_4"], "temperatures": {"exit_2": 5.0}}
    x = networks.inputs_for(model, batch=6)
    logits = np.stack(list(checks.answers(model, x).values()))[[0, 1, 3]] / np.array([1.0, 5.0, 1.0])[:, None, None]
    predictor = quick(model)
    predictor.prepare(x, seconds=0)
    combined = ak.monotone(predictor, "caching")
    assert combined.exit_names == predictor.exit_names
    np.testing.assert_allclose(combined.predict(x).probabilities, caching(logits)[-1], atol=1e-5)
    assert combined.predict(x, deadline=60).exit == "exit_4", "the sizes of the predictor are prepared"


@pytest.mark.long
@pytest.mark.tensorflow
def test_for_a_predictor_it_keeps_the_engine():
    model = networks.eleven_exits(2)
    predictor = ak.Predictor(model, networks.inputs_for(model, batch=1), engine="litert", num_threads=1)
    combined = ak.monotone(predictor)
    assert combined.engine == "litert" and combined.requested == predictor.requested


@pytest.mark.long
@pytest.mark.parametrize("method", BY_HAND)
def test_for_an_ensemble_it_combines_all_exits_in_use(method):
    small, large = spread(networks.eleven_exits(2)), spread(networks.eleven_exits(4), factor=3.0)
    large.layers[1].set_weights([-weight for weight in large.layers[1].get_weights()])
    x = networks.inputs_for(small, batch=50)
    y = np.argmax(checks.answers(large, x)["exit_4"], axis=-1)
    eann = ak.EANN([small, large], validation=(x, y))
    eann.inference = {"temperatures": {eann.exit_names[0]: 3.0}}
    assert {own.member for own in eann.exits if own.used} == {0, 1}
    answers = [checks.answers(member, x) for member in eann.members]
    logits = np.stack([answers[own.member][own.exit] for own in eann.exits if own.used])
    logits[0] /= 3.0
    combined = ak.monotone(eann, method)
    assert combined.exit_names == eann.exit_names
    np.testing.assert_allclose(probabilities(combined, x), BY_HAND[method](logits), atol=1e-5)
    assert combined.exits[-1].macs == [own for own in eann.exits if own.used][-1].macs
    predictor = ak.monotone(ak.Predictor(eann, x[:1]), method)
    np.testing.assert_allclose(predictor.predict(x).probabilities, BY_HAND[method](logits)[-1], atol=1e-5)


@pytest.mark.long
def test_a_member_of_an_ensemble_may_be_monotone():
    small, large = (ak.monotone(spread(networks.eleven_exits(count))) for count in (2, 4))
    x = networks.inputs_for(small, batch=50)
    y = np.argmax(checks.answers(large, x)["exit_4"], axis=-1)
    eann = ak.EANN([small, large], validation=(x, y))
    last = [own for own in eann.exits if own.used][-1]
    expected = softmax(checks.answers(eann.members[last.member], x)[last.exit])
    np.testing.assert_allclose(ak.Predictor(eann, x[:1]).predict(x).probabilities, expected, atol=1e-5)


def test_half_precision_outputs_are_combined_in_full_precision():
    keras.config.set_dtype_policy("mixed_float16")
    model = spread(networks.eleven_exits(11))
    x = networks.inputs_for(model, batch=20)
    logits = np.stack([np.asarray(value, "float32") for value in checks.answers(model, x).values()])
    found = checks.answers(ak.monotone(model), x)
    assert all(value.dtype == "float32" for value in found.values())
    np.testing.assert_allclose(softmax(np.stack(list(found.values()))), product(logits), atol=1e-4)


@pytest.mark.tensorflow
@pytest.mark.long
@pytest.mark.parametrize("method", BY_HAND)
@pytest.mark.parametrize("format", ["litert", "onnx", "saved_model"])
def test_exported_sets_give_the_same_answers(format, method, tmp_path):
    model = ak.monotone(spread(networks.eleven_exits(3)), method)
    x = networks.inputs_for(model, batch=1)
    ak.export(model, tmp_path / "set", format=format)
    answers = list(ExportedModel(tmp_path / "set").stream(x))
    found = softmax(np.stack([answer.logits for answer in answers]))
    np.testing.assert_allclose(found, probabilities(model, x), atol=1e-5)


def test_a_classifier_can_be_made_of_it():
    image = keras.Input((8, 8, 3))
    features = keras.layers.Flatten()(image)
    exits = {name: keras.layers.Dense(2, name=name)(features) for name in ("early", "late")}
    model = ak.AnytimeModel(image, exits)
    model.preprocessor, model.class_names = ak.preprocessing.Preprocessor((8, 8, 3)), ["cat", "dog"]
    answer = ak.Classifier(ak.monotone(model))(np.zeros((8, 8, 3), "uint8"))
    assert answer.exit == "late" and {label for label, _ in answer.top(2)} == {"cat", "dog"}


def test_exits_that_cannot_be_combined_are_refused():
    model = networks.eleven_exits(2)
    with pytest.raises(ValueError, match="`method` must be one of .*Received: method='mean'"):
        ak.monotone(model, "mean")
    with pytest.raises(ValueError, match="`model` must be a functional Keras model.*Received: str"):
        ak.monotone("resann")
    features = keras.Input((4,))
    for layer, kind in ((keras.layers.Dense(3, "sigmoid"), "a sigmoid"), (keras.layers.Dense(1), "shape")):
        exits = {"a": layer(features), "b": layer(features * 2)}
        with pytest.raises(ValueError, match=f"predict one of two classes or more. Received: 'a' with .*{kind}"):
            ak.monotone(ak.AnytimeModel(features, exits))


def test_combining_layers_made_from_numpys_numbers_are_saved(tmp_path):
    features = keras.Input((3,))
    policy = keras.DTypePolicy("float32")
    layer = ak.inference.monotone.ExitProduct(np.float32(0.5), temperature=np.float32(2.0), dtype=policy)
    keras.Model(features, layer([features])).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").layers[-1]
    assert (loaded.weight, loaded.temperature, loaded.probabilities) == (0.5, 2.0, False)
