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
    """A briefly trained network, its predictor, and validation data."""
    keras.utils.set_random_seed(0)
    model = networks.eleven_exits(4)
    centres = RNG.normal(size=(3, 4))
    y = RNG.integers(0, 3, 1200)
    x = (centres[y] + RNG.normal(size=(1200, 4))).astype("float32")
    model.compile(keras.optimizers.Adam(0.02), loss=checks.crossentropy())
    model.fit(x[:600], y[:600], epochs=10, verbose=0)
    return model, (x[600:], y[600:])


@pytest.mark.parametrize("make", [networks.small_resann, networks.multi_scale, networks.several_inputs])
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


def test_samples_that_exited_are_no_longer_computed():
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


def multi_label():
    features = x = keras.Input((4,))
    exits = {}
    for name in ("first", "second"):
        x = keras.layers.Dense(6, activation="tanh")(x)
        exits[name] = keras.layers.Dense(3, activation="sigmoid", name=name)(x)
    return ak.AnytimeModel(features, exits)


def test_confidence_of_a_sigmoid_is_its_own_output():
    model = multi_label()
    predictor, x = quick(model), networks.inputs_for(model, batch=20)
    outputs = whole(model, x)
    answer = predictor.predict(x)
    np.testing.assert_allclose(answer.probabilities, outputs["second"], rtol=1e-5)
    np.testing.assert_allclose(answer.confidence, outputs["second"].max(axis=1), rtol=1e-5)
    first = outputs["first"].max(axis=1)
    found = predictor.predict_batch(x, confidence=float(np.median(first)))
    np.testing.assert_array_equal(found.positions, first < np.median(first))
    with pytest.raises(ValueError, match="Only exits that predict one class.*Received: exits that end in a sigmoid"):
        predictor.calibrate((x, RNG.integers(0, 2, (20, 3))))


def test_labels_with_several_classes_or_none_cannot_calibrate(learner):
    model, (x, _) = learner
    predictor = quick(model)
    for row in ([1, 0, 1], [0, 0, 0], [0.5, 0.5, 0]):
        with pytest.raises(ValueError, match="one-hot, with a single 1"):
            predictor.calibrate((x, np.tile(np.array(row, "float32"), (len(x), 1))))


def test_calibration_counts_samples_by_their_weights():
    logits, labels = RNG.normal(size=(3, 40, 5)), RNG.integers(0, 5, 40)
    logits[:, np.arange(40), labels] += np.array([[0.5], [1.0], [2.0]])
    weights, half = np.arange(40) % 2, slice(1, None, 2)
    assert calibration.better_exits(logits, labels, weights) == calibration.better_exits(logits[:, half], labels[half])
    expected = calibration.fit_temperature(logits[2, half], labels[half])
    assert calibration.fit_temperature(logits[2], labels, weights) == pytest.approx(expected)
    assert expected != pytest.approx(calibration.fit_temperature(logits[2], labels))


def test_no_batch_size_is_compiled_twice():
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


def test_a_larger_budget_is_kept_and_never_selects_an_earlier_exit(learner):
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
    for budget in (1, -5):
        with pytest.raises(ValueError, match="at least what the first exit costs, .* MACs. Received"):
            predictor.fit_thresholds(validation, budget)
    with pytest.raises(ValueError, match="must be a number of MACs. Received: average_budget=nan"):
        predictor.fit_thresholds(validation, float("nan"))
    for wrong in ({}, {"confidence": 0.5, "average_budget": 100}):
        with pytest.raises(ValueError, match="Exactly one of `confidence`, `average_budget`, `risk` and `max_drop`"):
            predictor.predict_batch(validation[0], **wrong)
    with pytest.raises(ValueError, match="one value for each exit but the last.*Received: 2 values"):
        predictor.predict_batch(validation[0], confidence=[0.5, 0.5])
    with pytest.raises(ValueError, match="must be numbers"):
        predictor.predict_batch(validation[0], confidence=float("nan"))
    with pytest.raises(ValueError, match="`batch_size` must be"):
        predictor.predict_batch(validation[0], confidence=0.5, batch_size=0)
    with pytest.raises(ValueError, match="sample or more"):
        predictor.predict_batch(validation[0][:0], confidence=0.5)


def test_exits_that_are_no_better_are_skipped_and_confidence_is_calibrated(learner):
    model, (x, y) = learner
    model.inference = None
    weights = model.get_weights()
    # The second exit predicts at random, the third one is far too confident.
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


