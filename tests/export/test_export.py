import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.conversion import converters
from anytime_keras.export.reader import ExportedModel
from anytime_keras.export.reader.description import fingerprint
from anytime_keras.export.reader.inputs import by_name
from anytime_keras.inference.answers import Answer, probabilities
from tests import checks
from tests.faults.dying import in_child
from tests.inference import networks

RUNTIMES = {
    "saved_model": "tensorflow",
    "litert": "ai_edge_litert",
    "onnx": "onnxruntime",
    "openvino": "openvino",
}
FORMATS = ["saved_model", "litert", "onnx", pytest.param("openvino", marks=pytest.mark.long)]
TOLERANCE = {"saved_model": dict(rtol=1e-6, atol=1e-6), "litert": dict(rtol=1e-4, atol=1e-5)}
TOLERANCE["onnx"] = TOLERANCE["openvino"] = TOLERANCE["litert"]


def needs(format):
    pytest.importorskip(RUNTIMES[format])
    if format == "onnx":
        pytest.importorskip("tf2onnx")


def resann(**changes):
    config = dict(num_units=1, channels=4, input_shape=(8, 8, 3), num_classes=5)
    model = ak.models.build("resann", **{**config, **changes})
    checks.scramble(model)
    return model


def dense():
    """A network with two inputs, late uses of an input, features and logits, and names that no runtime accepts."""
    image, extra = keras.Input((6, 6, 2), name="image"), keras.Input((3,))
    early = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    first = keras.layers.Dense(5)(keras.layers.Flatten()(early))
    middle = keras.layers.Conv2D(4, 3, padding="same")(keras.layers.Concatenate()([image, early]))
    middle = keras.layers.GlobalAveragePooling2D()(keras.layers.BatchNormalization()(middle))
    second = keras.layers.Dense(5)(keras.layers.Concatenate()([middle, first]))
    late = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 1)(keras.layers.Concatenate()([early, image])))
    third = keras.layers.Dense(5)(keras.layers.Concatenate()([late, middle, keras.layers.Dropout(0.5)(extra), first]))
    model = ak.AnytimeModel([image, extra], {"first": first, "se/cond": second, "3": third})
    checks.scramble(model)
    return model


def assert_answers_are(exported, x, expected, **tolerance):
    whole = exported.whole(x)
    assert list(whole) == list(expected) == exported.exit_names
    stream = list(exported.stream(x))
    assert [answer.exit for answer in stream] == exported.exit_names
    for answer in stream:
        assert answer.logits.shape == expected[answer.exit].shape
        np.testing.assert_allclose(answer.logits, expected[answer.exit], **tolerance)
        np.testing.assert_allclose(whole[answer.exit], expected[answer.exit], **tolerance)


@pytest.mark.tensorflow
def test_a_saved_model_serves_the_whole_network_by_default(tmp_path):
    import tensorflow as tf

    features = x = keras.Input((4,), name="features")
    exits = {}
    for name in ("first", "second"):
        x = keras.layers.Dense(6, activation="tanh")(x)
        exits[name] = keras.layers.Dense(3, activation="sigmoid", name=name)(x)
    model = ak.AnytimeModel(features, exits)
    path = ak.export(model, tmp_path / "set")
    x = checks.some_input(model, batch=3)
    expected = checks.outputs(model, x)
    served = tf.saved_model.load(str(path / "saved_model")).signatures["serving_default"](features=tf.constant(x))
    assert sorted(served) == ["first", "second"]
    for answer in ExportedModel(path).stream(x):
        np.testing.assert_allclose(served[answer.exit], expected[answer.exit], rtol=1e-6)
        np.testing.assert_allclose(answer.confidence, expected[answer.exit].max(axis=1), rtol=1e-6)


@pytest.mark.tensorflow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("make", [resann, pytest.param(dense, marks=pytest.mark.long)])
def test_the_whole_network_and_its_stages_equal_keras(make, format, tmp_path):
    needs(format)
    model = make()
    exported = ExportedModel(ak.export(model, tmp_path / "set", format=format))
    for batch in (1,) if format == "litert" else (1, 3):
        x = checks.some_input(model, batch=batch, seed=batch)
        assert_answers_are(exported, x, checks.outputs(model, x), **TOLERANCE[format])
    assert [vars(cost) for cost in exported.costs] == [vars(cost) for cost in ak.cost.exit_costs(model)]
    assert sum(stage["macs"] for stage in exported.description["stages"]) == model.exits[-1].macs


