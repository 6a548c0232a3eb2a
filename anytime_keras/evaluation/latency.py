"""Measures the latency of each exit on this machine."""

import time
from collections.abc import Callable

import keras
import numpy as np

from anytime_keras import graph, runtime


def latencies(model, example, repeats=30, seconds=2.0):
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
    >>> seconds = ak.evaluation.latencies(model, keras.ops.zeros((1, 8, 8, 1)), repeats=3, seconds=0)
    >>> list(seconds), min(seconds.values()) > 0
    (['exit_1', 'exit_2', 'exit_3'], True)
    """
    model = graph.opened(model)
    runs = {
        name: runtime.compiled(keras.Model(model.input, tensor))
        for name, tensor in graph.outputs_by_name(model).items()
    }
    example = keras.tree.map_structure(keras.ops.convert_to_tensor, example)
    calls = {name: (lambda run=run: runtime.finish(run(example))) for name, run in runs.items()}
    return medians(calls, repeats, seconds)


def medians(runs: dict[str, Callable[[], object]], repeats: int = 30, seconds: float = 2.0) -> dict[str, float]:
    """Measures the median time of several functions, in turns.

    Args:
        runs: dict from a name to a function without arguments. Each is first called once to compile.
        repeats, seconds: as in `latencies`.

    Returns:
        A dict from each name to its median time in seconds.

    >>> list(medians({"nothing": lambda: None}, repeats=1, seconds=0))
    ['nothing']
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    start, rounds = time.perf_counter(), 0
    while rounds < repeats or time.perf_counter() - start < min(seconds, 60.0):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
        rounds += 1
    return {name: float(np.median(measured)) for name, measured in times.items()}
