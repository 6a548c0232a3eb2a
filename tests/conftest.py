"""One backend a process (KERAS_BACKEND): TensorFlow by default; `test_backends.py` runs the suite again on JAX."""

import os
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras  # noqa: E402
import pytest  # noqa: E402

# Training is run on JAX by `test_scan.py`, which compares the scan with `fit`; commands and zoo are the same on both.
ON_JAX = ["weighting", "models", "cost", "data", "evaluation", "inference", "training/test_scan.py", "zoo/test_load.py"]
ON_JAX += ["experiments/test_work.py"]
ON_JAX = [f"tests/{place}" for place in ON_JAX]
FAST_COMPILATION = "--xla_backend_optimization_level=0"
BACKEND = keras.backend.backend()

if BACKEND == "tensorflow":
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def pytest_collection_modifyitems(items):
    for item in items:
        needs_it = "Needs the TensorFlow backend." in (getattr(getattr(item, "dtest", None), "docstring", None) or "")
        if BACKEND != "tensorflow" and (needs_it or item.get_closest_marker("tensorflow")):
            item.add_marker(pytest.mark.skip(reason="needs the TensorFlow backend"))
    items.sort(key=lambda item: "suite_on_jax" in getattr(item, "fixturenames", ()))


def pytest_collection_finish(session):
    """Starts the suite on JAX, to run beside the tests of this process; the last one waits for it."""
    wanted = any("suite_on_jax" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and BACKEND == "tensorflow":
        output = tempfile.TemporaryFile("w+")
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *ON_JAX],
            cwd=session.config.rootpath,
            # Small networks take XLA longer to compile well than to run.
            env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FAST_COMPILATION},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        session.config.suite_on_jax = process, output


def pytest_sessionfinish(session):
    if hasattr(session.config, "suite_on_jax"):
        process, output = session.config.suite_on_jax
        process.kill()
        process.wait()
        output.close()


@pytest.fixture
def suite_on_jax(request):
    """The process that runs the suite on JAX, and the file that its output goes to."""
    return request.config.suite_on_jax


@pytest.fixture(scope="session")
def two_replicas():
    """The one MirroredStrategy of this process: TensorFlow 2.21 numbers the collectives of a second one alike, and a
    training step under it then aborts with "Shape mismatch in the collective instance" (in plain Keras too)."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(autouse=True)
def fresh_keras(monkeypatch):
    """Every test starts with the same names, policy and random numbers.

    What commands ask of TensorFlow for the rest of a process, to compute repeatably, is slow and forbids XLA and the
    clock: tests that want it run a command in a process of its own.
    """
    monkeypatch.setattr("anytime_keras.runtime.repeatable", lambda: None)
    keras.utils.clear_session(free_memory=False)
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
