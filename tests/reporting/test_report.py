import dataclasses
import html.parser
import json
import re

import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.evaluation import Curve, CurvePoint, Samples
from anytime_keras.inference import risk
from anytime_keras.reporting import measure, sections
from tests import checks
from tests.inference import networks
from tests.inference.test_monotone import BY_HAND, softmax
from tests.inference.test_predictor import quick

NAMES = ["exit_1", "exit_2", "exit_3"]


@pytest.fixture(scope="module")
def trained():
    """A briefly trained network with three exits, with validation and test data."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = networks.eleven_exits(3)
    centres = rng.normal(size=(3, 4))
    y = rng.integers(0, 3, 5000)
    x = (centres[y] + rng.normal(size=(5000, 4))).astype("float32")
    model.compile(keras.optimizers.Adam(0.02), loss=checks.crossentropy())
    model.fit(x[:600], y[:600], epochs=5, verbose=0)
    return model, (x[600:3600], y[600:3600]), (x[3600:], y[3600:])


def thresholds_of(model, data, temperatures=None):
    curve, logits = measure.outputs(model, data)
    return measure.Thresholds(temperatures or {}, NAMES, logits, curve.samples.labels)


@pytest.fixture(scope="module")
def report(trained):
    model, validation, test = trained
    small = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)], name="small")
    return ak.report(model, test, validation, smaller={"small": small}, name="tiny", seconds=0)


def test_the_numbers_are_those_of_the_predictor(trained, report):
    model, validation, (x, y) = trained
    temperatures = thresholds_of(model, validation).temperatures
    curve = ak.evaluate(model, (x, y), temperatures=temperatures)
    assert report.curve.errors == curve.errors and min(report.curve.costs("latency")) > 0
    assert report.calibration.calibrated_errors == curve.calibration().calibrated_errors
    assert set(report.seconds) == {"all exits", "product", "caching"}

    model.inference = {"temperatures": temperatures}
    predictor = quick(model)
    model.inference = None
    for entry in [*report.early_exit, *report.budgets, *(each for each in report.promises if "threshold" in each)]:
        answer = predictor.predict_batch(x, confidence=entry["threshold"])
        assert answer.average_macs == pytest.approx(entry["macs"], rel=1e-3)
        assert (answer.classes == y).mean() == pytest.approx(entry["accuracy"], abs=1e-3)
    for entry in report.promises:
        if "excess" in entry:
            assert entry["excess"] == pytest.approx(1 - report.curve[-1].error - entry["accuracy"])
            assert entry["excess"] < entry["risk"] + 0.02


@pytest.mark.long
def test_an_ensemble_is_reported_at_its_used_exits():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 4)).astype("float32")
    y = x[:, :3].argmax(axis=1)
    members = []
    for units in (2, 16):
        features = keras.Input((4,))
        hidden = keras.layers.Dense(units, "relu")(features)
        exits = {"early": keras.layers.Dense(3)(hidden), "late": keras.layers.Dense(3)(keras.layers.Dense(64)(hidden))}
        members.append(ak.AnytimeModel(features, exits))
        members[-1].compile(keras.optimizers.Adam(0.03), loss=checks.crossentropy())
        members[-1].fit(x, y, epochs=4, verbose=0)
    eann = ak.EANN(members, (x[:300], y[:300]))
    eann.inference = {"temperatures": {name: 1.5 for name in eann.exit_names}}
    held, test = (x[:300], y[:300]), (x[300:], y[300:])
    found, expected = ak.report(eann, test, validation=held, seconds=0), eann.curve(test)
    assert [point.exit for point in found.curve] == eann.exit_names and len(eann.exit_names) > 1
    assert found.curve.errors == expected.errors and found.curve.costs() == expected.costs()
    assert found.about["temperatures"] == "those of the model"


def test_thresholds_are_fitted_on_validation_samples_that_temperatures_did_not_see(trained, report):
    model, (x, y), _ = trained
    thresholds = thresholds_of(model, (x, y))
    assert thresholds.count == 2400 == report.about["validation images"]
    assert "fitted on 600" in report.about["temperatures"]
    few = thresholds_of(model, (x[:300], y[:300]))
    assert few.temperatures == {} and few.count == 300 and "too few" in few.source
    given = thresholds_of(model, (x, y), {"exit_1": 2.0})
    assert given.temperatures == {"exit_1": 2.0} and given.count == 3000 and given.source == "those of the model"


def test_a_share_of_the_test_samples_can_serve_for_validation(trained):
    model, _, (x, y) = trained
    curve, logits = measure.outputs(model, (x, y), name="tiny")
    first, rest = measure.held_out(len(y), 0.4)
    assert sorted([*first, *rest]) == list(range(len(y))) and len(first) == round(0.4 * len(y))
    found = ak.report(model, (x, y), validation=0.4, smaller={"same": model}, seconds=0)
    only = ak.evaluate(model, (x[rest], y[rest]))
    for curve in (found.curve, found.smaller["same"]):
        assert curve.errors == pytest.approx(only.errors) and curve.about["images"] == len(rest)
        assert [point.loss for point in curve] == pytest.approx([point.loss for point in only])
        np.testing.assert_array_equal(curve.samples.labels, y[rest])
    assert found.comparison[0]["accuracy"] == pytest.approx(1 - only.errors[0])
    assert "a random 40% of the test images" in found.to_markdown()


def test_validation_images_that_were_trained_on_are_noticed(trained, report):
    model, (x, y), test = trained
    samples = ak.evaluate(model, test).samples
    assert report.about["lower validation error"] is None
    assert measure.leak(thresholds_of(model, (x, y)), samples) is None
    learnt = x, model.predict(x, verbose=0)["exit_3"].argmax(axis=-1)  # as if it had memorised them
    found = measure.leak(thresholds_of(model, learnt), samples)
    assert found == (0.0, pytest.approx((~samples.correct[-1]).mean()))
    about = {**report.about, "lower validation error": found}
    lines = sections.text(dataclasses.replace(report, about=about)).splitlines()
    (said,) = (line for line in lines if "Caution" in line)
    assert "may have been trained on the validation images" in said and "0.0%" in said


@pytest.mark.parametrize("method", BY_HAND)
def test_methods_are_compared_on_the_same_outputs(trained, report, method):
    model, validation, (x, y) = trained
    temperatures = thresholds_of(model, validation).temperatures
    logits = np.stack(list(model.predict(x, verbose=0).values()))
    logits /= np.array([temperatures[name] for name in NAMES])[:, None, None]
    for name, shares in ((method, BY_HAND[method](logits)), ("as trained", softmax(logits))):
        true = shares[:, np.arange(len(y)), y]
        found = report.monotonicity[name]
        falls = [max(true[0] - true[1], true[0] - true[2], true[1] - true[2]) > 0.05 for true in true.T]
        assert found.falls[0.05] == pytest.approx(np.mean(falls), abs=2e-3)
        right = (shares.argmax(axis=-1) == y).mean(axis=1)
        assert list(found.accuracies.values()) == pytest.approx(right.tolist(), abs=2e-3)


def test_outputs_that_are_probabilities_are_combined_like_logits():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(3, 50, 4)), rng.integers(0, 4, 50)
    logits -= logits.mean(axis=-1, keepdims=True)
    found = [measure.combined(each, Samples.of(NAMES, each, labels), {}) for each in (logits, softmax(logits))]
    for method in BY_HAND:
        assert found[0][method].falls == found[1][method].falls
        assert found[0][method].accuracies == found[1][method].accuracies


def fixed_curve(name, rights, seconds):
    """A curve of exits with given correct samples and given times."""
    labels = np.zeros(len(rights[0]), int)
    classes = 1 - np.array(rights, int)
    names = [f"exit_{number}" for number in range(1, len(rights) + 1)]
    sure = np.ones(classes.shape)
    points = [
        CurvePoint(own, float(wrong.mean()), 1.0, number, number, number, 1, latency)
        for number, (own, wrong, latency) in enumerate(zip(names, classes, seconds), 1)
    ]
    return Curve(points, name, samples=Samples(names, labels, classes, sure, sure))


def test_a_smaller_network_is_compared_with_the_latest_exit_that_is_as_fast(report):
    half, most, all_right = [True, False] * 50, [True] * 90 + [False] * 10, [True] * 100
    curve = fixed_curve("anytime", [half, most, all_right], [1.0, 2.0, 3.0])
    others = {
        "better": fixed_curve("better", [all_right], [2.5]),
        "worse": fixed_curve("worse", [half], [3.0]),
        "equal": fixed_curve("equal", [most[::-1]], [2.0]),
        "fast": fixed_curve("fast", [half], [0.5]),
    }
    found = {entry["name"]: entry for entry in measure.compared(curve, others)}
    assert [found[name].get("exit") for name in others] == ["exit_2", "exit_3", "exit_2", None]
    assert found["better"]["gain"] == pytest.approx(0.1)
    assert found["better"]["standard_error"] == pytest.approx(np.std([0.0] * 90 + [1.0] * 10) / 10)
    texts = sections.advice(dataclasses.replace(report, comparison=list(found.values())))
    verdicts = [text for text in texts if text.startswith("At a fixed deadline")]
    assert "the smaller network is better: better has 100.0%" in verdicts[0]
    assert "this network is better: worse has 50.0%" in verdicts[1]
    assert "neither is better: equal has 90.0%" in verdicts[2]
    assert "smaller network is better: fast has 50.0%" in verdicts[3]
    assert "exit_1, which is as accurate, takes 1e+03 ms" in verdicts[3]


def test_too_few_validation_samples_for_a_guarantee_are_reported(trained):
    model, (x, y), test = trained
    thresholds = thresholds_of(model, (x[:300], y[:300]))
    samples = ak.evaluate(model, test).samples
    found = measure.promises(samples, [1, 2, 3], thresholds, confidence=0.95)
    needed = {entry["risk"]: entry.get("needed") for entry in found}
    assert needed == {0.005: 806, 0.01: 402, 0.02: None, 0.05: None}
    assert needed[0.01] == risk.least_samples(0.01, 0.95)


class _Page(html.parser.HTMLParser):
    """Collects the tags and image sources of a page and checks that tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.images = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        if tag == "img":
            self.images.append(dict(attributes)["src"])
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_pages_are_self_contained_and_show_every_exit(report, tmp_path):
    folder = report.save(tmp_path / "new" / "report")
    text = (folder / "report.html").read_text()
    page = _Page(text)
    assert len(page.images) == len(report.figures()) == 5
    assert all(image.startswith("data:image/svg+xml;base64,") for image in page.images)
    assert "http" not in re.sub(r'src="[^"]*"', "", text) and "script" not in page.seen
    lines = (folder / "report.md").read_text().splitlines()
    assert lines[0] == "# tiny" and sum(line.startswith("![") for line in lines) == 5
    for point in report.curve:
        (row,) = (line for line in lines if line.startswith(f"| {point.exit} |"))
        assert f"{100 * (1 - point.error):.1f}%" in row
    for advised in report.advice():
        assert f"- {advised}" in lines
    numbers = json.loads((folder / "report.json").read_text())
    assert Curve.from_dict(numbers["curve"]) == report.curve
    assert numbers["promises"] == report.promises
    assert {path.suffix for path in folder.iterdir()} == {".html", ".md", ".json", ".pdf"}


