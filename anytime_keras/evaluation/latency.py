"""Measures the latency of each exit on this machine."""

import time
from typing import Any

import keras
import numpy as np

from anytime_keras import graph, runtime


def latencies(model: keras.Model, example: Any, repeats: int = 30, seconds: float = 2.0) -> dict[str, float]:
    """Measures the median time from the input to each exit's answer.

    Each exit is one compiled graph without the earlier heads. Exits are measured in turns, so that a temporary slowdown
    of the machine affects all of them.

    Args:
        model: functional Keras model; its outputs are the exits.
        example: input with the batch size to measure, shape `(batch, ...)`, or a list of inputs.
        repeats: int, the minimum number of runs of each exit.
        seconds: float, the minimum duration over all exits, at most 60.

    Returns:
        A dict from each exit's name to its median latency in seconds.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> list(ak.evaluation.latencies(model, keras.ops.zeros((1, 8, 8, 1)), repeats=3, seconds=0))
    ['exit_1', 'exit_2', 'exit_3']
    """
    return medians(models_by_exit(model), example, repeats, seconds)


def models_by_exit(model):
    """Returns a dict from each exit's name to a model of this exit, which shares the layers."""
    model = graph.opened(model)
    return {name: keras.Model(model.input, tensor) for name, tensor in graph.outputs_by_name(model).items()}


def medians(models: dict, example: Any, repeats: int = 30, seconds: float = 2.0) -> dict:
    """Measures the median time of several models in turns. Returns a dict from the key of each model to seconds."""
    example = keras.tree.map_structure(keras.ops.convert_to_tensor, example)
    runs = {key: runtime.compiled(model) for key, model in models.items()}
    times: dict[Any, list[float]] = {key: [] for key in runs}
    for run in runs.values():
        runtime.finish(run(example))  # compiles
    start, rounds = time.perf_counter(), 0
    while rounds < repeats or time.perf_counter() - start < min(seconds, 60.0):
        for key, run in runs.items():
            begin = time.perf_counter()
            runtime.finish(run(example))
            times[key].append(time.perf_counter() - begin)
        rounds += 1
    return {key: float(np.median(measured)) for key, measured in times.items()}
