import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types

import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.commands import main
from anytime_keras.training import choose_strategy, train
from tests.training.on_devices import DEVICES, numbers, recipe, write_images
from tests.training.test_training import StopAfter

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:.*:UserWarning:tensorboard"),
]


def assert_same_numbers(ours, theirs):
    assert [list(row) for row in ours["history"]] == [list(row) for row in theirs["history"]]
    for row, expected in zip(ours["history"], theirs["history"]):
        for name in row:
            np.testing.assert_allclose(row[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)
    assert ours["averages"].keys() == theirs["averages"].keys() >= {"averages", "weights", "steps"}
    for name in ours["averages"]:
        if name != "exits":
            np.testing.assert_allclose(ours["averages"][name], theirs["averages"][name], rtol=1e-5, atol=1e-5)
    for name in ("curve", "weights", "optimizer"):
        assert len(ours[name]) == len(theirs[name]) > 0
        for value, expected in zip(ours[name], theirs[name]):
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5, err_msg=name)


class Copies(keras.callbacks.Callback):
    """Compares the replicas' copies of every variable at the end of training."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def on_train_end(self, logs=None):
        for variable in [*self.model.variables, *self.model.optimizer.variables]:
            copies = [np.array(copy) for copy in getattr(variable.value, "values", ())]
            if len(copies) > 1 and "on_read" not in str(variable.value.synchronization).lower():
                self.seen += 1
                for copy in copies[1:]:
                    np.testing.assert_array_equal(copy, copies[0], err_msg=variable.path)


# === In separate processes, side by side ===


def start(what, folder, **environment):
    folder.mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.on_devices", what, str(folder)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(process, seconds=300):
    output, errors = process.communicate(timeout=seconds)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(next(line for line in output.splitlines() if line.startswith("RESULTS")).removeprefix("RESULTS"))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Processes with four devices each, which train while other tests run here."""
    folder = tmp_path_factory.mktemp("elsewhere")
    flags = f"--xla_force_host_platform_device_count={DEVICES} --xla_backend_optimization_level=0"
    processes = {
        "mirrored": start("mirrored", folder / "mirrored"),
        "jax": start("jax", folder / "jax", KERAS_BACKEND="jax", JAX_PLATFORMS="cpu", XLA_FLAGS=flags),
    }
    yield processes
    for process in processes.values():
        process.kill()
        process.communicate()


# === In this process ===


@pytest.mark.long
def test_two_replicas_stopped_and_resumed_equal_one_device_never_stopped(elsewhere, two_replicas, tmp_path):
    """Uneven last batches: 5 images in training, 1 in validation. The network has batch normalisation."""
    plan = recipe(write_images(tmp_path / "images.npz", 21, 9))
    one = train(plan, verbose=False)
    with pytest.raises(RuntimeError, match="crash"):
        train(plan, tmp_path / "run", verbose=False, strategy=two_replicas, callbacks=[StopAfter(5)])
    copies = Copies()
    two = train(plan, tmp_path / "run", resume=True, verbose=False, strategy=two_replicas, callbacks=[copies])
    for row in two.history:
        del row["epoch"]  # only where there is a folder
    assert_same_numbers(numbers(two), numbers(one))
    assert copies.seen >= len(two.model.variables)
    loaded = keras.saving.load_model(tmp_path / "run" / "model.keras")
    for ours, theirs in zip(loaded.weights, one.model.weights):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not any(getattr(layer, "synchronized", False) for layer in loaded.layers)
    assert two.model.distribute_strategy.num_replicas_in_sync == 1


@pytest.mark.long
def test_operations_on_the_whole_batch_see_it_on_two_replicas(two_replicas, tmp_path):
    plan = recipe(
        write_images(tmp_path / "images.npz", 27, 0),
        augment="mix_up",
        epochs=1,
        weighting={"name": "adaloss", "mean": "batch"},
        distillation={"weight": 0.5},
    )
    several = dataclasses.replace(plan, steps_per_execution=3)  # of four batches
    one, two = train(plan, verbose=False), train(several, verbose=False, strategy=two_replicas)
    assert_same_numbers(numbers(two), numbers(one))