@pytest.mark.long
@pytest.mark.tensorflow
@pytest.mark.parametrize("format", ["saved_model", "litert"])
def test_an_ensemble_runs_its_members_one_after_the_other(format, tmp_path):
    needs(format)
    config = dict(channels=4, input_shape=(8, 8, 1), num_classes=5)
    members = [ak.models.build("resann", num_units=number, **config) for number in (1, 2)]
    for member in members:
        checks.scramble(member)
    eann = ak.EANN.__new__(ak.EANN)
    eann._set(members, errors=[[0.9, 0.95, 0.8], [0.85, 0.7, 0.75, 0.72, 0.71, 0.6]])
    names = ["member_1/exit_1", "member_1/exit_3", "member_2/exit_2", "member_2/exit_6"]
    assert eann.exit_names == names
    exported = ExportedModel(ak.export(eann, tmp_path / "set", format=format))
    x = checks.some_input(members[0], batch=1)
    outputs = [checks.outputs(member, x) for member in members]
    expected = {name: outputs[int(name[7]) - 1][name[9:]] for name in names}
    assert_answers_are(exported, x, expected, **TOLERANCE[format])
    assert [cost.with_all_heads for cost in exported.costs] == [own.macs for own in eann.exits if own.used]
    assert [tensor["name"] for tensor in exported.description["stages"][2]["inputs"]] == ["image"]
    for chosen in (names[1:3], names[2:]):
        path = ak.export(eann, tmp_path / "some", format=format, exits=chosen, overwrite=True)
        assert_answers_are(ExportedModel(path), x, {name: expected[name] for name in chosen}, **TOLERANCE[format])


@pytest.mark.long
@pytest.mark.tensorflow
def test_selected_exits_stay_in_order_beyond_nine(tmp_path):
    model = resann(num_units=4)
    chosen = ["exit_2", "exit_9", "exit_10", "exit_12"]
    exported = ExportedModel(ak.export(model, tmp_path / "set", exits=chosen))
    assert exported.exit_names == chosen == [stage["exit"] for stage in exported.description["stages"]]
    x = checks.some_input(model)
    expected = checks.outputs(model, x)
    assert_answers_are(exported, x, {name: expected[name] for name in chosen}, rtol=1e-6, atol=1e-6)
    assert exported.costs[0].with_all_heads == ak.cost.exit_costs(model)[1].with_head, "heads left out cost nothing"


@pytest.mark.tensorflow
def test_stages_connect_by_name_and_pass_nothing_unused(tmp_path):
    needs("onnx")
    path = ak.export(dense(), tmp_path / "set", format="onnx", batch_size=np.int64(2))
    description = json.loads((path / "exported.json").read_text())
    assert [(spec["name"], spec["key"], spec["shape"]) for spec in description["inputs"]] == [
        ("image", "image", [2, 6, 6, 2]),
        ("input_2", "input_2", [2, 3]),
    ]
    stages = [
        ([t["name"] for t in stage["inputs"]], [(t["name"], t["exit"], t["dtype"]) for t in stage["outputs"]])
        for stage in description["stages"]
    ]
    assert stages == [
        (["image"], [("first", "first", "float32"), ("carried_1", None, "float32")]),
        (["image", "carried_1", "first"], [("se_cond", "se/cond", "float32"), ("carried_2", None, "float32")]),
        (["image", "input_2", "carried_1", "first", "carried_2"], [("t3", "3", "float32")]),
    ]
    for part in [description["whole"], *description["stages"]]:  # the files say the same
        session = pytest.importorskip("onnxruntime").InferenceSession(path / part["file"])
        assert [(t.name, t.shape) for t in session.get_inputs()] == [(t["name"], t["shape"]) for t in part["inputs"]]
        assert [(t.name, t.shape) for t in session.get_outputs()] == [(t["name"], t["shape"]) for t in part["outputs"]]
    for name, expected in description["files"].items():
        content = (path / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (expected["bytes"], expected["sha256"])


@pytest.mark.tensorflow
def test_stages_compute_each_layer_once_and_share_no_weights(tmp_path):
    onnx = pytest.importorskip("onnx")
    needs("onnx")
    path = ak.export(resann(), tmp_path / "set", format="onnx")
    graphs = {file.stem: onnx.load(file).graph for file in path.glob("*.onnx")}
    whole, stages = graphs.pop("whole"), list(graphs.values())

    def calls(graph):
        return sum(node.op_type in ("Conv", "MatMul", "Gemm") for node in graph.node)

    def weights(graph):
        return sum(np.prod(weight.dims) for weight in graph.initializer if np.prod(weight.dims) > 16)

    assert len(stages) == 3 and calls(whole) == sum(map(calls, stages)) == 1 + 3 * 2 + 3
    assert weights(whole) == sum(map(weights, stages)) > 0


@pytest.mark.tensorflow
def test_a_saved_model_holds_the_weights_once(tmp_path):
    model = resann(channels=16, num_units=2)
    path = ak.export(model, tmp_path / "set")
    variables = sum(file.stat().st_size for file in path.glob("saved_model/variables/*.data*"))
    assert 4 * model.count_params() <= variables < 4.5 * model.count_params()


@pytest.mark.long
@pytest.mark.tensorflow
@pytest.mark.parametrize("format", FORMATS)
def test_a_set_runs_elsewhere_without_keras_and_without_this_package(format, tmp_path):
    needs(format)
    model = resann()
    ak.export(model, tmp_path / "made", format=format)
    os.rename(tmp_path / "made", tmp_path / "moved")
    x = checks.some_input(model, batch=1)
    np.save(tmp_path / "x.npy", x)
    script = """
import sys
for blocked in ("keras", "tf_keras", "anytime_keras"):
    sys.modules[blocked] = None
import numpy as np
from run_exported import ExportedModel
model = ExportedModel()
x = np.load("../x.npy")
np.savez("../answers.npz", **{"whole_" + name: logits for name, logits in model.whole(x).items()},
         **{"stage_" + answer.exit: answer.logits for answer in model.stream(x)})
model.calibrate(x, repeats=3)
print(model.predict(x, deadline=60).exit)
"""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "KERAS_BACKEND")}
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path / "moved",
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == "exit_3"
    answers = np.load(tmp_path / "answers.npz")
    for name, expected in checks.outputs(model, x).items():
        np.testing.assert_allclose(answers[f"whole_{name}"], expected, **TOLERANCE[format])
        np.testing.assert_allclose(answers[f"stage_{name}"], expected, **TOLERANCE[format])


