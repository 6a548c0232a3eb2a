"""Tests use the backend in KERAS_BACKEND, by default TensorFlow; `test_backends.py` runs the suite on JAX."""

import atexit
import gc
import inspect
import os
import shutil
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ["ANYTIME_KERAS_ENGINES"] = ""  # converting takes seconds; only tests of engines do it
os.environ["ANYTIME_KERAS_CACHE"] = tempfile.mkdtemp(prefix="anytime_keras_cache_")  # leaves the user's cache alone
atexit.register(shutil.rmtree, os.environ["ANYTIME_KERAS_CACHE"], ignore_errors=True)

import keras  # noqa: E402
import pytest  # noqa: E402

import anytime_keras as ak  # noqa: E402
from anytime_keras.evaluation.evaluate import latencies  # noqa: E402
from anytime_keras.inference.state import State  # noqa: E402
from anytime_keras.serving.runner import Runner  # noqa: E402

BACKEND = keras.backend.backend()


def measure_briefly(function):
    """Changes the default of the argument `seconds` to 0, so that a new predictor or server makes only a few runs."""
    names, defaults = list(inspect.signature(function).parameters), list(function.__defaults__)
    defaults[names.index("seconds") - len(names)] = 0.0
    function.__defaults__ = tuple(defaults)


for function in (ak.Predictor.prepare, State.prepare, Runner.measure, latencies):
    measure_briefly(function)

if BACKEND == "tensorflow":
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


# Docstring examples that belong to the second tier because they train for some seconds.
LONG_EXAMPLES = [f"anytime_keras.training.{name}" for name in ("cycles.train_cycle", "finetune.finetune", "result.Run")]


def pytest_collection_modifyitems(items):
    for item in items:
        if item.name in LONG_EXAMPLES:
            item.add_marker(pytest.mark.long)
        needs_it = "Needs the TensorFlow backend." in (getattr(getattr(item, "dtest", None), "docstring", None) or "")
        if BACKEND != "tensorflow" and (needs_it or item.get_closest_marker("tensorflow")):
            item.add_marker(pytest.mark.skip(reason="needs the TensorFlow backend"))
    # The suite on JAX takes longest: with `-n 2`, one process starts with it and the other with the tests here.
    items.sort(key=lambda item: item.path.name != "test_backends.py")


def pytest_collection_finish():
    # Models are reference cycles of many objects, which the garbage collector would scan again and again. Objects that
    # exist after the imports are frozen, and the others are collected less often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session")
def two_replicas():
    """The one MirroredStrategy of this process: TensorFlow 2.21 numbers the collectives of a second one alike, and a
    training step under it then aborts with "Shape mismatch in the collective instance" (in plain Keras too)."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(autouse=True)
def fresh_keras(monkeypatch):
    """Starts every test with the same names, dtype policy and random numbers.

    What commands ask of TensorFlow for the rest of a process, to compute repeatably, is slow and forbids XLA and the
    clock: tests that want it run a command in a process of its own.
    """
    monkeypatch.setattr("anytime_keras.runtime.repeatable", lambda: None)
    keras.utils.clear_session(free_memory=False)
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
