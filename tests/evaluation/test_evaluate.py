import json

import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.evaluation import Curve, CurvePoint, latencies, plot_curves

RNG = np.random.default_rng(0)


def fixed_answers(probabilities=False):
    """A model whose exits return known logits: the input, and twice its reverse."""
    inputs = keras.Input((3,))
    first = keras.layers.Lambda(lambda x: x, name="first")(inputs)
    second = keras.layers.Lambda(lambda x: 2 * x[:, ::-1], name="second")(inputs)
    if probabilities:
        first, second = keras.layers.Softmax()(first), keras.layers.Softmax()(second)
    return ak.AnytimeModel(inputs, {"first": first, "second": second})


X = RNG.normal(size=(50, 3)).astype("float32")
Y = RNG.integers(0, 3, 50)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(1, keepdims=True))


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("one_hot", [False, True])
def test_error_and_loss_equal_those_computed_by_hand(probabilities, one_hot):
    labels = np.eye(3)[Y] if one_hot else Y
    curve = ak.evaluate(fixed_answers(probabilities), (X, labels), batch_size=16)
    for point, logits in zip(curve, (X, 2 * X[:, ::-1])):
        assert point.error == pytest.approx((logits.argmax(1) != Y).mean())
        assert point.loss == pytest.approx(-log_softmax(logits)[np.arange(50), Y].mean(), rel=1e-5)
    assert [point.exit for point in curve] == ["first", "second"]
    assert curve.about["images"] == 50


@pytest.mark.parametrize("form", ["array", "dict", "list", "batches"])
def test_sample_weights_are_used(form):
    weights = RNG.uniform(0, 2, 50)
    weights[:10] = 0
    given = {"dict": {"second": weights}, "list": [None, weights]}.get(form, weights)
    data = (X, Y, given)
    if form == "batches":
        data = [(X[start : start + 20], Y[start : start + 20], weights[start : start + 20]) for start in (0, 20, 40)]
    curve = ak.evaluate(fixed_answers(), data, batch_size=16)
    of_first = np.ones(50) if form in ("dict", "list") else weights
    for point, logits, own in zip(curve, (X, 2 * X[:, ::-1]), (of_first, weights)):
        losses = -log_softmax(logits)[np.arange(50), Y]
        assert point.error == pytest.approx(np.average(logits.argmax(1) != Y, weights=own))
        assert point.loss == pytest.approx(np.average(losses, weights=own), rel=1e-5)
    assert curve.about["images"] == 50


def heads(activation, units, loss):
    inputs = keras.Input((3,))
    exits = {name: keras.layers.Dense(units, activation, name=name)(inputs) for name in ("first", "second")}
    model = ak.AnytimeModel(inputs, exits)
    model.compile("sgd", loss=loss, metrics=["binary_accuracy"])
    return model


@pytest.mark.parametrize("units", [1, 4])
def test_exits_that_end_in_a_sigmoid_are_measured_label_by_label(units):
    model, labels = heads("sigmoid", units, "binary_crossentropy"), RNG.integers(0, 2, (50, units))
    logs = model.evaluate(X, labels, verbose=0, return_dict=True, batch_size=50)
    for point in ak.evaluate(model, (X, labels if units > 1 else labels[:, 0])):
        assert point.loss == pytest.approx(logs[f"{point.exit}_loss"], rel=1e-4)
        assert point.error == pytest.approx(1 - logs[f"{point.exit}_binary_accuracy"], abs=1e-6)
    with pytest.raises(ValueError, match=rf"must be 0 or 1 for each of its outputs, shape \(50, {units}\)"):
        ak.evaluate(model, (X, Y))


@pytest.mark.parametrize("units, shape", [(1, (50,)), (1, (50, 1)), (2, (50, 2))])
def test_a_regression_is_refused_with_a_suitable_error(units, shape):
    with pytest.raises(ValueError, match="For other networks, use `model.evaluate`"):
        ak.evaluate(heads(None, units, "mse"), (X, RNG.normal(size=shape)))


def test_agrees_with_keras_on_a_data_set():
    data = ak.data.load(
        "digits", batch_size=359
    )  # one batch, because Keras's mean over batches ignores that the last one is smaller
    model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    model.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    logs = model.evaluate(data.test, verbose=0, return_dict=True)
    curve = ak.evaluate(model, data.test)
    costs = ak.cost.exit_costs(model)
    for point, cost in zip(curve, costs):
        assert point.error == pytest.approx(1 - logs[f"{point.exit}_accuracy"], abs=1e-6)
        assert point.loss == pytest.approx(logs[f"{point.exit}_loss"], rel=1e-4)
        assert (point.backbone, point.with_head, point.with_all_heads, point.params) == (
            cost.backbone,
            cost.with_head,
            cost.with_all_heads,
            cost.params,
        )
        assert point.latency is None


def test_latency_grows_with_what_is_computed():
    x = inputs = keras.Input((256,))
    small = keras.layers.Dense(3, name="small")(x)
    for _ in range(12):
        x = keras.layers.Dense(1500)(x)
    model = ak.AnytimeModel(inputs, {"small": small, "large": keras.layers.Dense(3)(x)})
    seconds = latencies(model, np.zeros((1, 256), "float32"), repeats=20, seconds=0.2)
    assert 0 < seconds["small"] < seconds["large"] < 1


def curve(errors, costs, name="curve", latency=None):
    return Curve(
        [
            CurvePoint(f"exit_{number}", error, 3 * error, cost, cost, cost, cost, latency)
            for number, (error, cost) in enumerate(zip(errors, costs), 1)
        ],
        name,
    )


