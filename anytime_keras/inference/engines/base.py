"""`Engine` and `Run`: the interface of all engines."""

import contextlib
import functools
import time

import keras
import numpy as np

from anytime_keras.inference.answers import as_array

NEVER = -1.0e18
ALWAYS = 1.0e18


class Run:
    """The parameters of one run of an engine, and the receiver of its answers.

    Attributes:
        first: int, the first stage whose exit answers; earlier heads are skipped where the engine can.
        last: int, the last stage that may run.
        limit: float, a `time.time()`. Later stages start only if they are expected to end by then; lower it to stop.
        needed: float array or list, expected seconds of each stage.
    """

    def __init__(self, first, last, limit, needed):
        self.first, self.last, self.limit, self.needed = first, last, limit, needed

    def emit(self, position, logits):
        """Receives the logits of each exit, an array, as soon as they are ready. May run in another thread."""
        raise NotImplementedError


class Latest(Run):
    """A run in the calling thread that keeps its latest answer.

    Attributes:
        position: int, the exit that answered last.
        logits: array, its logits.
        began: float, `time.perf_counter()` at the start of the computation.
        ends: list of float, seconds from then to each answer.
    """

    position = logits = began = None

    def __init__(self, *args):
        super().__init__(*args)
        self.ends = []

    def emit(self, position, logits):
        self.ends.append(time.perf_counter() - self.began)
        self.position, self.logits = position, as_array(logits).copy()


class Engine:
    """Runs the stages of a network on one runtime, one run at a time.

    Args:
        stages: `Stages`, or an object with the same methods.

    Attributes:
        name: str, the engine's name in `Predictor(engine=...)`.
        any_size: bool, whether new batch sizes need no recompilation.
        steps: bool, whether entering a stage costs so little that a run to a deadline goes stage by stage in the
            caller's thread. Other engines run straight to an exit that meets the deadline, in a worker thread.
        takes: list of lists, the input shapes of each stage, with None for dynamic dimensions.
        gives: list, the shape of each exit's logits.
        sigmoid: list of bools, whether each exit ends in a sigmoid.
    """

    name = None
    any_size = True
    steps = False

    def __init__(self, stages):
        self.stages = stages
        ends = [stages.ends(position) for position in range(len(stages))]
        self.takes = [[tuple(tensor.shape) for tensor in given] for given, _, _ in ends]
        self.gives = [tuple(logits.shape) for _, logits, _ in ends]
        self.sigmoid = [stages.ends_in_sigmoid(position) for position in range(len(stages))]
        self.starts = [stages.starts(position) for position in range(len(stages))]

    def __len__(self):
        return len(self.stages)

    @functools.cached_property
    def _segments(self):
        """The stages as Keras models."""
        return [self.stages.segment(position) for position in range(len(self))]

    def start(self, x):
        """Converts an input of the model to the list of tensors that the first stage takes; see `Stages.start`."""
        return self.stages.start(x)

    def start_of(self, position):
        """Returns the latest stage up to `position` that takes the network's input, where a direct run starts."""
        return max(start for start in range(position + 1) if self.starts[start])

    def prepare(self, inputs, lock=contextlib.nullcontext()):
        """Compiles what deadlines with inputs of this size need, where the engine compiles for each size.

        Runs of other threads may go on meanwhile, except while this holds `lock`.
        """

    def check_weights(self):
        """Raises ValueError if the engine converts parts of the network later, and its weights have changed."""

    def prepare_direct(self, inputs, position):
        """Compiles the run straight to one exit for inputs of this size, unless that was done. Thread-safe."""

    def identity(self, size):
        """Returns a str that identifies the compiled stages for a batch size, or None if they are not cached."""
        return None

    def batch_size(self, most):
        """Returns the batch size, at most `most`, at which many samples run fastest with early exit.

        Loads the stages for it and for the smaller batches that remain, if the engine needs that.
        """
        return most

    def run(self, inputs, run):
        """Runs stage `run.first`, then later stages while they are expected to end by `run.limit`. Blocks."""
        raise NotImplementedError

    def straight(self, inputs):
        """Runs straight to the last exit, without the heads before it where the engine can; returns its logits."""
        run = Latest(len(self) - 1, len(self) - 1, ALWAYS, np.zeros(len(self)))
        run.began = time.perf_counter()
        self.run(inputs, run)
        return run.logits

    def stop(self, run):
        """Stops a run after its current stage. Thread-safe."""
        run.limit = NEVER

    def stage(self, position, carried, inputs):
        """Runs one stage and returns its logits and the tensors for later stages, as the engine's tensors."""
        raise NotImplementedError

    def take(self, tensor, rows):
        """Returns rows of one of the engine's tensors."""
        return keras.ops.take(tensor, rows, axis=0)

    def array(self, tensor):
        """Returns one of the engine's tensors as a NumPy array."""
        return as_array(tensor)

    def _continue(self, carried, inputs, run):
        """Runs the stages after `run.first` one by one, while they are expected to end in time."""
        for position in range(run.first + 1, run.last + 1):
            if time.time() + run.needed[position] > run.limit:
                return
            logits, carried = self.stage(position, carried, inputs)
            run.emit(position, as_array(logits))


def arrays(tensors):
    """Converts tensors of the backend to contiguous arrays of their dtype."""
    return [np.ascontiguousarray(x if isinstance(x, np.ndarray) else keras.ops.convert_to_numpy(x)) for x in tensors]


def padded(tensors, size):
    """Pads the batch of each array to `size` samples by repeating the first."""
    return [
        np.concatenate([array, np.repeat(array[:1], size - len(array), axis=0)]) if len(array) < size else array
        for array in arrays(tensors)
    ]