@pytest.mark.parametrize("replicas, pipelines", [(1, 1), (4, 1), (4, 2), (3, 3)])
def test_the_parts_of_the_replicas_make_up_the_batch(replicas, pipelines):
    import tensorflow as tf

    from anytime_keras.training.replicated import parts, turns

    batches = tf.data.Dataset.range(23).batch(8).map(lambda value: (value, -value))
    contexts = [tf.distribute.InputContext(pipelines, number, replicas) for number in range(pipelines)]
    cut = [list(parts(batches, context).as_numpy_iterator()) for context in contexts]
    own = replicas // pipelines
    for number, (values, negatives) in enumerate(batches.as_numpy_iterator()):
        pieces = [piece for process in cut for piece in process[number * own : (number + 1) * own]]
        sizes = [len(piece) for piece, _ in pieces]
        assert len(pieces) == replicas and max(sizes) - min(sizes) <= 1
        np.testing.assert_array_equal(np.concatenate([piece for piece, _ in pieces]), values)
        np.testing.assert_array_equal(np.concatenate([piece for _, piece in pieces]), negatives)
    dealt = [list(turns(batches.repeat(replicas), context).as_numpy_iterator()) for context in contexts]
    rounds = [process[first : first + own] for first in range(0, 3 * own, own) for process in dealt]
    for ours, expected in zip([batch for part in rounds for batch in part], batches.repeat(replicas)):
        np.testing.assert_array_equal(ours[0], expected[0])


@pytest.mark.parametrize(
    "images, batch_size, replicas, message",
    [
        (3, 8, 4, "Each of the 4 replicas.*batch_size=8 and 3 training images.* batch has 3. Choose fewer devices"),
        (21, 4, 4, "batch_size=4 and 21 training images.* batch has 1. Choose batch_size=7, or fewer devices"),
        (100, 2, 4, "batch has 2. Choose batch_size=4"),
    ],
)
def test_batches_too_small_for_the_replicas_are_refused(two_replicas, images, batch_size, replicas, message):
    place = choose_strategy(two_replicas)
    place.replicas = replicas
    with pytest.raises(ValueError, match=message):
        place.check_data(types.SimpleNamespace(sizes={"train": images}, batch_size=batch_size), None)


def test_unsupported_options_on_two_replicas_are_refused_before_writing(two_replicas, tmp_path):
    data = write_images(tmp_path / "images.npz", 21, 9)
    for changes, message in [
        (dict(batch_size=4), "Choose batch_size=3"),
        (dict(optimizer={"name": "sgd", "clipnorm": 1.0}), "clips each replica's own.*clipnorm"),
        (dict(optimizer={"name": "sgd", "gradient_accumulation_steps": 2}), "accumulates each replica's own"),
    ]:
        with pytest.raises(ValueError, match=message):
            train(recipe(data, **changes), tmp_path / "run", verbose=False, strategy=two_replicas)
    assert not (tmp_path / "run").exists()