def test_unsupported_input_is_refused_before_any_work(trained):
    model, validation, test = trained
    sigmoid = networks.two_exits(features := keras.Input((4,)), keras.layers.Dense(4)(features))
    sigmoid = ak.AnytimeModel(sigmoid.input, {name: keras.activations.sigmoid(x) for name, x in sigmoid.output.items()})
    for arguments, message in [
        ((model, test), "`validation` must be given.*Received: validation=None"),
        ((model, test, 1.5), "from 0 to 1. Received: 1.5"),
        ((keras.Sequential([features, keras.layers.Dense(3)]), test, validation), "two exits or more"),
        ((model, test, validation, [model]), "`smaller` must be a dict.*Received: smaller=\\["),
        ((model, test, validation, {"small": "small.keras"}), "`smaller` must be a dict .*functional.*'small.keras'"),
    ]:
        with pytest.raises(ValueError, match=message):
            ak.report(*arguments)
    x, y = validation
    with pytest.raises(ValueError, match="samples of equal weight"):
        ak.report(model, test, (x, y, np.ones(len(y))))
    with pytest.raises(ValueError, match="whose exits end in a sigmoid"):
        ak.report(sigmoid, test, (x, np.eye(3)[y]))


@pytest.mark.long
def test_nan_and_shares_without_samples_are_refused():
    features = keras.Input((4,))
    model = ak.AnytimeModel(features, {name: keras.layers.Dense(3)(features) for name in ("early", "late")})
    x, y = np.ones((20, 4), "float32"), np.zeros(20, int)
    damaged = x.copy()
    damaged[3, 1] = np.nan
    for test, validation in ((damaged, (x, y)), (x, (damaged, y))):
        with pytest.raises(ValueError, match="numbers at each exit. Received: NaN"):
            ak.report(model, (test, y), validation, seconds=0)
    for share in (0.001, 0.999):
        with pytest.raises(ValueError, match=f"`validation` as a share must leave .*Received: {share} of 20"):
            ak.report(model, (x, y), share, seconds=0)
    for confidence in (2, 0, "high"):
        with pytest.raises(ValueError, match="`confidence` must be a number between 0 and 1"):
            ak.report(model, (x, y), (x, y), confidence=confidence)
