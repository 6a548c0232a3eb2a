"""Backend-specific helpers (compilation, synchronization, determinism) and a description of the machine."""

import contextlib
import datetime
import functools
import importlib.metadata
import os
import pathlib
import platform
import subprocess

import keras
import numpy as np

from anytime_keras import _forks
from anytime_keras._lazy import jax, tf, torch


def compiled(model):
    """Compiles a model's forward pass for inference; the result recompiles for new shapes and uses the current weights.

    JAX compiles with XLA; TensorFlow does so if there is an accelerator.
    """
    check_fork()
    if keras.backend.backend() == "jax":

        @jax.jit
        def stateless(trainable, others, inputs):
            return model.stateless_call(trainable, others, inputs, training=False)[0]

        def run(inputs):
            groups = (model.trainable_variables, model.non_trainable_variables)
            outputs = stateless(*([variable.value for variable in group] for group in groups), inputs)
            # A compiled JAX function returns dicts with sorted keys, so restore the model's order.
            return {name: outputs[name] for name in model.output} if isinstance(outputs, dict) else outputs

        return run
    # Not a lambda: TensorFlow would mistake the lambdas of several models for one function and warn of retracing.
    forward = functools.partial(model, training=False)
    if keras.backend.backend() == "tensorflow":
        accelerated = bool(tf.config.list_physical_devices("GPU"))
        return tf.function(forward, jit_compile=accelerated, reduce_retracing=True)
    return torch.no_grad()(forward) if keras.backend.backend() == "torch" else forward


def check_fork(seconds=5.0):
    """Raises a RuntimeError if this process is a fork in which the backend cannot compute, see `_forks.check_fork`."""
    backend = keras.backend.backend()

    def small(x):
        return keras.ops.matmul(x, x) + keras.ops.sum(keras.ops.exp(x))

    def compute():
        if backend == "tensorflow":
            finish(tf.function(small, autograph=False)(np.ones((2, 2), "float32")))
        elif backend == "jax":
            finish(jax.jit(small)(np.ones((2, 2), "float32")))

    _forks.check_fork(compute, backend, seconds)


def finish(outputs):
    """Waits for the backend to compute `outputs` and returns them as NumPy arrays."""
    return keras.tree.map_structure(lambda value: np.asarray(keras.ops.convert_to_numpy(value)), outputs)


@contextlib.contextmanager
def full_precision():
    """Disables TF32, in which GPUs multiply with 10 bits, so that results match those of a CPU."""
    with contextlib.ExitStack() as stack:
        if keras.backend.backend() == "jax":
            stack.enter_context(jax.default_matmul_precision("highest"))
        elif keras.backend.backend() == "tensorflow":
            enable = tf.config.experimental.enable_tensor_float_32_execution
            stack.callback(enable, tf.config.experimental.tensor_float_32_execution_enabled())
            enable(False)
        yield


def repeatable():
    """Makes TensorFlow deterministic on CPU from now on. Does nothing on accelerators, where it is too slow."""
    if keras.backend.backend() == "tensorflow":
        if not tf.config.list_physical_devices("GPU"):
            tf.config.experimental.enable_op_determinism()


def devices():
    """Lists the devices that Keras sees, such as `["cpu:0"]`. Keras lists none on PyTorch."""
    if keras.backend.backend() == "torch":
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu:0"]
    return list(keras.distribution.list_devices())


def machine():
    """Describes the setup of a measurement: package versions, processor, devices and date."""
    packages = ("anytime-keras", "keras", "tensorflow", "jax", "torch", "numpy")
    versions = {package: version for package in packages if (version := version_of(package))}
    return {
        "backend": keras.backend.backend(),
        "versions": versions,
        "python": platform.python_version(),
        "processor": _processor(),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
        "devices": [str(device) for device in devices()],
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def version_of(package):
    """Returns the version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cores():
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_cpu():
    """Returns whether Keras sees CPUs only."""
    return all("cpu" in str(device).lower() for device in devices())


@functools.cache
def emulated_dtypes():
    """Returns the half-precision dtypes whose convolutions TensorFlow emulates on this CPU.

    These are the dtypes for which an x86 CPU lacks instructions, according to `/proc/cpuinfo`.
    """
    if keras.backend.backend() != "tensorflow":
        return ()
    if tf.config.get_visible_devices("GPU") or tf.config.get_visible_devices("TPU"):
        return ()
    # With AVX512, TensorFlow leaves bfloat16 to oneDNN.
    needs = {"bfloat16": "avx512f", "float16": "avx512_fp16"}
    flags = next((line.split(":", 1)[1].split() for line in _cpuinfo() if line.startswith("flags")), needs.values())
    return tuple(dtype for dtype, flag in needs.items() if flag not in flags)


def commit(*others):
    """Returns the checkout's commit or None; "+changes" marks uncommitted changes in the package or in `others`."""
    folder = pathlib.Path(__file__).parent

    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout

    try:
        tracked = git("ls-files", "__init__.py").strip()
        changed = git("status", "--porcelain", ".", *others).strip()
        return git("rev-parse", "HEAD").strip() + ("+changes" if changed else "") if tracked else None
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor():
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor() or platform.machine()


def _cpuinfo():
    """Returns the lines of `/proc/cpuinfo`, or an empty list on systems without it."""
    try:
        return pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