FOUR = curve([0.4, 0.3, 0.25, 0.2], [10, 30, 60, 100])


@pytest.mark.parametrize(
    "fraction, exit",
    [
        (0.05, None),
        (0.1, "exit_1"),
        (0.29, "exit_1"),
        (0.3, "exit_2"),
        (0.5, "exit_2"),
        (0.75, "exit_3"),
        (1, "exit_4"),
        (2, "exit_4"),
    ],
)
def test_at_returns_the_latest_exit_within_the_fraction(fraction, exit):
    point = FOUR.at(fraction)
    assert point.exit == exit
    assert np.isnan(point.error) == (exit is None)


def test_relative_to_is_the_papers_percentage():
    optimal = curve([0.2, 0.25, 0.2, 0.1], [10, 30, 60, 100])
    np.testing.assert_allclose(FOUR.relative_to(optimal), [100, 20, 25, 100])
    np.testing.assert_allclose(FOUR.relative_to(optimal, fractions=(0.05, 0.3, 1)), [np.nan, 20, 100])
    larger = curve([0.3, 0.1], [25, 50])
    np.testing.assert_allclose(FOUR.relative_to(larger, fractions=(0.5, 1)), [0, 100])
    with pytest.raises(ValueError, match="4 and 2 exits.*fractions"):
        FOUR.relative_to(larger)


def test_area_is_the_mean_error_over_budgets():
    assert FOUR.area() == pytest.approx((0.4 * 20 + 0.3 * 30 + 0.25 * 40) / 90)
    assert curve([0.3], [10]).area() == 0.3


def test_json_round_trip(tmp_path):
    FOUR.about["seed"] = 3
    FOUR.to_json(tmp_path / "curve.json")
    again = Curve.from_json(tmp_path / "curve.json")
    assert again == FOUR and again.about == {"seed": 3}
    json.loads((tmp_path / "curve.json").read_text())
    for content in (
        "{",
        "[]",
        "{}",
        '{"name": "a", "about": {}, "points": [{"exit": 1}]}',
        '{"name": "a", "about": {}, "points": []}',
    ):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ValueError, match="curve"):
            Curve.from_json(tmp_path / "bad.json")


def test_the_table_has_a_line_for_each_exit():
    lines = FOUR.table({"weight": [0.1, 0.2, 0.3, 1.0]}).splitlines()
    assert len(lines) == 6 and "weight" in lines[0] and "latency" not in lines[0]
    assert lines[-1].split() == ["exit_4", "0.000", "100%", "20.00", "0.600", "0.1", "1.000"]
    assert "latency (ms)" in curve([0.1], [10], latency=0.002).table()


def test_a_plot_of_several_curves(tmp_path):
    figure = plot_curves([FOUR, curve([0.5, 0.1], [20, 200], "other")], tmp_path / "deep" / "curves.png", title="two")
    assert (tmp_path / "deep" / "curves.png").read_bytes()[:4] == b"\x89PNG"
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    np.testing.assert_allclose(axes.lines[-2].get_ydata(), [40, 30, 25, 20])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["curve", "other"]
    FOUR.plot(tmp_path / "one.svg")
    with pytest.raises(ValueError, match="suffix"):
        FOUR.plot(tmp_path / "noending")
    with pytest.raises(ValueError, match="has no latency"):
        FOUR.plot(cost="latency")


@pytest.mark.parametrize(
    "data, message",
    [
        ((X, Y[:10]), "same length"),
        ((X, Y, Y, Y), "4 elements"),
        ((X, Y, Y[:10]), "same length"),
        ((X, Y, -np.ones(50)), "Sample weights must be one finite number of 0 or more.*for 'first', values from -1"),
        ((X, Y, np.zeros(50)), "must not all be 0. Received: only 0 for 'first'"),
        ((X, Y, [np.ones(50)]), "an entry for each exit. Received: sample_weight of length 1 for 2 exits"),
        ((X, Y, {"third": np.ones(50)}), "names of exits as keys.*Received: 'third'"),
        ((X, np.eye(3)[Y] + np.eye(3)[(Y + 1) % 3]), r"one-hot, with a single 1. Received: \[.*1.0.* for sample 0"),
        ((X, np.zeros((50, 3))), r"one-hot, with a single 1. Received: \[0.0, 0.0, 0.0\] for sample 0"),
        ((X, X), "Rows of labels must be one-hot.*For other networks, use `model.evaluate`"),
        ([], "0 elements"),
        ((X[:0], Y[:0]), "at least one batch"),
        ((X, Y + 3), "from 0 to 2"),
        ((X, Y - 3), "from 0 to 2"),
        ([X[:4]] * 3, "3 elements"),
        (iter([X[:4]]), r"batches of \(x, y\).*Received: a batch of type ndarray"),
    ],
)
def test_data_that_does_not_fit_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        ak.evaluate(fixed_answers(), data)


def test_other_objects_than_networks_and_curves_are_refused():
    with pytest.raises(ValueError, match="functional"):
        ak.evaluate(keras.layers.Dense(3), (X, Y))
    with pytest.raises(ValueError, match="at least one `CurvePoint`"):
        Curve([])
    with pytest.raises(ValueError, match="fraction=0"):
        FOUR.at(0)
    with pytest.raises(ValueError, match="'seconds'"):
        FOUR.at(0.5, cost="seconds")
    inputs = keras.Input((4, 4, 3))
    dense = ak.AnytimeModel(inputs, {"map": keras.layers.Conv2D(3, 1)(inputs)})
    with pytest.raises(ValueError, match="'map'"):
        ak.evaluate(dense, (np.zeros((2, 4, 4, 3)), np.zeros(2, int)))
