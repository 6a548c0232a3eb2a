"""Tests of `evaluate` and `calibrate` on the computations of a predictor."""

import keras
import numpy as np
import pytest

import anytime_keras as ak
from tests import checks


@pytest.fixture(scope="module")
def model():
    return ak.zoo.load("resann2x16_adaloss_digits")


@pytest.fixture(scope="module")
def test_set():
    images, labels = zip(*ak.data.load("digits").test)
    return np.concatenate([np.asarray(each) for each in images]), np.concatenate([np.asarray(each) for each in labels])


def errors_of(outputs, labels):
    return [float((logits.argmax(axis=1) != labels).mean()) for logits in outputs.values()]


def test_a_predictor_is_evaluated_like_its_model(model, test_set):
    x, y = test_set
    predictor = ak.Predictor(model, x[:1], exits=["exit_1", "exit_3", "exit_6"], engine=keras.backend.backend())
    curve, whole = ak.evaluate(predictor, test_set, batch_size=100), ak.evaluate(model, test_set)
    assert [point.exit for point in curve] == predictor.exit_names
    for point in curve:
        reference = next(other for other in whole if other.exit == point.exit)
        assert point.error == reference.error
        assert point.loss == pytest.approx(reference.loss, rel=1e-4)
        assert point.with_head == reference.with_head
    assert curve.about["engine"] == keras.backend.backend() and curve.about["dtype"] == "float32"
    assert curve.about["images"] == len(x) and curve.name == model.name
    medians = [point.latency for point in ak.evaluate(predictor, test_set, latency=True)]
    assert medians == pytest.approx(list(predictor.latencies.quantile(1, 0.5)))


@pytest.mark.long
@pytest.mark.tensorflow
@pytest.mark.parametrize("engine", ["litert", "onnx"])
def test_an_integer_predictor_is_measured_and_calibrated_on_what_it_runs(engine, model, test_set):
    pytest.importorskip({"litert": "ai_edge_litert", "onnx": "onnxruntime"}[engine])
    x, y = test_set
    predictor = ak.Predictor(
        model, x[:1], exits=["exit_1", "exit_6"], engine=engine, dtype="int8", representative=x[:200]
    )
    outputs, exact = predictor.predict_exits(x), model.predict(x, verbose=0)
    assert all(np.abs(outputs[name] - exact[name]).max() > 0.01 for name in outputs), "integers round"
    curve = ak.evaluate(predictor, test_set)
    assert curve.errors == pytest.approx(errors_of(outputs, y))
    assert curve.about["engine"] == engine and curve.about["dtype"] == "int8"
    assert curve[-1].error < 0.03
    before = model.inference
    try:
        found = predictor.calibrate(test_set)
    finally:
        model.inference = before
    for name, temperature in found.items():
        expected = ak.inference.calibration.fit_temperature(outputs[name], y)
        assert temperature == pytest.approx(expected, rel=1e-3)
        assert temperature != pytest.approx(ak.inference.calibration.fit_temperature(exact[name], y), rel=1e-6)


def test_exits_of_different_shapes_are_computed():
    features = keras.Input((4,))
    exits = {"two": keras.layers.Dense(2)(features), "three": keras.layers.Dense(3)(keras.layers.Dense(5)(features))}
    model = ak.AnytimeModel(features, exits)
    x = checks.some_input(model, batch=5)
    outputs = ak.Predictor(model, x[:1], engine=keras.backend.backend()).predict_exits(x, batch_size=2)
    for name, expected in checks.outputs(model, x).items():
        np.testing.assert_allclose(outputs[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_objects_that_are_not_models_or_predictors_are_refused(model, test_set):
    with pytest.raises(ValueError, match="or a `Predictor`. Received: int"):
        ak.evaluate(3, test_set)
    predictor = ak.Predictor(model, np.repeat(test_set[0][:1], 2, axis=0), engine=keras.backend.backend())
    with pytest.raises(ValueError, match="`layers` must be 'all' for a predictor. Received: 'conv'"):
        ak.evaluate(predictor, test_set, layers="conv")
    with pytest.raises(ValueError, match=r"batch of one. Received: prepared batch sizes \[2\]"):
        ak.evaluate(predictor, test_set, latency=True)
