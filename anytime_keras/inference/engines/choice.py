"""Creates an engine by name, or the one that is measured fastest on this machine."""

import hashlib
import importlib.metadata
import json
import os
import time

import keras
import numpy as np

from anytime_keras import _errors, runtime
from anytime_keras.inference import part_cache
from anytime_keras.inference.answers import as_array
from anytime_keras.inference.engines.files import FileEngine, Plan

FILE_ENGINES = ("litert", "onnx", "openvino")
ENGINES = ("auto", "tensorflow", "jax", *FILE_ENGINES)
COMPARED = FILE_ENGINES  # by "auto"; tests leave it empty
BLOCK_SECONDS = 0.3  # measuring time of each runtime


def create(stages, inputs, name="auto", num_threads=None, progress=lambda text: None):
    """Returns an `Engine` that is prepared for inputs of one size.

    Args:
        stages: `Stages`.
        inputs: list of tensors, the result of `stages.start` for an example.
        name: str, one of `ENGINES`.
        num_threads: int, the threads of a file engine; None uses all cores.
        progress: function of a str, called before each step that takes long.

    Raises:
        ValueError: if `name` is unknown, or this engine cannot run the network.
        ImportError: if the engine's package is not installed.
    """
    check(name, num_threads)
    num_threads = num_threads or _cores()
    if name == "auto":
        return _fastest(stages, inputs, num_threads, progress)
    if name not in FILE_ENGINES:
        return _backend(stages, inputs)
    try:
        return _prepared(stages, inputs, name, num_threads, progress)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"`engine='{name}'` cannot run this network: {str(error).rstrip('.')}. Use `engine='auto'`."
        ) from error


def check(name, num_threads):
    """Checks an engine's name and number of threads against this process's backend.

    Raises:
        ValueError: if they cannot be used.
    """
    backend = keras.backend.backend()
    if name not in ENGINES:
        raise ValueError(f"`engine` must be one of {ENGINES}. Received: {name!r}. {_errors.nearest(name, ENGINES)}")
    if name in ("tensorflow", "jax") and name != backend:
        raise ValueError(
            f"`engine='{name}'` needs Keras's backend '{name}'. Received: backend '{backend}'. Set the environment "
            f"variable KERAS_BACKEND={name}."
        )
    if name in FILE_ENGINES and backend != "tensorflow":
        raise ValueError(
            f"`engine='{name}'` needs Keras's backend 'tensorflow', which converts the network. Received: backend "
            f"'{backend}'. Set the environment variable KERAS_BACKEND=tensorflow, or use `engine='auto'`."
        )
    if num_threads is not None and (type(num_threads) is not int or num_threads < 1):
        raise ValueError(f"`num_threads` must be a positive int or None. Received: {num_threads!r}.")
    if num_threads is not None and name in ("tensorflow", "jax"):
        raise ValueError(
            f"`num_threads` applies to the engines {FILE_ENGINES}. Received: num_threads={num_threads}, engine='{name}', "
            "whose threads are set for the whole process, as with `tf.config.threading`."
        )


def _backend(stages, inputs):
    from anytime_keras.inference import engines

    engine = engines.engine(stages)
    engine.prepare(inputs)
    return engine


def _fastest(stages, inputs, num_threads, progress):
    """Returns the engine that is measured fastest to the last exit, among those that equal the network."""
    if keras.backend.backend() != "tensorflow" or not runtime.on_cpu() or not COMPARED:
        return _backend(stages, inputs)
    try:
        key = _verdict_key(stages, inputs, num_threads)
    except ValueError:  # dynamic sizes, which no file engine runs
        return _backend(stages, inputs)
    known = part_cache.read(key)
    seconds = json.loads(known) if known else _compare(stages, inputs, num_threads, progress)
    part_cache.write(key, json.dumps(seconds).encode())
    for name in sorted(seconds, key=seconds.get):
        if name == "tensorflow":
            break
        try:
            return _prepared(stages, inputs, name, num_threads, progress)
        except (ImportError, RuntimeError, ValueError):  # it cannot run a stage, or not exactly
            continue
    return _backend(stages, inputs)


def _prepared(stages, inputs, name, num_threads, progress):
    engine = FileEngine(stages, name, num_threads, progress=progress)
    engine.prepare([as_array(tensor) for tensor in inputs])
    return engine


def _compare(stages, inputs, num_threads, progress):
    """Measures the last exit of each runtime that can run it, one after the other.

    Returns:
        A dict from the engine's name to seconds, which includes `"tensorflow"`.
    """
    last, arrays = len(stages) - 1, [as_array(tensor) for tensor in inputs]
    progress("tensorflow: last exit")
    whole = runtime.compiled(stages.at(stages.exit_names[-1:]).segment(0))
    seconds = {"tensorflow": _block(lambda: as_array(whole(inputs)["logits"]))}
    for name in COMPARED:
        try:
            part = FileEngine(stages, name, num_threads, progress=progress).direct(last, len(arrays[0]))
            seconds[name] = _block(lambda: part(arrays))
        except (ImportError, RuntimeError, ValueError):  # not installed, or it has no form for a layer
            continue
    return seconds


def _block(call):
    """Returns the lower quartile of the seconds of a call, which other processes disturb least."""
    for _ in range(3):
        call()
    measured, end = [], time.perf_counter() + BLOCK_SECONDS
    while len(measured) < 5 or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        measured.append(time.perf_counter() - begin)
    return float(np.quantile(measured, 0.25))


def _verdict_key(stages, inputs, num_threads):
    """Returns the key under which the fastest engine for a network, a size and this machine is cached.

    Raises:
        ValueError: if the network has dynamic sizes, which no file engine runs.
    """
    plan = Plan("direct", stages.at(stages.exit_names[-1:]).segment(0))
    machine = runtime.machine()
    versions = {name: _version(name) for name in ("tensorflow", "ai-edge-litert", "onnxruntime", "openvino")}
    network = part_cache.key(plan.part, "litert", inputs[0].shape[0])
    about = [network, list(stages.exit_names), num_threads, versions, machine["processor"], list(COMPARED)]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
