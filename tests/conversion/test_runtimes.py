"""Tests of the runtimes on converted parts."""

import concurrent.futures
import threading
import time

import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.conversion import converters, runtimes
from anytime_keras.conversion.parts import Parts
from tests import checks
from tests.inference import networks

PACKAGES = {"litert": "ai_edge_litert", "onnx": "onnxruntime", "openvino": "openvino"}
FORMATS = ["litert", "onnx", pytest.param("openvino", marks=pytest.mark.long)]

pytestmark = pytest.mark.tensorflow


def loaded(format, part, batch_size=1, num_threads=1):
    pytest.importorskip(PACKAGES[format])
    (content,) = converters.convert([part], format, batch_size)
    return runtimes.RUNTIMES[format](num_threads).load(content, part.describe(batch_size))


def whole(model):
    return Parts(ak.inference.Stages(model)).whole


def image_network():
    model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=5)
    checks.scramble(model)
    return model


@pytest.mark.parametrize("format", FORMATS)
def test_a_part_of_two_inputs_equals_keras(format):
    model = networks.several_inputs()
    checks.scramble(model)
    part, x = whole(model), networks.inputs_for(model, batch=1)
    run = loaded(format, part)
    outputs = run([x[name] for name in run.inputs])
    assert run.inputs == ["facts", "image"] or run.inputs == ["image", "facts"]
    for name, expected in checks.outputs(model, x).items():
        np.testing.assert_allclose(outputs[run.outputs.index(name)], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_results_are_new_arrays_and_threads_do_not_share_them(format):
    part = whole(image_network())
    run = loaded(format, part)
    inputs = [np.full((1, 8, 8, 1), value, "float32") for value in range(8)]
    expected = [[array.copy() for array in run([x])] for x in inputs]
    assert len({array[-1].tobytes() for array in expected}) == len(inputs)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: run([x]), inputs * 5))
    for number, outputs in enumerate(found):
        for ours, theirs in zip(outputs, expected[number % len(inputs)], strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("format", FORMATS)
def test_a_part_with_one_output_keeps_its_name(format):
    model = image_network()
    part = Parts(ak.inference.Stages(model, ["exit_2"])).whole
    run, x = loaded(format, part), checks.some_input(model, batch=1)
    assert run.outputs == ["exit_2"]
    np.testing.assert_allclose(run([x])[0], checks.outputs(model, x)["exit_2"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("format", FORMATS[1:])
def test_a_file_with_other_names_is_refused(format):
    pytest.importorskip(PACKAGES[format])
    part = whole(image_network())
    (content,) = converters.convert([part], format, 1)
    spec = part.describe(1)
    spec["outputs"][0]["name"] = "other"
    with pytest.raises(ValueError, match="name different tensors: .*exit_1.* and .*other"):
        runtimes.RUNTIMES[format]().load(content, spec)


def test_litert_changes_the_batch_size_of_a_part():
    pytest.importorskip("ai_edge_litert")
    model = image_network()
    part, x = whole(model), checks.some_input(model, batch=5)
    (content,) = converters.convert([part], "litert", 1)
    run = runtimes.LiteRT().load(content, part.describe(1), batch_size=5)
    for ours, theirs in zip(run([x]), checks.outputs(model, x).values(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_litert_refuses_a_batch_size_that_a_part_cannot_have():
    pytest.importorskip("ai_edge_litert")
    features = keras.Input((4,))
    fixed = keras.ops.reshape(keras.layers.Dense(4)(features), (1, 2, 2))
    part = whole(networks.two_exits(features, keras.ops.sum(fixed, axis=2)))
    (content,) = converters.convert([part], "litert", 1)
    with pytest.raises((ValueError, RuntimeError)):  # LiteRT itself refuses the reshape
        runtimes.LiteRT().load(content, part.describe(1), batch_size=5)


@pytest.mark.parametrize("format", FORMATS[1:])
def test_a_run_can_be_terminated_and_the_part_still_works(format):
    image = x = keras.Input((64, 64, 16))
    for _ in range(30):
        x = keras.layers.Conv2D(64, 3, padding="same", activation="relu")(x)
    part = whole(networks.two_exits(image, keras.layers.GlobalAveragePooling2D()(x)))
    run = loaded(format, part, batch_size=4, num_threads=2)
    x = np.zeros((4, 64, 64, 16), "float32")
    expected, stop = run([x]), threading.Event()

    def stopping():  # repeatedly, because a request before the run starts has no effect
        while not stop.wait(0.002):
            run.terminate()

    thread = threading.Thread(target=stopping)
    thread.start()
    try:
        with pytest.raises(runtimes.Terminated):
            for _ in range(100):
                run([x])
    finally:
        stop.set()
        thread.join()
    for ours, theirs in zip(run([x]), expected):
        np.testing.assert_array_equal(ours, theirs)


def test_idle_threads_of_onnx_runtime_do_not_spin():
    pytest.importorskip("onnxruntime")
    part = whole(image_network())
    (content,) = converters.convert([part], "onnx", 1)
    others = checks.threads_seconds()
    run, x = runtimes.ONNXRuntime(num_threads=4).load(content, part.describe(1)), np.zeros((1, 8, 8, 1), "float32")
    run([x])
    for _ in range(20):
        run([x])
        time.sleep(0.005)
    pool = checks.threads_seconds(but=others)
    assert len(pool) == 3 and sum(pool.values()) < 0.05, "three spinning threads would use most of 0.3 s"


@pytest.mark.parametrize("name, package", [("litert", "ai_edge_litert.interpreter"), ("onnx", "onnxruntime")])
def test_a_missing_package_is_named(name, package, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ImportError, match="cannot be imported: `pip install"):
        runtimes.RUNTIMES[name]()
