"""Creates an engine by name, or the one that is measured fastest on this machine."""

import json
import os
import time

import keras
import numpy as np

from anytime_keras import _files, runtime
from anytime_keras._checks import check_choice
from anytime_keras.conversion import converters, part_cache, runtimes
from anytime_keras.conversion.runtimes import check_num_threads
from anytime_keras.inference import latency
from anytime_keras.inference.engines.base import arrays
from anytime_keras.inference.engines.files import FileEngine
from anytime_keras.inference.engines.loading import Loader, Plan
from anytime_keras.inference.progress import silent

FILE_ENGINES = ("litert", "onnx", "openvino")
ENGINES = ("auto", "tensorflow", "jax", *FILE_ENGINES)
BLOCK_SECONDS = 0.3  # measuring time of each runtime
# How much faster several threads must be than one, which meets deadlines more reliably beside other processes.
GAIN = 0.1
# How much faster to the last exit another runtime must be than LiteRT, because deadlines need a run stage by stage, in
# which the others lose more time (tests/benchmarks/results/engines.md).
GAIN_OVER_LITERT = 0.25


def create(stages, inputs, name="auto", num_threads=None, dtype=None, representative=None, progress=silent):
    """Returns an `Engine` that is prepared for inputs of one size.

    Args:
        stages: `Stages`.
        inputs: list of tensors, the result of `stages.start` for an example.
        name: str, one of `ENGINES`.
        num_threads: int, the threads of a file engine; None measures one thread and one per core.
        dtype, representative: for file engines, see `FileEngine`; None computes like the network.
        progress: function of a str, called before each step that takes long.

    Raises:
        ValueError: if `name` is unknown, or this engine cannot run the network.
        ImportError: if the engine's package is not installed.
    """
    num_threads = check(name, num_threads)
    names = compared() if name == "auto" else (name,) if name in FILE_ENGINES else ()
    if name == "auto" and not (keras.backend.backend() == "tensorflow" and runtime.on_cpu()):
        names = ()
    if dtype is not None and not names:
        raise ValueError(
            f"`dtype={dtype!r}` needs one of the engines {FILE_ENGINES}. `engine='auto'` uses them only on a CPU with "
            "the TensorFlow backend, and of them those that the environment variable ANYTIME_KERAS_ENGINES lists, by "
            f"default all. Received: engine={name!r}, backend {keras.backend.backend()!r}."
        )
    if name != "auto":
        for own in names:
            runtimes.RUNTIMES[own]()  # raises if the package is missing
            converters.check_dtype(own, dtype or "float32")
    options = {"dtype": dtype or "float32", "representative": representative, "progress": progress}
    engine, reason = _fastest(stages, inputs, names, num_threads, options) if names else (None, None)
    if engine is None and (dtype is not None or name in FILE_ENGINES):
        reason, remedy = " ".join(str(reason).split()).rstrip("."), "Use `engine='auto'`"
        remedy = "Leave `dtype` out" if name == "auto" else remedy
        raise ValueError(f"`engine='{name}'` cannot run this network: {reason}. {remedy}.")
    return engine or of_backend(stages)


def compared():
    """Returns the runtimes that `engine="auto"` compares: those that `ANYTIME_KERAS_ENGINES` lists, by default all.

    Raises:
        ValueError: if the environment variable lists anything else.

    Example:
    >>> from unittest import mock
    >>> with mock.patch.dict(os.environ, ANYTIME_KERAS_ENGINES="litert, onnx"):
    ...     compared()
    ('litert', 'onnx')
    """
    listed = os.environ.get("ANYTIME_KERAS_ENGINES")
    if listed is None:
        return FILE_ENGINES
    names = tuple(name.strip() for name in listed.split(",") if name.strip())
    if unknown := set(names) - set(FILE_ENGINES):
        raise ValueError(
            f"The environment variable ANYTIME_KERAS_ENGINES must list runtimes among {FILE_ENGINES}, separated by "
            f"commas; an empty value means the backend. Received: {min(unknown)!r}."
        )
    return names


def check(name, num_threads):
    """Checks an engine's name and number of threads against this process's backend; returns the number as an int.

    Raises:
        ValueError: if they cannot be used.
    """
    check_choice("engine", name, ENGINES)
    needed = "tensorflow" if name in FILE_ENGINES else name  # TensorFlow converts the network
    if name != "auto" and needed != keras.backend.backend():
        raise ValueError(
            f"`engine='{name}'` needs Keras's backend '{needed}'. Received: backend '{keras.backend.backend()}'. Set "
            f"the environment variable KERAS_BACKEND={needed}, or use `engine='auto'`."
        )
    num_threads = check_num_threads(num_threads)
    if num_threads is not None and name in ("tensorflow", "jax"):
        raise ValueError(
            f"`num_threads` applies to the engines {FILE_ENGINES}. Received: num_threads={num_threads}, "
            f"engine='{name}', whose threads are set for the whole process, as with `tf.config.threading`."
        )
    return num_threads


