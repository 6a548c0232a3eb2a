import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.evaluation import Calibration, Curve, Samples
from anytime_keras.evaluation.calibration import expected_error, reliability
from tests.evaluation.test_evaluate import X, Y, fixed_answers

NAMES = ["exit_1", "exit_2", "exit_3"]


def softmax(logits):
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def answers(count=400, classes=5, seed=0):
    """Logits of three exits, each twice as confident as it should be, and labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(3, count, classes)) * np.array([0.5, 1.0, 2.0])[:, None, None]
    labels = np.array([rng.choice(classes, p=shares) for shares in softmax(logits).mean(axis=0)])
    return 2 * logits, labels


def expected_error_by_hand(shares, labels, bins):
    total, sure = 0.0, shares.max(axis=1)
    for low in np.arange(bins) / bins:
        inside = (sure > low) & (sure <= low + 1 / bins)
        if inside.any():
            accuracy = (shares[inside].argmax(axis=1) == labels[inside]).mean()
            total += inside.mean() * abs(accuracy - sure[inside].mean())
    return total


@pytest.mark.parametrize("bins", [10, 15])
def test_calibration_error_equals_a_sum_over_intervals(bins):
    logits, labels = answers()
    temperatures = {"exit_1": 2.0, "exit_3": 2.5}
    found = Calibration(Samples.of(NAMES, logits, labels, temperatures), bins)
    for name, own in zip(NAMES, logits):
        assert found.errors[name] == pytest.approx(expected_error_by_hand(softmax(own), labels, bins), abs=1e-6)
        after = softmax(own / temperatures.get(name, 1.0))
        assert found.calibrated_errors[name] == pytest.approx(expected_error_by_hand(after, labels, bins), abs=1e-6)
    assert found.calibrated_errors["exit_1"] < found.errors["exit_1"]
    assert Calibration(Samples.of(NAMES, logits, labels), bins).calibrated_errors is None


def test_calibrated_confidence_has_no_error_and_intervals_include_their_ends():
    rng = np.random.default_rng(0)
    sure = rng.uniform(size=200_000)
    assert expected_error(sure, rng.uniform(size=200_000) < sure) < 0.01
    assert expected_error(np.array([0.0, 1.0]), np.array([False, True])) == 0
    assert reliability(np.array([0.0, 1.0]), np.array([False, True]))[2].sum() == 1


def test_risk_and_coverage_equal_those_of_each_threshold():
    logits, labels = answers()
    found = Calibration(Samples.of(NAMES, logits, labels))
    for name, own in zip(NAMES, logits):
        coverage, risk = found.risk_coverage(name)
        sure, wrong = softmax(own).max(axis=1), own.argmax(axis=1) != labels
        for threshold in np.quantile(sure, [0.1, 0.5, 0.9], method="lower"):
            answered = sure >= threshold
            at = np.searchsorted(coverage, answered.mean() - 1e-9)
            assert coverage[at] == pytest.approx(answered.mean())
            assert risk[at] == pytest.approx(wrong[answered].mean())
        assert risk[-1] == pytest.approx(wrong.mean())
    with pytest.raises(ValueError, match="must be one of.*exit_4"):
        found.risk_coverage("exit_4")


def test_samples_of_equal_confidence_share_their_risk():
    logits = np.log(np.array([[[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]]]))
    found = Calibration(Samples.of(["only"], logits, np.array([1, 0, 0, 0])))
    assert found.risk_coverage("only")[1].tolist() == [0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("probabilities", [False, True])
def test_evaluate_keeps_what_calibration_needs(probabilities):
    temperatures = {"second": 3.0}
    curve = ak.evaluate(fixed_answers(probabilities), (X, Y), batch_size=16, temperatures=temperatures)
    logits = np.stack([X, 2 * X[:, ::-1]])
    np.testing.assert_array_equal(curve.samples.classes, logits.argmax(axis=-1))
    np.testing.assert_allclose(curve.samples.true, softmax(logits)[:, np.arange(50), Y], rtol=1e-4)
    np.testing.assert_allclose(curve.samples.calibrated[1], softmax(logits[1] / 3).max(axis=1), rtol=1e-4)
    np.testing.assert_allclose(curve.samples.calibrated[0], curve.samples.confidences[0], rtol=1e-6)
    assert curve.calibration(bins=5).errors["first"] == pytest.approx(
        expected_error_by_hand(softmax(logits[0]), Y, 5), abs=1e-5
    )
    assert (1 - curve.samples.correct.mean(axis=1)).tolist() == pytest.approx(curve.errors)


def test_temperatures_that_a_predictor_stored_are_used():
    model = fixed_answers()
    assert ak.evaluate(model, (X, Y)).calibration().calibrated_errors is None
    model.inference = {"temperatures": {"second": 3.0}}
    found, given = ak.evaluate(model, (X, Y)), ak.evaluate(fixed_answers(), (X, Y), temperatures={"second": 3.0})
    assert found.calibration().calibrated_errors == given.calibration().calibrated_errors
    assert found.errors == given.errors and [point.loss for point in found] == [point.loss for point in given]


def test_curves_without_samples_raise_with_the_reason(tmp_path):
    curve = ak.evaluate(fixed_answers(), (X, Y))
    curve.to_json(tmp_path / "curve.json")
    for without in (
        Curve.from_json(tmp_path / "curve.json"),
        ak.evaluate(fixed_answers(), (X, Y, np.ones(50))),
        ak.evaluate(fixed_answers(), (X, {"first": Y, "second": Y})),
    ):
        for ask in (without.calibration, without.monotonicity):
            with pytest.raises(ValueError, match="has no samples: it was read from a file, or"):
                ask()
    with pytest.raises(ValueError, match="`bins` must be a positive int. Received: bins=0"):
        curve.calibration(bins=0)


def test_plots_and_the_table_show_every_exit(tmp_path):
    logits, labels = answers()
    found = Calibration(Samples.of(NAMES, logits, labels, {"exit_1": 2.0}), name="small")
    assert [line.split()[0] for line in found.table().splitlines()[2:]] == NAMES
    figure = found.plot(tmp_path / "reliability.png", title="small")
    drawn = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in drawn] == NAMES
    sure, right, _ = reliability(softmax(logits[0]).max(axis=1), logits[0].argmax(axis=1) == labels)
    np.testing.assert_allclose(drawn[0].lines[1].get_xydata(), 100 * np.stack([sure, right], axis=1), rtol=1e-5)
    figure = found.plot_risk_coverage(tmp_path / "risk.svg")
    assert [line.get_label() for line in figure.axes[0].lines] == NAMES
    assert (tmp_path / "reliability.png").stat().st_size and (tmp_path / "risk.svg").stat().st_size


def test_exits_of_several_networks_are_joined_in_order():
    first, labels = answers(seed=1)
    second, _ = answers(seed=2)
    parts = [
        (Samples.of(NAMES, first, labels, {"exit_1": 2.0}), {"exit_1": "a/exit_1", "exit_3": "a/exit_3"}),
        (Samples.of(NAMES, second, labels, {"exit_2": 3.0}), {"exit_2": "b/exit_2"}),
    ]
    found = Samples.joined(parts)
    logits = np.stack([first[0], first[2], second[1]])
    names = ["a/exit_1", "a/exit_3", "b/exit_2"]
    expected = Samples.of(names, logits, labels, {"a/exit_1": 2.0, "b/exit_2": 3.0})
    assert found.exit_names == names
    for field in ("labels", "classes", "confidences", "true", "calibrated", "calibrated_true"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))
    plain = Samples.of(NAMES, second, labels)
    assert Samples.joined([parts[0], (plain, {"exit_2": "b/exit_2"})]).calibrated is None
    assert Samples.joined([parts[0], (None, {})]) is None