# Limits for the largest error over the standard deviation of the logits, and for the share of equal classes.
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "precision, bound, least",
    [
        pytest.param("float16", 0.01, 0.98, marks=pytest.mark.long),
        ("dynamic", 0.2, 0.95),
        pytest.param("int8", 0.5, 0.85, marks=pytest.mark.long),
    ],
)
def test_reduced_precision_stays_close_and_is_smaller(precision, bound, least, tmp_path):
    needs("litert")
    model = ak.models.build("resann", num_units=1, channels=16, input_shape=(8, 8, 3), num_classes=5)
    x = checks.some_input(model, batch=64)
    for name, logits in checks.outputs(model, x).items():  # else all samples are of one class
        model.get_layer(name).bias.assign(-logits.mean(axis=0))
    representative = x if precision == "int8" else None
    path = ak.export(
        model, tmp_path / "set", "litert", ["exit_1", "exit_3"], precision=precision, representative=representative,
        batch_size=64,
    )  # fmt: skip
    assert (path / "whole.tflite").stat().st_size < (0.6 if precision == "float16" else 0.4) * 4 * model.count_params()
    exported, expected = ExportedModel(path), checks.outputs(model, x)
    expected = {name: expected[name] for name in exported.exit_names}
    spread = max(np.std(logits) for logits in expected.values())
    for answer in exported.stream(x):
        agreement = np.mean(answer.logits.argmax(1) == expected[answer.exit].argmax(1))
        assert agreement >= least
    assert_answers_are(exported, x, expected, rtol=0, atol=bound * spread)


@pytest.mark.tensorflow
def test_int8_computes_in_integers(tmp_path):
    needs("litert")
    from ai_edge_litert.interpreter import Interpreter

    model = resann()
    path = ak.export(
        model, tmp_path / "set", "litert", parts=["stages"], precision="int8",
        representative=checks.some_input(model, batch=8), exits=["exit_1", "exit_3"],
    )  # fmt: skip
    for file in path.glob("*.tflite"):
        tensors = Interpreter(str(file)).get_tensor_details()
        inner = [t["dtype"] for t in tensors if t["quantization_parameters"]["scales"].size]
        floats = [t for t in tensors if t["dtype"] == np.float32]
        interpreter = Interpreter(str(file))
        ends = [*interpreter.get_input_details(), *interpreter.get_output_details()]
        assert len(inner) > 10 and set(inner) <= {np.int8, np.int32}
        assert {t["name"] for t in floats} == {t["name"] for t in ends}, "only inputs and outputs are floats"


