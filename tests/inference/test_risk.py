import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.inference import early_exit, risk
from anytime_keras.inference.answers import probabilities
from tests.inference import networks
from tests.inference.test_predictor import quick

COARSE = np.linspace(0.99, 0, 34)


def population(count, seed=0):
    """Confidences and errors of three exits; later ones are better, but not on every sample."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    shared = rng.normal(size=(count, 4))
    scales = np.array([1.2, 1.9, 2.6])[:, None, None]
    logits = 2 * (scales * np.eye(4)[labels] + 0.6 * shared + 0.7 * rng.normal(size=(3, count, 4)))
    return probabilities(logits).max(axis=-1), risk.exit_losses("error", logits, None, labels), logits, labels


def wealth(excess, tolerated, confidence):
    """The betting test as a loop over samples."""
    goal, money, best = np.log(1 / (1 - confidence)), 0.0, 0.0
    mean, variance, total, squares = 0.5, 0.25, 0.5, 0.25
    for number, value in enumerate(excess, 1):
        bet = min(np.sqrt(2 * goal / (len(excess) * variance)), 0.75 / (1 - tolerated))
        money += np.log(1 - bet * (value - tolerated))
        best = max(best, money)
        total += value
        mean = total / (number + 1)
        squares += (value - mean) ** 2
        variance = squares / (number + 1)
    return best >= goal


def test_the_betting_test_equals_a_loop_over_samples():
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(60):
        share = rng.uniform(0, 0.03)
        excess = rng.choice([1.0, -1.0, 0.0], p=[share, 0.01, 0.99 - share], size=800)
        outcomes.append(risk.passes(excess, 0.02, 0.9))
        assert outcomes[-1] == wealth(excess, 0.02, 0.9)
    assert 0 < sum(outcomes) < 60


def test_a_mean_at_the_tolerated_risk_passes_as_rarely_as_guaranteed():
    rng = np.random.default_rng(1)
    for values, shares in (([1.0, 0.0], [0.05, 0.95]), ([1.0, -1.0, 0.0], [0.15, 0.1, 0.75])):
        passed = sum(risk.passes(rng.choice(values, p=shares, size=400), 0.05, 0.9) for _ in range(1000))
        assert passed <= 100 + 3 * np.sqrt(1000 * 0.1 * 0.9)


@pytest.mark.parametrize("tolerated, count, confidence", [(0.05, 300, 0.95), (0.03, 500, 0.9)])
def test_the_guarantee_fails_no_more_often_than_stated(tolerated, count, confidence):
    sure, errors, *_ = population(100_000)
    samples = np.arange(sure.shape[1])
    true = {risk.NEVER_SURE: 0.0}
    for threshold in COARSE:
        positions = risk.exit_positions(sure, threshold)
        true[float(threshold)] = (errors[positions, samples] - errors[-1]).mean()
    assert max(true.values()) > 2 * tolerated, "or any threshold would do"
    rng = np.random.default_rng(2)
    found = []
    for _ in range(1000):
        drawn = rng.integers(0, len(samples), count)
        found.append(risk.safe_threshold(sure[:, drawn], errors[:, drawn], tolerated, confidence, COARSE))
    broken = sum(true[threshold] > tolerated for threshold in found)
    allowed = 1 - confidence
    assert broken <= 1000 * allowed + 3 * np.sqrt(1000 * allowed * confidence)
    assert np.mean([threshold <= 1 for threshold in found]) > 0.5, "most of the time something can leave early"


def test_thresholds_are_cheaper_for_more_samples_more_risk_and_less_confidence():
    sure, errors, *_ = population(20_000)
    base = risk.safe_threshold(sure[:, :4000], errors[:, :4000], 0.02, 0.95)
    assert risk.safe_threshold(sure[:, :4000], errors[:, :4000], 0.05, 0.95) < base
    assert risk.safe_threshold(sure[:, :4000], errors[:, :4000], 0.02, 0.5) < base
    assert risk.safe_threshold(sure, errors, 0.02, 0.95) < base
    assert risk.safe_threshold(sure, np.ones_like(errors), 0.02, 0.95) == 0.0, "early answers as bad as late ones"
    harmful = np.stack([np.ones(4000), np.ones(4000), np.zeros(4000)])
    assert risk.safe_threshold(np.ones((3, 4000)), harmful, 0.02, 0.95) == early_exit.NEVER_SURE


def test_a_validation_set_that_is_too_small_is_refused_with_the_size_that_is_needed():
    least = risk.least_samples(0.01, 0.95)
    sure, errors = np.ones((2, least)), np.zeros((2, least))
    assert risk.safe_threshold(sure, errors, 0.01, 0.95) == 0.0
    with pytest.raises(ValueError, match=f"too small for risk=0.01.*{least - 1} samples.*Needed: {least}"):
        risk.safe_threshold(sure[:, 1:], errors[:, 1:], 0.01, 0.95)
    assert risk.least_samples(0.01, 0.99) > least > risk.least_samples(0.02, 0.95)


def test_losses_of_all_kinds():
    _, errors, logits, labels = population(50)
    classes = logits.argmax(axis=-1)
    np.testing.assert_array_equal(errors, classes != labels)
    np.testing.assert_array_equal(risk.exit_losses("consistency", logits, None, None), classes != classes[-1])

    def brier(shares, labels):
        return ((shares - np.eye(4)[labels]) ** 2).sum(axis=1) / 2

    shares = np.exp(logits / 2) / np.exp(logits / 2).sum(axis=-1, keepdims=True)
    expected = np.stack([brier(each, labels) for each in shares])
    np.testing.assert_allclose(risk.exit_losses(brier, logits, [2.0] * 3, labels), expected, rtol=1e-4)
    with pytest.raises(ValueError, match="number from 0 to 1 for each of 50.*values from 2"):
        risk.exit_losses(lambda shares, labels: np.full(50, 2), logits, [1.0] * 3, labels)


def test_the_drop_limit_holds_on_the_validation_samples():
    sure, errors, *_ = population(3000)
    for max_drop in (0.0, 0.01, 0.05):
        threshold = risk.lowest_within(sure, errors, max_drop)
        drops = {
            value: (errors[risk.exit_positions(sure, value), np.arange(3000)] - errors[-1]).mean()
            for value in risk.THRESHOLDS
        }
        assert drops[threshold] <= max_drop + 1e-9
        below = risk.THRESHOLDS[risk.THRESHOLDS < threshold]
        assert drops[below[0]] > max_drop


@pytest.fixture(scope="module")
def trained():
    """A briefly trained network with four exits, with validation and test data."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = networks.eleven_exits(4)
    centres = rng.normal(size=(3, 4))
    y = rng.integers(0, 3, 5600)
    x = (centres[y] + rng.normal(size=(5600, 4))).astype("float32")
    model.compile(keras.optimizers.Adam(0.02), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x[:600], y[:600], epochs=5, verbose=0)
    return model, (x[600:], y[600:])


