"""Tests of early exit in the reader of exported networks."""

import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.export.reader import ExportedModel

pytestmark = pytest.mark.tensorflow

EXITS = ["exit_1", "exit_3", "exit_6"]


@pytest.fixture(scope="module")
def digits():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("needs the TensorFlow backend")
    images, labels = next(iter(ak.data.load("digits").test))
    return np.asarray(images)[:61], np.asarray(labels)[:61]


@pytest.fixture(scope="module")
def predictor(digits):
    model = ak.zoo.load("resann2x16_adaloss_digits")
    model.inference = {"temperatures": {"exit_1": 2.0, "exit_3": 1.5, "exit_6": 0.7}}
    made = ak.Predictor(model, digits[0][:1], exits=EXITS, engine="tensorflow")
    cheapest, dearest = made.costs[0].with_all_heads, made.costs[-1].with_all_heads
    made.fit_thresholds(digits, average_budget=(cheapest + dearest) / 2)
    made.fit_thresholds(digits, max_drop=0.1)
    return made


@pytest.fixture(scope="module", params=["saved_model", "litert"])
def exported(request, predictor, tmp_path_factory):
    pytest.importorskip({"saved_model": "tensorflow", "litert": "ai_edge_litert"}[request.param])
    model = predictor._model
    path = tmp_path_factory.mktemp("reader") / "set"
    return ExportedModel(ak.export(model, path, format=request.param, exits=EXITS, parts="stages"))


@pytest.mark.parametrize("confidence", [0.9, [0.5, 0.99], 2.0, 0.0])
def test_answers_equal_those_of_the_predictor(confidence, exported, predictor, digits):
    ours = exported.predict_batch(digits[0], confidence=confidence, batch_size=32)
    theirs = predictor.predict_batch(digits[0], confidence=confidence, batch_size=32)
    assert ours.exits == theirs.exits and ours.classes.tolist() == theirs.classes.tolist()
    assert ours.average_macs == theirs.average_macs
    np.testing.assert_allclose(ours.logits, theirs.logits, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ours.confidence, theirs.confidence, rtol=1e-3, atol=1e-4)
    if confidence == 0.9:
        assert 1 < len(set(ours.exits)), "some images leave early and some do not"


def test_fitted_thresholds_are_exported(exported, predictor, digits):
    (entry,) = predictor._model.inference["thresholds"]
    answer = exported.predict_batch(digits[0], average_budget=entry[0])
    assert answer.exits == exported.predict_batch(digits[0], confidence=entry[1]).exits
    assert answer.average_macs <= entry[0]
    with pytest.raises(ValueError, match=r"No threshold is fitted for `average_budget` 1.0 .*Fitted for any: \[\d+"):
        exported.predict_batch(digits[0], average_budget=1.0)
    (entry,) = predictor._model.inference["risk_thresholds"]
    answer = exported.predict_batch(digits[0], max_drop=np.float32(entry["max_drop"]))  # rounded
    assert answer.exits == exported.predict_batch(digits[0], confidence=entry["threshold"]).exits
    with pytest.raises(ValueError, match=r"No threshold is fitted for `risk` 0.3 .*Fitted for any: \[\]"):
        exported.predict_batch(digits[0], risk=0.3)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(), "Exactly one of `confidence`, `average_budget`, `risk` and `max_drop` must be given"),
        (dict(confidence=0.5, average_budget=1e6), "Exactly .*confidence=0.5, average_budget=1000000.0, risk=None"),
        (dict(confidence=[0.5]), r"one value for each exit but the last of .* Received: 1 values"),
        (dict(confidence=float("nan")), "`confidence` must be numbers. Received: nan"),
        (dict(confidence=0.5, batch_size=0), "`batch_size` must be a positive int. Received: batch_size=0"),
    ],
)
def test_wrong_arguments_are_refused(options, message, exported, digits):
    with pytest.raises(ValueError, match=message):
        exported.predict_batch(digits[0], **options)