@pytest.fixture(scope="module")
def slow_set(tmp_path_factory):
    """A set whose three stages take 20 ms each; `.calls` lists the stages that ran."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("needs the TensorFlow backend")
    exported = ExportedModel(ak.export(resann(), tmp_path_factory.mktemp("slow") / "set", parts=["stages"]))

    exported.calls, run = [], exported._stages.stage

    def slowed(position, carried):
        exported.calls.append(position)
        time.sleep(0.02)
        return run(position, carried)

    exported._stages.stage = slowed
    return exported


def test_a_deadline_selects_the_deepest_exit_that_fits(slow_set):
    x = np.zeros((1, 8, 8, 3), "float32")
    with pytest.raises(ValueError, match=r"batch of 1. Measured: \[\]. Call `calibrate"):
        slow_set.predict(x, deadline=1.0)
    seconds = slow_set.calibrate(x, repeats=5)
    assert len(seconds) == 3 and all(each >= 0.02 for each in seconds)
    assert slow_set.predict(x, deadline=60.0).exit == slow_set.predict(x).exit == "exit_3"
    slow_set.times[1] = [0.02, 60.0, 0.02]
    answer = slow_set.predict(x, deadline=30.0)
    assert (answer.exit, answer.position, answer.late) == ("exit_1", 0, False)
    slow_set.times[1] = [0.02, 0.02, 60.0]
    assert slow_set.predict(x, deadline=30.0).exit == "exit_2"
    for impossible in (0.0, -1.0, 0.001, np.float32(0.001)):
        answer = slow_set.predict(x, deadline=impossible)
        assert answer.exit == "exit_1" and answer.late and answer.logits.shape == (1, 5)


def test_a_deadline_for_any_batch_size_uses_the_times_of_measured_ones(slow_set):
    slow_set.times = {2: [0.0, 60.0, 0.0], 4: [0.0, 0.0, 60.0]}
    cases = ((1, 30.0, "exit_1"), (3, 30.0, "exit_2"), (4, 90.0, "exit_3"), (5, 90.0, "exit_2"))
    for batch, deadline, expected in cases:
        answer = slow_set.predict(np.zeros((batch, 8, 8, 3), "float32"), deadline=deadline)
        assert (answer.exit, answer.logits.shape) == (expected, (batch, 5))
    slow_set.times = {}


@pytest.mark.tensorflow
@pytest.mark.parametrize("make", [networks.string_lookup, networks.integer_lookup, networks.text_vectorization])
def test_lookup_tables_are_exported_as_a_saved_model_and_refused_elsewhere(make, tmp_path):
    model, x = make()
    expected = {name: logits.numpy() for name, logits in model(keras.ops.convert_to_tensor(x)).items()}
    assert_answers_are(ExportedModel(ak.export(model, tmp_path / "set")), x, expected, rtol=1e-6)
    for format in ("onnx", "litert"):
        with pytest.raises(ValueError, match=rf"Format '{format}' cannot represent .*lookup tables"):
            ak.export(model, tmp_path / format, format=format)


@pytest.mark.tensorflow
@pytest.mark.parametrize("format", FORMATS)
def test_constant_tensors_are_exported(format, tmp_path):
    needs(format)
    model, x = networks.positions()
    expected = checks.outputs(model, x[:1])
    exported = ExportedModel(ak.export(model, tmp_path / "set", format=format))
    assert_answers_are(exported, x[:1], expected, **TOLERANCE[format])


@pytest.mark.tensorflow
def test_state_that_calls_change_is_not_exported(tmp_path):
    words = keras.Input(batch_shape=(2, 3, 4))
    model = networks.two_exits(words, keras.layers.GRU(4, stateful=True)(words))
    for format in RUNTIMES:
        needs(format)
        with pytest.raises(ValueError, match="^A network.* must not keep a state.*'gru.*/rnn_state'"):
            ak.export(model, tmp_path / "set", format=format, batch_size=2)
    with pytest.raises(ValueError, match="^A network.* must not keep a state.*'gru.*/rnn_state'"):
        ak.export(model, tmp_path / "set")
    assert not (tmp_path / "set").exists()


class Holder(keras.Layer):
    """Scales by TensorFlow variables in a dict and in a module."""

    def __init__(self):
        import tensorflow as tf

        super().__init__()
        self.held, self.module = {"factor": [tf.Variable(2.0)]}, tf.Module()
        self.module.factor = tf.Variable(3.0)

    def call(self, x):
        return x * self.held["factor"][0] * self.module.factor


@pytest.mark.tensorflow
def test_variables_in_dicts_and_modules_of_layers_are_exported(tmp_path):
    features = keras.Input((4,))
    model = networks.two_exits(features, Holder()(features))
    x = checks.some_input(model, batch=2)
    assert_answers_are(ExportedModel(ak.export(model, tmp_path / "set")), x, checks.outputs(model, x), rtol=1e-6)
    with pytest.raises(ValueError, match="Format 'onnx' cannot represent state.*'holder"):
        ak.export(model, tmp_path / "other", format="onnx")


@pytest.mark.tensorflow
def test_confidence_of_a_regression_is_refused(tmp_path):
    features = keras.Input((4,))
    model = ak.AnytimeModel(features, {"a": keras.layers.Dense(1)(features), "b": keras.layers.Dense(1)(features)})
    exported = ExportedModel(ak.export(model, tmp_path / "set"))
    answer = exported.predict(np.zeros((2, 4), "float32"))
    assert answer.logits.shape == (2, 1)
    with pytest.raises(ValueError, match=r"need one output for each of two classes or more.* Received: shape \(2, 1\)"):
        answer.confidence
    with pytest.raises(TypeError, match="An `ExportedModel` cannot be copied or pickled"):
        pickle.dumps(exported)


@pytest.mark.tensorflow
def test_times_depend_on_the_shape_of_the_input_if_it_is_open(tmp_path):
    words = keras.Input((None,), dtype="int32", name="words")
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(9, 4)(words))
    first = keras.layers.Dense(3)(x)
    model = ak.AnytimeModel(words, {"first": first, "second": keras.layers.Dense(3)(keras.layers.Dense(8)(x))})
    exported = ExportedModel(ak.export(model, tmp_path / "set", parts="stages"))
    short, long = np.ones((1, 5), "int32"), np.ones((1, 50), "int32")
    exported.calibrate(short, repeats=1)
    assert list(exported.times) == [((1, 5),)]
    with pytest.raises(ValueError, match=r"inputs of shapes \[\(1, 50\)\]. Measured: \[\(\(1, 5\),\)\]"):
        exported.predict(long, deadline=60.0)
    exported.times[((1, 50),)] = [0.001, 1000.0]
    assert exported.predict(short, deadline=60.0).exit == "second"
    assert exported.predict(long, deadline=60.0).exit == "first"


def test_an_abandoned_stream_runs_no_further_stage(slow_set):
    slow_set.calls.clear()
    for answer in slow_set.stream(np.zeros((1, 8, 8, 3), "float32")):
        if answer.exit == "exit_2":
            break
    assert slow_set.calls == [0, 1]


def test_the_reader_refuses_invalid_arguments(slow_set):
    with pytest.raises(ValueError, match=r"\(any, 8, 8, 3\).*Received: shape \(1, 8, 8, 1\)"):
        slow_set.predict(np.zeros((1, 8, 8, 1)))
    with pytest.raises(ValueError, match=r"inputs are \['image'\]. Received: \['picture'\]"):
        slow_set.predict({"picture": np.zeros((1, 8, 8, 3))})
    with pytest.raises(ValueError, match="without its whole"):
        slow_set.whole(np.zeros((1, 8, 8, 3)))


@pytest.mark.parametrize("deadline", [float("nan"), "1", True, [1.0]])
def test_a_deadline_must_be_a_number(deadline, slow_set):
    slow_set.calls.clear()
    with pytest.raises(ValueError, match="`deadline` must be a number of seconds"):
        slow_set.predict(np.zeros((1, 8, 8, 3), "float32"), deadline=deadline)
    assert slow_set.calls == []


@pytest.mark.parametrize(
    "x, message",
    [
        (np.zeros((0, 8, 8, 3)), r"at least one sample. Received: shape \(0, 8, 8, 3\)"),
        (np.zeros((8, 8, 3)), r"Received: shape \(8, 8, 3\)"),
        (1.0, r"Received: shape \(\)"),
        (np.full((1, 8, 8, 3), "a"), "of type float32. Received: <U1"),
        (np.full((1, 8, 8, 3), None), "of type float32. Received: object"),
        (np.full((1, 8, 8, 3), 1j), "of type float32. Received: complex128"),
        ([np.zeros((1, 8, 8, 3)), np.zeros((1, 8, 8, 3))], r"Received: shape \(2, 1, 8, 8, 3\)"),
    ],
)
def test_inputs_of_another_shape_or_type_are_refused_before_any_work(x, message, slow_set):
    slow_set.calls.clear()
    for refuse in (slow_set.predict, slow_set.stream, slow_set.calibrate):
        with pytest.raises(ValueError, match=message):
            refuse(x)
    assert slow_set.calls == []


def test_one_input_may_be_a_list_of_one_or_nested_lists(slow_set):
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 3))
    expected = slow_set.predict(x).logits
    for same in ([x], (x,), x.tolist(), {"image": x}):
        np.testing.assert_array_equal(slow_set.predict(same).logits, expected)


@pytest.mark.parametrize("dtype, fits, wrong", [("int32", [[1, 2]], [[0.5, 2.0]]), ("uint8", [[1, 255]], [[1, 256]])])
def test_integer_inputs_take_integers_that_fit(dtype, fits, wrong):
    specs = [{"name": "words", "key": "words", "shape": [None, 2], "dtype": dtype}]
    found = by_name(fits, specs)["words"]
    assert found.dtype == dtype and found.tolist() == fits
    with pytest.raises(ValueError, match=f"'words' must be of type {dtype}"):
        by_name(wrong, specs)


@pytest.mark.tensorflow
@pytest.mark.parametrize("format", FORMATS)
def test_masks_are_passed_between_stages(format, tmp_path):
    needs(format)

    def network(mask_zero):
        words = keras.Input((6,), dtype="int32", name="words")
        embedded = keras.layers.Embedding(10, 4, mask_zero=mask_zero)(words)
        first = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(embedded))
        later = keras.layers.Add()([keras.layers.Dense(4, activation="relu")(embedded), embedded])
        second = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(later))
        model = ak.AnytimeModel(words, {"first": first, "second": second})
        checks.scramble(model)
        return model

    x = np.array([[1, 2, 3, 0, 0, 0]], "int32")
    expected, unmasked = checks.outputs(network(True), x), checks.outputs(network(False), x)
    assert all(np.abs(expected[name] - unmasked[name]).max() > 0.01 for name in expected), "the mask must matter"
    assert_answers_are(
        ExportedModel(ak.export(network(True), tmp_path / "set", format)), x, expected, **TOLERANCE[format]
    )


@pytest.mark.tensorflow
def test_calibration_is_exported(tmp_path):
    model = resann()
    model.inference = {
        "exits": ["exit_1", "exit_3"],
        "temperatures": {"exit_1": 0.5, "exit_3": 4.0},
        "thresholds": [[1e5, 0.75, ["exit_1", "exit_3"]]],
    }
    found = ExportedModel(ak.export(model, tmp_path / "set"))
    assert found.description["inference"] == model.inference and found.temperatures == [0.5, 1.0, 4.0]
    x = checks.some_input(model, batch=4)
    answers = [*found.stream(x), found.predict(x)]
    for answer, temperature in zip(answers, [0.5, 1.0, 4.0, 4.0], strict=True):
        expected = probabilities(answer.logits, temperature).max(axis=-1)
        np.testing.assert_allclose(answer.confidence, expected, rtol=1e-5)
    model.inference = None
    found = ExportedModel(ak.export(model, tmp_path / "plain"))
    assert found.description["inference"] is None and found.temperatures == [1.0] * 3


def test_the_confidence_of_probabilities_is_their_maximum():
    answer = Answer(np.array([[0.2, 0.8], [0.5, 0.5]]), "late", 1, 0.0)
    np.testing.assert_allclose(answer.confidence, [0.8, 0.5], rtol=1e-6)


@pytest.mark.tensorflow
def test_a_fixed_batch_size_is_kept_and_inputs_can_be_named(tmp_path):
    model = dense()
    exported = ExportedModel(ak.export(model, tmp_path / "set", parts="whole", batch_size=2))
    image, extra = checks.some_input(model, batch=2)
    by_list, by_name = exported.whole([image, extra]), exported.whole({"input_2": extra, "image": image})
    for name, logits in by_list.items():
        np.testing.assert_array_equal(logits, by_name[name])
    for wrong in ([image, extra[:1]], [image[:1], extra[:1]]):
        with pytest.raises(ValueError, match="must have shape"):
            exported.whole(wrong)
    for wrong in ([image], image, 3):
        with pytest.raises(ValueError, match="takes 2 inputs"):
            exported.whole(wrong)
    with pytest.raises(ValueError, match="without stages"):
        exported.predict([image, extra])


@pytest.mark.tensorflow
def test_changed_missing_and_unknown_files_are_refused(tmp_path):
    path = ak.export(resann(), tmp_path / "set", parts="whole")
    weights = next(path.glob("saved_model/variables/*.data*"))
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="variables.data.* is missing or was changed"):
        ExportedModel(path)
    weights.unlink()
    with pytest.raises(ValueError, match="variables.data.* is missing"):
        ExportedModel(path)
    description = json.loads((path / "exported.json").read_text())
    (path / "exported.json").write_text(json.dumps({**description, "version": 99}))
    with pytest.raises(ValueError, match="version 99"):
        ExportedModel(path)
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="is not an export"):
            ExportedModel(folder)


@pytest.fixture(scope="module")
def sound_set(tmp_path_factory):
    """The folder of a set; tests that change it use a copy."""
    pytest.importorskip("onnxruntime")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("needs the TensorFlow backend")
    needs("onnx")
    model = resann()
    model.inference = {"temperatures": {"exit_1": 2.0}}
    return ak.export(model, tmp_path_factory.mktemp("sound") / "set", "onnx")


def tampered(folder, place, change, hashed=True):
    """Copies a set and changes its description; `hashed` also updates its hash."""
    path = shutil.copytree(folder, place)
    description = json.loads((path / "exported.json").read_text())
    change(description)
    if hashed:
        description["sha256"] = fingerprint(description)
    (path / "exported.json").write_text(json.dumps(description))
    return path


def test_a_forked_process_gets_an_error_that_says_to_spawn(sound_set):
    exported, x = ExportedModel(sound_set), np.zeros((1, 8, 8, 3), "float32")
    exported.calibrate(x, repeats=1)

    def texts():
        raised = []
        for call in (exported.whole, exported.stream, exported.calibrate, lambda x: exported.predict(x, deadline=0.01)):
            with pytest.raises(RuntimeError) as error:
                call(x)
            raised.append(str(error.value))
        return raised

    for text in in_child(texts, most=30):
        assert f"Expected: process {os.getpid()}." in text and "`multiprocessing.get_context('spawn')`" in text


def test_a_changed_description_is_detected_and_its_formatting_is_free(sound_set, tmp_path):
    def cheaper(description):
        description["exits"][0]["params"] -= 1

    with pytest.raises(ValueError, match="is not what was exported: its hash differs"):
        ExportedModel(tampered(sound_set, tmp_path / "changed", cheaper, hashed=False))
    path = tampered(sound_set, tmp_path / "again", lambda description: None, hashed=False)
    assert (path / "exported.json").read_text() != (sound_set / "exported.json").read_text()
    assert ExportedModel(path).temperatures == [2.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d["files"]["whole.onnx"].update(bytes=1), "whole.onnx' is missing or was changed"),
        (lambda d: d["files"].pop("run_exported.py"), "run_exported.py' is not part of the export"),
        (lambda d: d["files"].update({"../whole.onnx": d["files"]["whole.onnx"]}), "a file outside this folder"),
        (lambda d: d["files"].update({"C:\\whole.onnx": d["files"]["whole.onnx"]}), "a file outside this folder"),
        (lambda d: d["files"].update({"/etc/passwd": d["files"]["whole.onnx"]}), "a file outside this folder"),
        (lambda d: d["whole"].update(file="/etc/passwd"), "a file outside this folder"),
        (lambda d: d["stages"][1].update(file="../stage_2.onnx"), "a file outside this folder"),
        (lambda d: d["stages"].__setitem__(0, {**d["stages"][0], "file": "stage_2.onnx"}), "name different tensors"),
    ],
)
def test_a_description_with_wrong_or_unknown_files_is_refused(change, message, sound_set, tmp_path):
    with pytest.raises(ValueError, match=message):
        ExportedModel(tampered(sound_set, tmp_path / "set", change))


def test_unlisted_files_and_links_out_of_the_folder_are_refused(sound_set, tmp_path):
    path = shutil.copytree(sound_set, tmp_path / "set")
    (path / "__pycache__").mkdir()
    (path / "__pycache__" / "run_exported.cpython-311.pyc").write_bytes(b"")
    for name in (".DS_Store", "._exported.json", ".ipynb_checkpoints/run_exported-checkpoint.py", "Thumbs.db"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(b"")
    ExportedModel(path)  # as Python leaves it when the reader was imported, and file managers and notebooks
    (path / "deeper").mkdir()
    (path / "deeper" / "extra.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match="extra.onnx' is not part of the export"):
        ExportedModel(path)
    shutil.rmtree(path / "deeper")
    os.rename(path / "whole.onnx", tmp_path / "whole.onnx")
    (path / "whole.onnx").symlink_to(tmp_path / "whole.onnx")
    with pytest.raises(ValueError, match="whole.onnx' is a link to a file outside the export"):
        ExportedModel(path)
    (path / "whole.onnx").unlink()
    (path / "whole.onnx").symlink_to("whole.onnx")
    with pytest.raises(ValueError, match="whole.onnx' is missing"):
        ExportedModel(path)


@pytest.mark.parametrize("content", ["", "[]", "3", '"version"', "{}", "[" * 100_000, "\udc80"])
def test_files_that_are_not_descriptions_are_refused(content, tmp_path):
    (tmp_path / "exported.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match="is not an export"):
        ExportedModel(tmp_path)


@pytest.mark.long
@pytest.mark.tensorflow
@pytest.mark.parametrize("format", FORMATS)
def test_every_runtime_refuses_an_empty_batch_and_tensors_it_does_not_have(format, tmp_path):
    needs(format)
    path = ak.export(resann(), tmp_path / "set", format, exits=["exit_1", "exit_3"])
    for run in (ExportedModel(path).predict, ExportedModel(path).whole, ExportedModel(path).stream):
        with pytest.raises(ValueError, match="at least one sample|must have shape"):  # LiteRT's batch size is fixed
            run(np.zeros((0, 8, 8, 3)))

    def renamed(description):
        for stage, kind in ((0, "outputs"), (1, "inputs")):
            next(t for t in description["stages"][stage][kind] if t["name"] == "carried_1")["name"] = "other"

    with pytest.raises(ValueError, match="name different tensors"):
        ExportedModel(tampered(path, tmp_path / "renamed", renamed))
    if format in ("saved_model", "litert"):
        with pytest.raises(ValueError, match="signature"):
            ExportedModel(
                tampered(path, tmp_path / "signed", lambda d: d["stages"][0].update(signature="stage_7"))
            ).predict(np.zeros((1, 8, 8, 3)))


@pytest.mark.tensorflow
def test_a_failed_export_leaves_everything_as_it_was(tmp_path, monkeypatch):
    path = ak.export(resann(), tmp_path / "set", parts="whole")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def fails(parts, folder, *options, **named):
        (folder / "half.bin").write_bytes(b"half")
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(converters, "write", fails)
    for place in (path, tmp_path / "new"):
        with pytest.raises(RuntimeError, match="disk is full"):
            ak.export(resann(), place, overwrite=True)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert sorted(os.listdir(tmp_path)) == ["set"]


@pytest.mark.tensorflow
def test_only_an_exported_set_is_overwritten(tmp_path):
    model = resann()
    path = ak.export(model, tmp_path / "set", parts="whole")
    (path / "saved_model" / "mine").write_text("stale")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        ak.export(model, path, parts="whole")
    ak.export(model, path, parts="stages", overwrite=True)
    assert not (path / "saved_model" / "mine").exists()
    assert ExportedModel(path).description["whole"] is None
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.png").touch()
    with pytest.raises(FileExistsError, match="is not an export"):
        ak.export(model, tmp_path / "photos", overwrite=True)
    (tmp_path / "empty").mkdir()
    assert ExportedModel(ak.export(model, tmp_path / "empty", parts="stages")).exit_names == model.exit_names
    assert sorted(os.listdir(tmp_path)) == ["empty", "photos", "set"]


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "changes, error, message",
    [
        (dict(format="saved_modle"), ValueError, "format='saved_modle'. Did you mean 'saved_model'"),
        (dict(format="litert", precision="int4"), ValueError, "`precision` must be .* Received: precision='int4'"),
        (dict(format="onnx", precision="float16"), ValueError, "for format 'onnx'. Received: precision='float16'"),
        (dict(format="litert", precision="int8"), ValueError, "`representative`.*representative of type NoneType"),
        (dict(format="litert", representative=np.zeros(3)), ValueError, "`representative`.*type ndarray"),
        (
            dict(format="litert", precision="int8", representative=np.full((9, 8, 8, 3), np.inf)), ValueError,
            "`representative` must lie between -1e.18 and 1e.18",
        ),
        (
            dict(format="litert", precision="int8", representative=np.zeros((9, 4, 4, 3))), ValueError,
            r"`representative` does not fit.*\(any, 8, 8, 3\).*\(9, 4, 4, 3\)",
        ),
        (
            dict(format="litert", precision="int8", representative=np.zeros((3, 8, 8, 3)), batch_size=4), ValueError,
            "at least 4 samples.*Received: 3",
        ),
        (dict(parts=["whole", "heads"]), ValueError, "`parts`.*'heads'"),
        (dict(parts=[]), ValueError, "`parts`"),
        (dict(batch_size=0), ValueError, "`batch_size`.*Received: batch_size=0"),
        (dict(batch_size=True), ValueError, "`batch_size`.*Received: batch_size=True"),
        (dict(exits=["exit_9"]), ValueError, "Received: 'exit_9'"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_before_writing(changes, error, message, tmp_path):
    with pytest.raises(error, match=message):
        ak.export(resann(), tmp_path / "set", **changes)
    assert os.listdir(tmp_path) == []


@pytest.mark.tensorflow
def test_models_that_cannot_be_exported_are_refused(tmp_path, monkeypatch):
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="outputs are its exits, or an `EANN`. Received: Sequential"):
        ak.export(plain, tmp_path / "set")
    with pytest.raises(ValueError, match="computes in float32. .* with bfloat16"):
        ak.export(resann(dtype="mixed_bfloat16"), tmp_path / "set", "litert")
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ImportError, match="This needs tf2onnx.*pip install tf2onnx"):
        ak.export(resann(), tmp_path / "set", "onnx")
    assert os.listdir(tmp_path) == []


@pytest.mark.tensorflow
def test_an_operation_that_a_format_lacks_is_named(tmp_path):
    needs("litert")
    x = keras.Input((8,))
    early = keras.layers.Dense(2)(x)
    late = keras.layers.Dense(2)(keras.ops.erfinv(x))
    model = ak.AnytimeModel(x, {"early": early, "late": late})
    with pytest.raises(RuntimeError, match="LiteRT cannot represent the part 'stage_2'"):
        ak.export(model, tmp_path / "set", "litert", parts="stages")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="other backends are refused")
def test_errors_on_other_backends_name_the_remedy(tmp_path):
    with pytest.raises(RuntimeError, match="Received: backend 'jax'.*KERAS_BACKEND=tensorflow"):
        ak.export(resann(), tmp_path / "set")


@pytest.mark.tensorflow
def test_mixed_precision_is_exported_to_a_saved_model(tmp_path):
    model = resann(dtype="mixed_bfloat16")
    exported = ExportedModel(ak.export(model, tmp_path / "set"))
    x = checks.some_input(model)
    assert exported.description["stages"][1]["inputs"][0]["dtype"] == "bfloat16"
    assert_answers_are(exported, x, checks.outputs(model, x), rtol=0, atol=1e-6)


@pytest.mark.tensorflow
def test_a_set_measures_itself_from_the_command_line(tmp_path):
    needs("onnx")
    path = ak.export(resann(), tmp_path / "set", "onnx", parts="stages")
    command = [sys.executable, path / "run_exported.py", "--deadline=60", "--batch_size=2", "--num_threads=1"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["exit_1", "exit_2", "exit_3"]
    assert lines[4].startswith("by 60.0 s: exit_3 after")
    run = subprocess.run([*command[:2], "--num_threads=0"], capture_output=True, text=True, timeout=300)
    assert run.returncode == 1 and run.stderr == "`num_threads` must be a positive int. Received: num_threads=0.\n"