def test_predictors_fit_store_and_use_thresholds_for_a_risk(trained, tmp_path):
    model, (x, y) = trained
    model.inference = None
    predictor, validation = quick(model), (x[:2500], y[:2500])
    fitted = predictor.fit_thresholds(validation, risk=[0.02, 0.1])
    drops = predictor.fit_thresholds(validation, max_drop=0.02)
    assert drops[0.02] <= fitted[0.02], "a promise costs more"
    assert fitted[0.1] <= fitted[0.02] <= 1
    logits = np.stack(list(model.predict(validation[0], verbose=0).values()))
    sure, errors = probabilities(logits).max(axis=-1), logits.argmax(axis=-1) != validation[1]
    assert fitted[0.02] == risk.safe_threshold(sure, errors.astype(float), 0.02)

    model.save(tmp_path / "model.keras")
    later = quick(keras.saving.load_model(tmp_path / "model.keras"))
    late = (predictor.predict(x[2500:]).classes != y[2500:]).mean()
    costs = []
    for target in ({"risk": 0.02}, {"risk": 0.1}, {"max_drop": 0.02}):
        answer = later.predict_batch(x[2500:], **target)
        costs.append(answer.average_macs)
        assert (answer.classes != y[2500:]).mean() - late < next(iter(target.values())) + 0.02
    assert costs[1] <= costs[0] < model.exits[-1].macs

    consistent = predictor.fit_thresholds(validation, risk=0.02, loss="consistency", confidence=0.9)
    entries = [entry for entry in model.inference["risk_thresholds"] if entry.get("risk") == 0.02]
    assert [entry["loss"] for entry in entries] == ["consistency"]
    answer = predictor.predict_batch(x, risk=0.02)
    np.testing.assert_array_equal(answer.positions, predictor.predict_batch(x, confidence=consistent[0.02]).positions)
    model.inference = None