def config(kind="worker", index=0, **cluster):
    return json.dumps({"cluster": cluster or {"worker": ["a:1", "b:1"]}, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    "strategy, tf_config, message",
    [
        ("miror", None, "Did you mean 'mirrored'"),
        (3, None, "must be a name.*Received: strategy=3"),
        ("data_parallel", None, "needs Keras's jax backend.*Choose 'mirrored', or set KERAS_BACKEND=jax"),
        ("tpu", None, "found no TPU"),
        ("multi_worker", None, "TF_CONFIG. It is not set"),
        ("multi_worker", "{", "must be JSON"),
        ("multi_worker", config(index=2), "this process's task must be one of them"),
        ("multi_worker", config("ps", worker=["a:1"], ps=["b:1"]), "must list workers"),
        ("multi_worker", config(), "before TensorFlow computes anything.*choose_strategy"),
    ],
)
def test_unavailable_strategies_are_refused(strategy, tf_config, message, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if tf_config is not None:
        monkeypatch.setenv("TF_CONFIG", tf_config)
    with pytest.raises(ValueError, match=message):
        choose_strategy(strategy)


def test_the_command_chooses_where_to_train(monkeypatch, tmp_path):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(SystemExit, match="anytime-keras train: .*TF_CONFIG"):
        main(["anytime-keras", "train", "--strategy=multi_worker", f"--folder={tmp_path / 'run'}"])
    with pytest.raises(SystemExit, match="scan'` needs Keras's JAX"):
        main(["anytime-keras", "train", "--strategy=mirrored", "--engine=scan", f"--folder={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


def test_workers_that_start_with_other_inputs_get_an_error(two_replicas, monkeypatch):
    place = choose_strategy(two_replicas)
    others = {}

    def of_three_workers(values):
        return [value + 2 * other for value, other in zip(values, others.setdefault("values", values))]

    monkeypatch.setattr(place, "_sum", of_three_workers)
    place.agree({"epoch": 3})
    with pytest.raises(ValueError, match="same last checkpoint.*'epoch': 2"):
        place.agree({"epoch": 2})


# === With other devices and processes ===


@pytest.mark.long
def test_four_replicas_equal_one_device(elsewhere):
    got = results(elsewhere["mirrored"])
    assert got["replicas"] == DEVICES
    one, four = got["runs"]
    assert_same_numbers(four, one)


@pytest.mark.long
def test_four_devices_of_jax_equal_one(elsewhere):
    got = results(elsewhere["jax"])
    assert got["replicas"] == DEVICES
    one, four = got["runs"]
    assert_same_numbers(four, one)
    mirrored, scan = got["refused"]
    assert "needs Keras's tensorflow backend" in mirrored and "Choose 'data_parallel'" in mirrored
    assert "trains on one device" in scan and not got["left"]


@pytest.mark.long
@pytest.mark.parametrize("killed", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_two_processes_equal_one_device_after_a_kill_and_a_restart(tmp_path, killed):
    data = write_images(tmp_path / "images.npz", 61, 9)
    plan = recipe(data, epochs=12)
    plan.to_json(tmp_path / "recipe.json")

    def environment(ports, index):
        return {**os.environ, "TF_CONFIG": config(index=index, worker=[f"127.0.0.1:{port}" for port in ports])}

    ports = free_ports(2)
    folders = [tmp_path / "run", tmp_path / "not_the_chiefs"]
    command = [sys.executable, "-m", "anytime_keras", "train", "--strategy=multi_worker"]
    processes = [
        subprocess.Popen(
            [*command, f"--recipe_file={tmp_path / 'recipe.json'}", f"--folder={folders[index]}"],
            env=environment(ports, index),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        deadline = time.monotonic() + 200
        while not (folders[0] / "history.csv").exists():
            assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
            time.sleep(0.02)
        processes[killed].send_signal(signal.SIGKILL)
        _, errors = processes[1 - killed].communicate(timeout=200)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stderr.close()
    assert processes[1 - killed].returncode == 1, "killed too late to show anything"
    assert "Another worker is gone" in errors and "--resume" in errors
    assert "Traceback" not in errors
    assert not (folders[0] / "curve.json").exists() and not folders[1].exists()

    ports = free_ports(2)
    again = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.on_devices", "multi_worker", str(tmp_path)],
            env=environment(ports, index),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    one = train(plan, verbose=False)
    for epoch, row in enumerate(one.history):
        row["epoch"] = epoch + 1  # as where there is a folder
    try:
        both = [results(process) for process in again]
    finally:
        for process in again:
            process.kill()
            process.wait()
    assert [got["chief"] for got in both] == [True, False] and both[0]["replicas"] == 2
    for got in both:
        assert_same_numbers(sorted_rows(got["run"]), sorted_rows(numbers(one)))
    written = ak.Curve.from_json(folders[0] / "curve.json")
    assert [[point.error, point.loss] for point in written] == both[0]["run"]["curve"]


def sorted_rows(run):
    return {**run, "history": [dict(sorted(row.items())) for row in run["history"]]}


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
