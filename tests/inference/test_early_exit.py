import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.inference import calibration, early_exit
from anytime_keras.inference.answers import probabilities
from tests import checks
from tests.inference import networks
from tests.inference.test_predictor import quick, whole

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def learner():
    """A network that learned a little, its predictor, and validation data."""
    keras.utils.set_random_seed(0)
    model = networks.eleven_exits(4)
    centres = RNG.normal(size=(3, 4))
    y = RNG.integers(0, 3, 1200)
    x = (centres[y] + RNG.normal(size=(1200, 4))).astype("float32")
    model.compile(keras.optimizers.Adam(0.02), loss=checks.crossentropy())
    model.fit(x[:600], y[:600], epochs=10, verbose=0)
    return model, (x[600:], y[600:])


@pytest.mark.parametrize("make", [networks.residual, networks.multi_scale, networks.several_inputs])
def test_each_sample_is_answered_by_the_first_exit_that_is_sure_enough(make):
    model = make()
    checks.scramble(model)
    predictor, x = quick(model), networks.inputs_for(model, batch=37)
    expected = np.stack(list(checks.outputs(model, x).values()))
    sure = probabilities(expected).max(axis=-1)
    for threshold in (0.0, 0.5, float(np.median(sure)), 2.0, [0.9] * (len(expected) - 2) + [0.1]):
        answer = predictor.predict_batch(x, confidence=threshold, batch_size=16)
        leaves = sure >= np.append(np.broadcast_to(threshold, len(expected) - 1), 0.0)[:, None]
        positions = leaves.argmax(axis=0)
        np.testing.assert_array_equal(answer.positions, positions)
        assert answer.exits == [model.exit_names[position] for position in positions]
        np.testing.assert_allclose(answer.logits, expected[positions, np.arange(37)], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(answer.confidence, sure[positions, np.arange(37)], rtol=1e-3)
        macs = np.array([exit.macs for exit in model.exits])
        assert answer.average_macs == macs[positions].mean()


def test_samples_that_left_are_not_computed_any_more():
    sizes = []
    model = networks.chain([lambda x: sizes.append(len(x)) or x] * 3)
    predictor = quick(model)
    x = networks.inputs_for(model, batch=40)
    outputs = np.stack(list(whole(model, x).values()))
    half = float(np.median(probabilities(outputs[0]).max(axis=-1)))
    sizes.clear()
    positions = predictor.predict_batch(x, confidence=half).positions
    left = [40, (positions > 0).sum(), (positions > 1).sum()]
    assert left[1] == 20
    if keras.backend.backend() != "tensorflow":
        left = [early_exit.bucket(count) for count in left]
    assert sizes == left
    sizes.clear()
    assert predictor.predict_batch(x, confidence=0).average_macs == model.exits[0].macs
    assert len(sizes) == 1


def test_no_size_of_batch_is_compiled_twice():
    traces = []

    class Counted(keras.layers.Layer):
        def call(self, x):
            traces.append(x.shape)
            return x

        def compute_output_shape(self, input_shape):
            return input_shape

    x = features = keras.Input((4,))
    exits = {}
    for name in "abc":
        x = Counted()(keras.layers.Dense(4)(x))
        exits[name] = keras.layers.Dense(3)(x)
    predictor = quick(ak.AnytimeModel(features, exits))
    traces.clear()
    if keras.backend.backend() == "tensorflow":
        allowed = 0
    else:
        allowed = 3 * len({early_exit.bucket(count) for count in range(1, 33)})
    for seed in range(12):
        x = np.random.default_rng(seed).normal(size=(20 + seed, 4))
        predictor.predict_batch(x, confidence=0.3 + 0.05 * seed)
    assert len(traces) <= allowed
    traces.clear()
    predictor.predict_batch(x, confidence=0.3 + 0.05 * seed)
    assert not traces


def test_a_bigger_budget_is_kept_spent_and_never_picks_an_earlier_exit(learner):
    model, (x, y) = learner
    model.inference = None
    predictor = quick(model)
    macs = [cost.with_all_heads for cost in predictor.costs]
    budgets = [float(budget) for budget in np.linspace(macs[0], macs[-1], 7)]
    thresholds = predictor.fit_thresholds((x, y), budgets)
    before = np.zeros(len(x), int)
    for budget in budgets:
        answer = predictor.predict_batch(x, average_budget=budget)
        assert answer.average_macs <= budget
        assert answer.average_macs > budget - 0.05 * macs[-1], "a sample's worth may be left over, no more"
        assert (answer.positions >= before).all()
        before = answer.positions
    assert thresholds[budgets[-1]] == early_exit.NEVER_SURE and (before == 3).all()
    assert sorted(thresholds.values()) == list(thresholds.values())


def test_budgets_that_are_not_fitted_or_cannot_be_kept_are_refused(learner):
    model, validation = learner
    model.inference = None
    predictor = quick(model)
    with pytest.raises(ValueError, match="No threshold.*100.*fit_thresholds"):
        predictor.predict_batch(validation[0], average_budget=100)
    for budget in (1, -5, float("nan")):
        with pytest.raises(ValueError, match="at least what the first exit costs, .* MACs. Received"):
            predictor.fit_thresholds(validation, budget)
    for wrong in ({}, {"confidence": 0.5, "average_budget": 100}):
        with pytest.raises(ValueError, match="One of `confidence` and `average_budget`"):
            predictor.predict_batch(validation[0], **wrong)
    with pytest.raises(ValueError, match="one value for each exit but the last.*Received: 2 values"):
        predictor.predict_batch(validation[0], confidence=[0.5, 0.5])
    with pytest.raises(ValueError, match="must be numbers"):
        predictor.predict_batch(validation[0], confidence=float("nan"))
    with pytest.raises(ValueError, match="`batch_size` must be"):
        predictor.predict_batch(validation[0], confidence=0.5, batch_size=0)
    with pytest.raises(ValueError, match="sample or more"):
        predictor.predict_batch(validation[0][:0], confidence=0.5)


def test_exits_that_are_no_better_are_passed_over_and_confidence_becomes_honest(learner):
    model, (x, y) = learner
    model.inference = None
    weights = model.get_weights()
    # The second exit is made to answer at random, the third to be far too sure.
    second, third = model.get_layer("exit_2"), model.get_layer("exit_3")
    second.kernel.assign(RNG.normal(size=second.kernel.shape))
    third.kernel.assign(30 * keras.ops.convert_to_numpy(third.kernel))
    third.bias.assign(30 * keras.ops.convert_to_numpy(third.bias))
    predictor = quick(model)
    logits = np.stack(list(whole(model, x).values()))
    errors = (logits.argmax(axis=-1) != y).mean(axis=1)
    useful = [k for k in range(4) if k == 0 or errors[k] < errors[:k].min()]
    assert 1 not in useful
    found = predictor.calibrate((x, y))
    assert predictor.exit_names == list(found) == [f"exit_{k + 1}" for k in useful]
    assert {answer.exit for answer in predictor.stream(x[:1])} <= set(found)
    assert predictor.predict(x[:1], deadline=60).exit == predictor.exit_names[-1]
    if "exit_3" in found:
        assert found["exit_3"] > 3
    for name, temperature in found.items():
        assert nll(logits[int(name[-1]) - 1], y, temperature) <= nll(logits[int(name[-1]) - 1], y, 1.0)
    answer = predictor.predict(x)
    assert abs(answer.confidence.mean() - (answer.classes == y).mean()) < 0.05
    model.set_weights(weights)


def nll(logits, labels, temperature):
    return -np.log(np.maximum(probabilities(logits, temperature), 1e-12))[np.arange(len(labels)), labels].mean()


def test_the_fitted_temperature_is_the_best_of_all():
    logits, labels = 7 * RNG.normal(size=(500, 5)), RNG.integers(0, 5, 500)
    logits[np.arange(500), labels] += 4
    fitted = calibration.fit_temperature(logits, labels)
    grid = np.exp(np.linspace(np.log(0.05), np.log(50), 400))
    losses = [nll(logits, labels, temperature) for temperature in grid]
    assert abs(np.log(fitted / grid[np.argmin(losses)])) < 0.02
    as_probabilities = calibration.fit_temperature(probabilities(logits), labels)
    assert abs(as_probabilities / fitted - 1) < 1e-2


@pytest.mark.parametrize("make", [lambda: networks.eleven_exits(4), networks.small_resann])
def test_what_was_found_is_saved_with_the_model(make, tmp_path):
    model = make()
    x = networks.inputs_for(model, batch=64)
    y = RNG.integers(0, 3, 64)
    y = np.where(RNG.random(64) < 0.5, checks.outputs(model, x)[model.exit_names[-1]].argmax(axis=-1), y)
    predictor = quick(model)
    found = predictor.calibrate([(x[:32], y[:32]), (x[32:], y[32:])])
    assert predictor.calibrate((x, np.eye(3)[y])) == pytest.approx(found), "one-hot labels, the exits that are left"
    found = predictor.calibrate((x, y))
    budget = float(predictor.costs[-1].with_all_heads)
    predictor.fit_thresholds((x, y), budget)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model) and loaded.inference == model.inference
    again = ak.Predictor(loaded, x[:1], latencies=predictor.latencies)
    assert again.exit_names == predictor.exit_names == list(found)
    assert again.temperatures == predictor.temperatures == list(found.values())
    ours, theirs = (each.predict_batch(x, average_budget=budget) for each in (predictor, again))
    np.testing.assert_array_equal(ours.logits, theirs.logits)
    plain = make()
    plain.save(tmp_path / "plain.keras")
    assert keras.saving.load_model(tmp_path / "plain.keras").inference is None


def test_labels_that_do_not_fit_are_refused(learner):
    model, (x, y) = learner
    predictor = quick(model)
    with pytest.raises(ValueError, match="from 0 to 2 for each of 600 samples. Received: 599 labels"):
        predictor.calibrate((x, y[1:]))
    with pytest.raises(ValueError, match="Received: 600 labels from 1 to 3"):
        predictor.calibrate((x, y + 1))
    with pytest.raises(ValueError, match="Received: none"):
        predictor.calibrate(iter([]))
