"""Keras's backend, as far as it differs: compiled functions, finished work, and what machine this is."""

import datetime
import functools
import importlib.metadata
import os
import pathlib
import platform
import subprocess

import keras
import numpy as np


def compiled(model, jit=None):
    """Compiles a model's forward pass (inference) for this backend.

    Args:
        model: built Keras model.
        jit: bool, whether TensorFlow compiles with XLA; None does where there is an accelerator. JAX always does.

    Returns:
        A function from the model's inputs to its outputs, both of the backend's tensors. It compiles anew for every
        new shape of input, and sees later changes of the model's weights.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if jit is None:
            jit = bool(tf.config.list_physical_devices("GPU"))
        # Not a lambda: TensorFlow would take those of several models for one function that is traced again and again.
        forward = functools.partial(model, training=False)
        return tf.function(forward, jit_compile=jit, reduce_retracing=True)
    if keras.backend.backend() == "jax":
        import jax

        @jax.jit
        def forward(trainable, others, inputs):
            return model.stateless_call(trainable, others, inputs, training=False)[0]

        def run(inputs):
            outputs = forward(
                [variable.value for variable in model.trainable_variables],
                [variable.value for variable in model.non_trainable_variables],
                inputs,
            )
            # JAX sorts the keys of a dict that a compiled function returns.
            return {name: outputs[name] for name in model.output} if isinstance(outputs, dict) else outputs

        return run
    return lambda inputs: model(inputs, training=False)


def finish(outputs):
    """Waits until the backend has computed `outputs`, and returns them as NumPy arrays."""
    return keras.tree.map_structure(lambda value: np.asarray(keras.ops.convert_to_numpy(value)), outputs)


def repeatable():
    """Has TensorFlow on a CPU compute the same bits each time, from now on; on an accelerator that costs too much."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if not tf.config.list_physical_devices("GPU"):
            tf.config.experimental.enable_op_determinism()


def machine():
    """Describes what a measurement was made with: versions, processor, device, date."""
    versions = {}
    for package in ("anytime-keras", "keras", "tensorflow", "jax", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    return {
        "backend": keras.backend.backend(),
        "versions": versions,
        "python": platform.python_version(),
        "processor": _processor(),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
        "devices": [str(device) for device in keras.distribution.list_devices()],
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def on_cpu():
    """Whether there is no accelerator."""
    return all("cpu" in str(device).lower() for device in keras.distribution.list_devices())


@functools.cache
def emulated_dtypes():
    """The half precisions in which TensorFlow emulates convolutions here: those that an x86 CPU has no instructions
    for, as Linux tells it. None with a GPU or TPU, on another backend, another system or another kind of CPU.

    Example:
    >>> set(emulated_dtypes()) <= {"bfloat16", "float16"}
    True
    """
    if keras.backend.backend() != "tensorflow":
        return ()
    import tensorflow as tf

    if tf.config.get_visible_devices("GPU") or tf.config.get_visible_devices("TPU"):
        return ()
    # With AVX512, TensorFlow leaves bfloat16 to oneDNN.
    needs = {"bfloat16": "avx512f", "float16": "avx512_fp16"}
    flags = next((line.split(":", 1)[1].split() for line in _cpuinfo() if line.startswith("flags")), needs.values())
    return tuple(dtype for dtype, flag in needs.items() if flag not in flags)


def commit(*others):
    """The checkout's commit, with "+changes" if the package, or one of other files, differs from it; None outside of a
    checkout."""
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
    """What Linux tells of the CPUs; no lines elsewhere."""
    try:
        return pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