def of_backend(stages):
    """Returns the `Engine` for Keras's backend."""
    if keras.backend.backend() == "tensorflow":
        from anytime_keras.inference.engines.tensorflow import TensorFlowEngine

        return TensorFlowEngine(stages)
    from anytime_keras.inference.engines.jax import JaxEngine

    return JaxEngine(stages)


def backend():
    """Returns the name of the engine for Keras's backend, one of `ENGINES`."""
    return keras.backend.backend() if keras.backend.backend() in ENGINES else "auto"


def _fastest(stages, inputs, names, num_threads, options):
    """Returns the fastest engine of some names that equals the network.

    Returns:
        A pair: the `Engine`, or None if TensorFlow is faster or no engine can run the network; and the last reason why
        an engine could not run it, an exception or None.
    """
    reason = None
    try:
        options.update(last=Plan.direct(stages, len(stages) - 1), memory={})
        for _, name, threads in sorted(_measured(stages, inputs, names, num_threads, options), key=_handicapped):
            if name == "tensorflow":
                break
            try:
                engine = FileEngine(stages, name, threads, **options)
                engine.prepare(arrays(inputs))
                return engine, None
            except Exception as error:  # it cannot run a stage, or not exactly; runtimes raise several types
                reason = error
    except Exception as error:  # no runtime has a form for a layer; or the network has dynamic sizes
        reason = error
    return None, reason


def _measured(stages, inputs, names, num_threads, options):
    """Measures the time to the last exit on each runtime, one after the other, or reads what was measured before.

    The times are kept for later if the runs with the fewest threads, which other processes disturb least, and those of
    the fastest engine were steady.

    Returns:
        A list of [seconds, engine, threads], without the runtimes that cannot run the network.

    Raises:
        Exception: if the network has dynamic sizes, or no runtime can run it.
    """
    threads = [num_threads] if num_threads else sorted({1, runtime.cores()})
    key = _key(options, inputs, names, threads)
    if key and (known := json.loads(part_cache.read(key) or "[]")):
        return known
    given, blocks, reasons, last = arrays(inputs), [], [], options["last"]
    samples = options["representative"] and (lambda plan: [options["representative"][at] for at in plan.reads])
    for name in names:
        try:
            for count in threads:
                loader = Loader(name, count, options["dtype"], samples, options["progress"], options["memory"])
                part = loader.load(last, len(given[0]))
                blocks.append((_block(lambda: part(given)), name, count))
        except Exception as error:  # not installed, or it has no form for a layer; runtimes raise several types
            reasons.append(error)
    if len(names) > 1 and options["dtype"] == "float32":
        options["progress"]("tensorflow")
        whole = runtime.compiled(last.part.model)
        blocks.append((_block(lambda: runtime.finish(whole(inputs))), "tensorflow", None))
    elif not blocks:
        raise reasons[0]
    # The lower quartile is the usual time, because other processes disturb it least.
    found = [[float(np.quantile(seconds, 0.25)), *row] for seconds, *row in blocks]
    fastest = min(found, key=_handicapped, default=None)
    decisive = [block for (block, *_), row in zip(blocks, found) if row[2] == threads[0] or row is fastest]
    if key and all(map(_is_steady, decisive)):
        part_cache.write(key, json.dumps(found).encode())
    return found


def _handicapped(row):
    """Returns the seconds by which runtimes are compared.

    >>> _handicapped([1.0, "litert", 1]), _handicapped([0.9, "onnx", 1]), round(_handicapped([0.7, "onnx", 2]), 4)
    (1.0, 1.125, 0.9625)
    """
    seconds, name, threads = row
    return seconds * (1 if threads == 1 else 1 + GAIN) * (1 if name == "litert" else 1 + GAIN_OVER_LITERT)


def _key(options, inputs, names, threads):
    """Returns the key under which the measured times of a network, a size and this machine are cached, or None."""
    versions = [runtime.version_of(name) for name in ("tensorflow", "ai-edge-litert", "onnxruntime", "openvino")]
    if (network := part_cache.key(options["last"].part, "litert", 1, memory=options["memory"])) is None:
        return None
    about = [network, options["dtype"], inputs[0].shape[0], names, threads, versions, runtime.machine()["processor"]]
    return _files.digest(about)


def _block(call):
    """Returns the seconds of a call in several runs, a list."""
    for _ in range(3):
        call()
    measured, end = [], time.perf_counter() + BLOCK_SECONDS
    while len(measured) < 5 or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        measured.append(time.perf_counter() - begin)
    return measured


def _is_steady(seconds):
    """Returns whether other processes hardly disturbed a measurement."""
    return np.quantile(seconds, 0.9) < latency.STEADY * np.median(seconds)
