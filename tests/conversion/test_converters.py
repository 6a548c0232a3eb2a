"""Tests of the conversion to low precision."""

import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.conversion import converters, runtimes
from anytime_keras.conversion.parts import Parts
from tests import checks

PACKAGES = {"litert": "ai_edge_litert", "onnx": "onnxruntime", "openvino": "openvino"}

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def model():
    return ak.zoo.load("resann2x16_adaloss_digits")


@pytest.fixture(scope="module")
def images():
    return np.asarray(next(iter(ak.data.load("digits").test))[0])


@pytest.mark.long
@pytest.mark.parametrize(
    "format, dtype, most", [("litert", "float16", 0.6), ("litert", "int8", 0.4), ("onnx", "int8", 0.5)]
    + [("openvino", "float16", 0.7)],
)  # fmt: skip
def test_low_precision_is_smaller_and_keeps_the_classes(format, dtype, most, model, images):
    pytest.importorskip(PACKAGES[format])
    part = Parts(ak.inference.Stages(model, ["exit_1", "exit_6"])).whole
    calibration = [[images]] if dtype == "int8" else None
    (exact,) = converters.convert([part], format, 64)
    (small,) = converters.convert([part], format, 64, dtype, calibration)
    assert len(small) < most * len(exact)
    run, x = runtimes.RUNTIMES[format]().load(small, part.describe(64)), images[:64]
    outputs, expected = run([x]), checks.outputs(model, x)
    for name, logits in zip(run.outputs, outputs):
        assert 0 < np.abs(logits - expected[name]).max() < 0.2 * np.abs(expected[name]).max()
        assert np.mean(logits.argmax(axis=1) == expected[name].argmax(axis=1)) > 0.95


def test_stages_are_calibrated_on_what_earlier_stages_return(model, images):
    stages = Parts(ak.inference.Stages(model, ["exit_1", "exit_3", "exit_6"])).stages
    samples = converters.samples_of(stages, {"image": images}, 64)
    assert [len(arrays) for arrays in samples] == [len(stage.inputs) for stage in stages]
    (carried,) = samples[1]
    expected = stages[0].model([images[:64]], training=False)[list(stages[1].inputs)[0]]
    np.testing.assert_allclose(carried[:64], expected, rtol=1e-5, atol=1e-5)
    assert len(carried) == len(images) // 64 * 64, "full batches only"


@pytest.mark.parametrize(
    "format, dtype, message",
    [
        ("openvino", "int8", "for the runtime 'openvino'. Received: dtype='int8'. It is supported by litert, onnx"),
        ("onnx", "bfloat16", "Received: dtype='bfloat16'. It is supported by openvino"),
        ("litert", "float64", "Received: dtype='float64'. Other dtypes need a network built with a Keras dtype policy"),
    ],
)
def test_a_dtype_that_a_runtime_lacks_is_refused(format, dtype, message, model):
    with pytest.raises(ValueError, match=message):
        converters.convert([Parts(ak.inference.Stages(model)).whole], format, 1, dtype)


def test_int8_needs_a_batch_of_samples(model, images):
    part = Parts(ak.inference.Stages(model)).whole
    with pytest.raises(ValueError, match="at least 1000 samples, one batch. Received: 128"):
        converters.convert([part], "litert", 1000, "int8", [[images]])