@pytest.mark.long
@pytest.mark.parametrize("make", [lambda: networks.eleven_exits(4), networks.small_resann])
def test_thresholds_and_temperatures_are_saved_with_the_model(make, tmp_path):
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
    with pytest.raises(ValueError, match=r"must have the same length. Received: lengths \[599, 600\]"):
        predictor.calibrate((x, y[1:]))
    with pytest.raises(ValueError, match=r"Received: shape \(600,\), values from 1 to 3"):
        predictor.calibrate((x, y + 1))
    with pytest.raises(ValueError, match="Received: none"):
        predictor.calibrate(iter([]))


class Table(keras.layers.Layer):
    """A layer whose output has no batch axis."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def build(self, input_shape):
        self.table = self.add_weight(shape=self.shape, initializer="glorot_normal")

    def call(self, x):
        return self.table + 0

    def compute_output_spec(self, x):
        return keras.KerasTensor(self.shape, "float32")


def with_a_table(shape, first):
    """Two stages that share a table, which is the first or the last input of the second one."""
    features = keras.Input((6, 4))
    table = Table(shape)(features) if first else None
    x = keras.layers.Dense(4)(features)
    table = Table(shape)(x) if table is None else table
    early = keras.layers.Dense(3)(keras.layers.Flatten()(x + table))
    late = keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Dense(4)(x) + table))
    return ak.AnytimeModel(features, {"early": early, "late": late})


def merged():
    """Between its exits, the batch axis is merged with another axis; the third exit has it separate again."""
    features = keras.Input((6, 4))
    flat = keras.layers.Dense(4, activation="tanh")(keras.ops.reshape(features, (-1, 4)))
    exits = {"early": keras.layers.Dense(3)(keras.layers.Flatten()(keras.ops.reshape(flat, (-1, 6, 4))))}
    apart = keras.layers.Flatten()(keras.ops.reshape(keras.layers.Dense(5)(flat), (-1, 6, 5)))
    exits["middle"] = keras.layers.Dense(3)(apart)
    exits["late"] = keras.layers.Dense(3)(keras.layers.Dense(4, activation="tanh")(apart))
    return ak.AnytimeModel(features, exits)


def swapped():
    """A network whose second stage has the batch as its second axis."""
    features = keras.Input((6, 4))
    turned = keras.ops.transpose(keras.layers.Dense(4)(features), (1, 0, 2))
    early = keras.layers.Dense(3)(keras.ops.mean(turned, axis=0))
    late = keras.layers.Dense(3)(keras.ops.mean(keras.layers.Dense(4, activation="tanh")(turned), axis=0))
    return ak.AnytimeModel(features, {"early": early, "late": late})


def leaving(model, count, share):
    """Runs a batch, part of which exits at the first exit; checks the logits and returns the answer and the costs."""
    checks.scramble(model)
    x = networks.inputs_for(model, batch=count)
    predictor, expected = quick(model), np.stack(list(checks.outputs(model, x).values()))
    sure = np.sort(probabilities(expected[0]).max(axis=-1))[::-1]
    answer = predictor.predict_batch(x, confidence=[float(sure[int(share * count)]), *[2.0] * (len(expected) - 2)])
    np.testing.assert_allclose(answer.logits, expected[answer.positions, np.arange(count)], rtol=1e-4, atol=1e-4)
    assert 0 < (answer.positions == 0).sum() < count
    return answer, np.array([exit.macs for exit in model.exits])


@pytest.mark.long
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1, 6, 4), (6, 4)])
@pytest.mark.parametrize("first", [True, False])
def test_a_shared_table_stays_complete_when_samples_exit(shape, first, share):
    answer, macs = leaving(with_a_table(shape, first), 16, share)
    assert answer.average_macs == macs[answer.positions].mean()


@pytest.mark.parametrize("make", [merged, swapped])
def test_samples_that_cannot_be_separated_all_continue_and_are_counted(make):
    answer, macs = leaving(make(), 6, 0.5)  # six of six: lengths do not identify the axes either
    computed = np.where(answer.positions == 0, 1, answer.positions)  # then the merged axes are separate again
    assert answer.average_macs == macs[computed].mean() > macs[answer.positions].mean()
    sizes = {tuple(leaving(make(), count, 0.5)[0].logits.shape) for count in (5, 9)}
    assert sizes == {(5, 3), (9, 3)}


def test_a_batch_of_fixed_size_is_not_reduced():
    features = keras.Input(batch_shape=(9, 4))
    x = keras.layers.Dense(4)(features)
    exits = {"early": keras.layers.Dense(3)(x), "late": keras.layers.Dense(3)(keras.layers.Dense(5)(x))}
    model = ak.AnytimeModel(features, exits)
    predictor = ak.Predictor(model, networks.inputs_for(model, batch=9))
    answer = predictor.predict_batch(networks.inputs_for(model, batch=9), confidence=0.5)
    assert answer.average_macs == predictor.costs[1].with_all_heads


def test_two_batches_are_not_taken_for_a_pair_of_arrays(learner):
    model, (x, y) = learner
    model.inference = None
    predictor, budget = quick(model), float(model.exits[-1].macs)
    whole_set = predictor.calibrate((x, y))
    assert predictor.calibrate([x, y]) == whole_set
    in_two = [(x[:300], y[:300]), (x[300:], y[300:])]
    for batches in (list, tuple, iter):
        model.inference = None
        assert predictor.calibrate(batches(in_two)) == pytest.approx(whole_set)
        assert list(predictor.fit_thresholds(batches(in_two), budget)) == [budget]
    with pytest.raises(ValueError, match="must be batches"):
        predictor.calibrate(None)
    model.inference = None


@pytest.mark.long
def test_predictors_of_one_model_keep_each_others_thresholds(learner):
    model, (x, y) = learner
    model.inference = None
    weights = model.get_weights()
    model.get_layer("exit_2").kernel.assign(keras.ops.zeros(model.get_layer("exit_2").kernel.shape))
    calibrated, full, two = quick(model), quick(model), ak.Predictor(model, x[:1], exits=["exit_1", "exit_4"])
    budget = float(model.exits[-1].macs)
    two.fit_thresholds((x, y), budget)
    full.fit_thresholds((x, y), budget / 2)
    temperatures = calibrated.calibrate((x, y))
    full.fit_thresholds((x, y), budget)
    assert model.inference["temperatures"] == temperatures and model.inference["exits"] == list(temperatures)
    for predictor in (two, full):
        assert predictor.predict_batch(x, average_budget=budget).average_macs <= budget
    assert full.predict_batch(x, average_budget=budget / 2).average_macs <= budget / 2
    for later in (calibrated, quick(model)):
        with pytest.raises(ValueError, match="No threshold is fitted"):  # those were for other temperatures
            later.predict_batch(x, average_budget=budget)
    model.set_weights(weights)
    model.inference = None


@pytest.mark.parametrize("shape", ["one unit", "a map"])
def test_heads_without_classes_are_refused_but_their_logits_are_returned(shape):
    features = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(3, 1)(features)
    maps = {"early": x, "late": keras.layers.Conv2D(3, 1)(x)}
    if shape == "one unit":
        maps = {name: keras.layers.Dense(1)(keras.layers.Flatten()(value)) for name, value in maps.items()}
    model = ak.AnytimeModel(features, maps)
    x, y = networks.inputs_for(model, batch=4), np.array([0, 1, 0, 1])
    predictor = quick(model)
    answer = predictor.predict(x)
    np.testing.assert_allclose(answer.logits, whole(model, x)["late"], rtol=1e-5, atol=1e-6)
    asks = [
        lambda: predictor.predict_batch(x, confidence=0.5),
        lambda: predictor.calibrate((x, y)),
        lambda: predictor.fit_thresholds((x, y), 1e9),
        lambda: answer.confidence,
        lambda: answer.classes,
    ]
    for ask in asks:
        with pytest.raises(ValueError, match="two classes or more.*Received: shape"):
            ask()


def test_budgets_may_be_numbers_of_any_type(learner):
    model, validation = learner
    model.inference = None
    predictor, macs = quick(model), float(model.exits[-1].macs)
    for budgets in (np.array([macs, 2 * macs]), [macs, 2 * macs], (np.float64(macs), int(2 * macs))):
        assert list(predictor.fit_thresholds(validation, budgets)) == [macs, 2 * macs]
    x = validation[0][:5]
    expected = predictor.predict_batch(x, average_budget=macs, batch_size=2)
    given = predictor.predict_batch(x, average_budget=np.float64(macs), batch_size=np.int64(2))
    np.testing.assert_array_equal(given.logits, expected.logits)
    for wrong in ([macs], np.array([macs]), "all"):
        with pytest.raises(ValueError, match="`average_budget` must be a number of MACs. Received"):
            predictor.predict_batch(x, average_budget=wrong)
    for wrong in ("all", ["all"]):
        with pytest.raises(ValueError, match="`average_budget` must be a number of MACs. Received"):
            predictor.fit_thresholds(validation, wrong)
    for wrong in (True, 2.0, "2"):
        with pytest.raises(ValueError, match="`batch_size` must be a positive int"):
            predictor.predict_batch(x, confidence=0.5, batch_size=wrong)
    model.inference = None
