"""`Runner`: runs batches of requests through a predictor's engine, stage by stage.

Only this module uses the internals of `Predictor`.
"""

import time

import numpy as np

from anytime_keras.inference.answers import probabilities
from anytime_keras.inference.early_exit import per_sample
from anytime_keras.inference.engines.base import arrays
from anytime_keras.serving.times import StageTimes

LEAST_RUNS = 6
EACH = 8  # up to this, all sizes are measured, because an engine may split a batch of a size that is not prepared


class Runner:
    """Prepares a predictor's engine for several batch sizes and creates batches.

    Args:
        predictor: `Predictor`, or the `SetPredictor` of a classifier of an exported set.

    Attributes:
        exit_names: list of str.
        padded: bool, whether batches are padded to prepared sizes, because the engine compiles for each size.
        straight: bool, whether the engine can run straight to the last exit. Exported sets have no part for that.
        inputs: list, the network's input tensors, symbolic.
    """

    def __init__(self, predictor):
        self._state, self.lock = predictor._state, predictor._lock
        self.engine, self.answer = self._state.engine, self._state.answer
        self.straight = self.engine.straight is not None
        self.inputs = self._state.stages.inputs
        self.exit_names = list(self._state.stages.exit_names)
        self.padded = not self.engine.any_size
        self.sizes = [1]

    @property
    def example(self):
        """An input of one sample; its other dynamic sizes are those that the predictor was made with."""
        first = next(iter(self._state.times.values())).example
        return first if isinstance(first, (dict, list, tuple)) else np.asarray(first)[:1]

    def start(self, x):
        """Converts the input of one request to a list of arrays.

        Args:
            x: input of the model, with a batch axis of length 1, which may be left out if there is a single input.

        Raises:
            ValueError: if it does not fit the model or contains several samples.
        """
        if len(self.inputs) == 1 and len(np.shape(x)) == len(self.inputs[0].shape) - 1:
            x = np.asarray(x)[None]
        tensors = arrays(self.engine.start(x))
        if len(tensors[0]) != 1:
            raise ValueError(f"A request must be one sample. Received: a batch of {len(tensors[0])}. Submit each.")
        for tensor in tensors:
            if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
                raise ValueError("A request must contain finite numbers only. Received: NaN or infinity.")
        return tensors

    def size_of(self, rows):
        """Returns the number of rows that the engine computes for a batch of `rows`."""
        return next(size for size in self.sizes if size >= rows) if self.padded else rows

    def batch(self, inputs):
        """Creates a `Batch`.

        Args:
            inputs: list of the results of `start`.
        """
        return Batch(self, [np.concatenate(tensors) for tensors in zip(*inputs)])

    def confidence(self, position, logits):
        """Returns the probability of the likeliest class at an exit, a list of float."""
        temperature, sigmoid = self._state.temperatures[position], self.engine.sigmoid[position]
        return probabilities(logits, temperature, sigmoid).max(axis=-1).tolist()

    def measure(self, example, sizes, seconds=1.0):
        """Prepares batch sizes and measures them; unless batches are padded, also all other sizes below `EACH`.

        Args:
            example: the result of `start` for an input.
            sizes: list of int, ascending from 1.
            seconds: float, about how long to measure. Sizes take turns, so that other work on the machine affects all.

        Returns:
            `StageTimes`, and a list of the seconds of a straight run of each measured size, or None.
        """
        self.sizes = list(sizes)
        measured = sizes if self.padded else sorted({*sizes, *range(1, min(sizes[-1], EACH))})
        for size in sizes:
            inputs = self._converted([np.repeat(tensor, size, axis=0) for tensor in example])
            with self.lock:
                self.engine.prepare(inputs)
            self._timed([example] * size)  # compiles
        begin, runs = time.perf_counter(), []
        while len(runs) < LEAST_RUNS or time.perf_counter() - begin < seconds:
            runs.append([self._timed([example] * size) for size in measured])
        # Other work on the machine only adds. A larger batch takes at least as long; noise might claim otherwise.
        least = np.maximum.accumulate(np.maximum(np.min(runs, axis=0), 1e-7))
        straight = least[:, -1].tolist() if self.straight else None
        return StageTimes(measured, least[:, :-1], self.padded), straight

    def _timed(self, inputs):
        """Returns the seconds of each stage, and of a straight run."""
        batch, ends = self.batch(inputs), [time.perf_counter()]
        for _ in self.exit_names:
            batch.step()
            ends.append(time.perf_counter())
        if self.straight:
            self.batch(inputs).straight()
        return np.diff([*ends, time.perf_counter()])

    def _converted(self, values):
        return self.engine.start(values if len(self.inputs) > 1 else values[0])


class Batch:
    """A running batch, from which requests can leave at each exit.

    Args:
        runner: `Runner`.
        inputs: list of arrays, shape `(rows, ...)`.
    """

    def __init__(self, runner, inputs):
        self._runner, self._engine = runner, runner.engine
        count = len(inputs[0])
        self._rows = np.arange(count)  # the engine's row of each request
        self._size = runner.size_of(count)
        filled = np.arange(self._size) % count
        self._inputs = self._carried = runner._converted([tensor[filled] for tensor in inputs])
        self.position = -1

    def __len__(self):
        return len(self._rows)

    def step(self):
        """Runs the next stage; returns the logits of its exit, shape `(requests, classes)`."""
        self.position += 1
        with self._runner.lock:
            logits, self._carried = self._engine.stage(self.position, self._carried, self._inputs)
            logits = self._engine.array(logits)
        return logits[self._rows]

    def straight(self):
        """Runs straight to the last exit instead of stage by stage; returns its logits, as `step`."""
        self.position = len(self._engine) - 1
        with self._runner.lock:
            return self._engine.straight(self._inputs)[self._rows]

    def keep(self, places):
        """Continues with some of the requests, where the network's tensors can be cut by sample.

        Args:
            places: list of int, their places in the batch.
        """
        rows = self._rows[places]
        size = self._runner.size_of(len(rows))
        self._rows = rows
        if size == self._size or self.position + 1 == len(self._engine):
            return
        takes = self._engine.takes
        carried = per_sample(takes[self.position + 1], self._carried, self._size)
        inputs = per_sample(takes[0], self._inputs, self._size)
        if inputs is None or carried is None and not self._engine.starts[self.position + 1]:
            return  # all samples continue
        filled = rows[np.arange(size) % len(rows)]
        self._inputs = self._cut(self._inputs, inputs, filled)
        if carried is not None:
            self._carried = self._cut(self._carried, carried, filled)
        self._rows, self._size = np.arange(len(rows)), size

    def _cut(self, tensors, by_sample, rows):
        return [self._engine.take(tensor, rows) if cut else tensor for tensor, cut in zip(tensors, by_sample)]