@pytest.mark.long
def test_thresholds_for_a_risk_are_for_the_exits_and_temperatures_they_were_fitted_for(trained):
    model, (x, y) = trained
    model.inference = None
    predictor = quick(model)
    predictor.fit_thresholds((x, y), risk=0.02)
    two = ak.Predictor(model, x[:1], exits=["exit_1", "exit_4"])
    with pytest.raises(ValueError, match="No threshold is fitted for `risk` 0.02.*Fitted for any: .0.02"):
        two.predict_batch(x, risk=0.02)
    two.fit_thresholds((x, y), risk=0.02)
    for each in (predictor, two):
        each.predict_batch(x, risk=0.02)
    model.inference = None


def test_impossible_guarantees_are_refused_before_any_work(trained):
    model, (x, y) = trained
    predictor = quick(model)

    def unread():
        raise AssertionError("data are read")
        yield

    for wrong, message in [
        ({}, "Exactly one of `average_budget`, `risk` and `max_drop`"),
        ({"risk": 0.1, "max_drop": 0.1}, "Exactly one of `average_budget`, `risk` and `max_drop`"),
        ({"risk": []}, r"`risk` must be .*at least one. Received: risk=\[\]"),
        ({"average_budget": []}, "`average_budget` must be .*at least one"),
        ({"risk": 0}, "`risk` must be a number between 0 and 1. Received: risk=0"),
        ({"risk": [0.1, "1%"]}, "`risk` must be .*'1%'"),
        ({"risk": 0.1, "confidence": 95}, "`confidence` must be .*95"),
        ({"risk": 0.1, "loss": "brier"}, "`loss` must be one of .*'brier'"),
        ({"max_drop": 1}, "`max_drop` must be .*1"),
    ]:
        with pytest.raises(ValueError, match=message):
            predictor.fit_thresholds(unread(), **wrong)
    with pytest.raises(ValueError, match="too small for risk=0.01"):
        predictor.fit_thresholds((x[:50], y[:50]), risk=0.01)
    with pytest.raises(ValueError, match="equal weight"):
        predictor.fit_thresholds((x, y, np.ones(len(y))), risk=0.1)
    with pytest.raises(ValueError, match="Exactly one of `confidence`"):
        predictor.predict_batch(x, confidence=0.9, risk=0.1)
    with pytest.raises(ValueError, match="No threshold is fitted for `max_drop` 0.3"):
        predictor.predict_batch(x, max_drop=0.3)


@pytest.mark.parametrize("target", [{"risk": 0.1}, {"max_drop": 0.1}, {"average_budget": 1e9}])
def test_there_is_no_guarantee_for_nan_outputs(trained, target):
    _, (x, y) = trained
    features = keras.Input((4,))
    exits = {"early": keras.layers.Dense(3)(features[:, :3]), "late": keras.layers.Dense(3)(features)}
    damaged = x.copy()
    damaged[7, 3] = np.nan
    with pytest.raises(ValueError, match=r"numbers at each exit. Received: NaN from \['late'\]"):
        quick(ak.AnytimeModel(features, exits)).fit_thresholds((damaged, y), **target)


def test_a_loss_gets_the_outputs_of_a_sigmoid_as_they_are(trained):
    _, (x, y) = trained
    features = keras.Input((4,))
    exits = {name: keras.layers.Dense(3, "sigmoid", name=name)(features) for name in ("early", "late")}
    model, seen = ak.AnytimeModel(features, exits), []

    def loss(shares, labels):
        seen.append(shares)
        return np.zeros(len(labels))

    quick(model).fit_thresholds((x[:200], y[:200]), risk=0.1, loss=loss)
    expected = list(model.predict(x[:200], verbose=0).values())
    np.testing.assert_allclose(np.stack(seen), np.stack(expected), atol=1e-6)
