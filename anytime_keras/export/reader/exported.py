"""`ExportedModel` runs an exported network until a deadline, or with early exit."""

import math
import os
import pathlib
import threading
import time
import types

import numpy as np

from anytime_keras._checks import check_int, check_limit, check_number
from anytime_keras._forks import check_process
from anytime_keras.conversion.runtimes import RUNTIMES
from anytime_keras.export.reader.description import read_description
from anytime_keras.export.reader.inputs import batch_size_of, by_name
from anytime_keras.export.reader.stages import ExportedStages
from anytime_keras.inference.answers import Answer
from anytime_keras.inference.early_exit import classify
from anytime_keras.inference.thresholds import choose_thresholds
from anytime_keras.preprocessing.decoding import is_raw
from anytime_keras.preprocessing.host import HostPreprocessor


class ExportedModel:
    """Loads an exported network and runs it on the runtime of its format.

    The constructor verifies the description and the hashes of all files. Instances are thread-safe, but cannot be used
    in a forked process.

    If the exported model had a preprocessor, all methods take raw images in place of the network's inputs: uint8 arrays
    of any size, and paths, Pillow images or lists of these. Files and resizing need Pillow.

    Args:
        path: the export's folder; None is the folder of this file.
        num_threads: int, number of threads per stage; None is the runtime's default. TensorFlow takes None only.

    Attributes:
        exit_names: list of str, earliest first.
        costs: list, the cost of each exit from the input on: `.exit`; `.backbone`, `.with_head`, `.with_all_heads`
            (MACs of one sample); `.params`.
        batch_size: int, or None if the batch size is dynamic.
        description: dict, the content of `exported.json`.
        preprocessor: function from raw images to the network's inputs, or None.
        class_names: list of str, or None.
        temperatures: list of float, one per exit, fitted by `Predictor.calibrate`, or 1.
        times: dict from batch size, or from the shapes of all inputs if other axes are dynamic too, to the expected
            seconds of each stage; see `calibrate`.

    Raises:
        ValueError: if the folder does not contain an export, a file is missing, was changed or was added, or
            `num_threads` is not valid.
        ImportError: if the format's runtime is not installed.

    Example:
    >>> import pathlib, tempfile, numpy as np, anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> folder = tempfile.TemporaryDirectory()
    >>> reader = ExportedModel(ak.export(model, pathlib.Path(folder.name, "digits")))
    >>> reader.predict(np.zeros((1, 8, 8, 1), "float32")).exit
    'exit_3'
    >>> folder.cleanup()
    """

    def __init__(self, path=None, num_threads=None):
        self.path = pathlib.Path(__file__).parent if path is None else pathlib.Path(path)
        self.description = read_description(self.path)
        self.batch_size = self.description["batch_size"]
        config, self.class_names = self.description["preprocessing"], self.description["class_names"]
        self.preprocessor = None if config is None else HostPreprocessor.from_config(config)
        self.costs = [types.SimpleNamespace(**cost) for cost in self.description["exits"]]
        self.exit_names = [cost.exit for cost in self.costs]
        found = (self.description["inference"] or {}).get("temperatures", {})
        self.temperatures = [found.get(name, 1.0) for name in self.exit_names]
        self.times = {}
        self._pid = os.getpid()
        self._inputs = self.description["inputs"]
        self._runtime = RUNTIMES[self.description["format"]](num_threads)
        self._lock = threading.Lock()
        self._whole = None
        self._stages = ExportedStages(self.description, self._load)

    def __reduce__(self):
        raise TypeError(
            "An `ExportedModel` cannot be copied or pickled, because it contains a runtime. Load the folder "
            f"'{self.path}' again."
        )

    def _load(self, spec):
        return self._runtime.load(self.path / spec["file"], spec)

    def whole(self, x):
        """Runs the whole network on an input as for `predict`.

        Returns:
            A dict from exit name to logits, an array of shape `(batch, classes)`.
        """
        spec = self.description["whole"]
        if spec is None:
            raise ValueError(
                f"The network in '{self.path}' was exported without its whole. Use `predict` or `stream`, or export it "
                "with `parts=('whole', 'stages')`."
            )
        given = self._tensors(x)
        with self._lock:
            self._whole = self._whole or self._load(spec)
        outputs = dict(zip(self._whole.outputs, self._whole([given[name] for name in self._whole.inputs])))
        return {tensor["exit"]: np.asarray(outputs[tensor["name"]]) for tensor in spec["outputs"]}

    def stream(self, x):
        """Returns an iterator over the `Answer`s of all exits, which runs each stage when it is requested."""
        begin = time.perf_counter()
        self._check_stages()
        return self._answers(self._tensors(x, any_size=True), begin)

    def predict(self, x, deadline=None):
        """Returns the answer of the deepest exit within a deadline.

        Runs stages in order while the next one is expected to end in time. The first stage always runs; if it misses
        the deadline, its answer has `late=True`.

        Args:
            x: array of shape `(batch, ...)`; for several inputs a list of arrays, or a dict of arrays by name. If the
                export has a fixed batch size, each stage runs other batches in pieces of it, the last one padded.
            deadline: float, seconds from now; None runs all stages. A batch size that `times` lacks is expected to take
                as long as the next larger one, or as several batches of the largest.

        Returns:
            An `Answer`.

        Raises:
            ValueError: if `x` does not fit the network, `deadline` is not a number, or a deadline is given and `times`
                is empty, or lacks the shapes of `x` if other axes are dynamic too.
        """
        begin = time.perf_counter()
        check_limit("deadline", deadline)
        self._check_stages()
        given = self._tensors(x, any_size=True)
        limit = math.inf if deadline is None else begin + deadline
        following = [0.0] * len(self._stages) if deadline is None else [*self._times_for(self._size(given))[1:], 0.0]
        for answer in self._answers(given, begin):
            if time.perf_counter() + following[answer.position] > limit:
                break
        answer.late = deadline is not None and answer.seconds > deadline
        return answer

    def predict_batch(self, x, confidence=None, average_budget=None, batch_size=256, risk=None, max_drop=None):
        """Classifies each sample with the first exit that is confident enough (early exit).

        Args:
            x: an input as for `predict`, with any number of samples.
            confidence: float, the probability of the likeliest class at which a sample exits; or a list with one value
                for each exit but the last, where all remaining samples exit.
            average_budget, risk, max_drop: float, a target for which `Predictor.fit_thresholds` fitted a threshold
                before the export, for the same exits.
            batch_size: int, initial batch size.

        Returns:
            A `BatchAnswer`.

        Raises:
            ValueError: if not exactly one of `confidence`, `average_budget`, `risk` and `max_drop` is given, no
                threshold is fitted for it, or `x` does not fit the network.
        """
        self._check_stages()
        size = check_int("batch_size", batch_size)
        goals = {"confidence": confidence, "average_budget": average_budget, "risk": risk, "max_drop": max_drop}
        macs = [cost.with_all_heads for cost in self.costs]
        found = self.description["inference"]
        thresholds = choose_thresholds(goals, found, self.exit_names, self.temperatures, macs)
        given = self._tensors(x, any_size=True)
        starts = range(0, batch_size_of(given), size)
        batches = [[array[start : start + size] for array in given.values()] for start in starts]
        return classify(self._stages, batches, thresholds, self.temperatures, self._lock, self.exit_names, macs)

    def calibrate(self, x, repeats=50, quantile=0.95):
        """Measures the latency of each stage on this machine, for deadlines with inputs of this size.

        Args:
            x: an input, as for `predict`.
            repeats: int, number of runs.
            quantile: float in [0, 1], the quantile of the measured times to use as the expected time.

        Returns:
            The seconds of each stage, a list. Store it in `times` to skip the measurement next time.
        """
        check_int("repeats", repeats)
        check_number("quantile", quantile, "in [0, 1]", lambda number: 0 <= number <= 1)
        self._check_stages()
        given = self._tensors(x, any_size=True)
        for _ in range(3):  # warm up: runtimes allocate memory and select kernels in the first runs
            self._measure(given)
        measured = np.quantile([self._measure(given) for _ in range(repeats)], quantile, axis=0)
        self.times[self._size(given)] = measured.tolist()
        return self.times[self._size(given)]

    def size(self, x):
        """Returns the key of `times` for an input: its batch size, or the shapes of all inputs."""
        return self._size(self._tensors(x, any_size=True))

    def _size(self, tensors):
        if any(None in spec["shape"][1:] for spec in self._inputs):
            return tuple(tensors[spec["name"]].shape for spec in self._inputs)
        return batch_size_of(tensors)

    def _times_for(self, size):
        """Returns the expected seconds of each stage for a key of `times`, or for any batch size."""
        if size in self.times:
            return self.times[size]
        known = sorted(self.times)
        if not known or not isinstance(size, int):
            what = f"a batch of {size}" if isinstance(size, int) else f"inputs of shapes {list(size)}"
            raise ValueError(
                f"A deadline needs the measured times of the stages. Received: {what}. Measured: {known}. "
                "Call `calibrate(x)` once, with an input of that size."
            )
        next_size = min((own for own in known if own >= size), default=known[-1])
        return [-(-size // next_size) * seconds for seconds in self.times[next_size]]

    def _measure(self, given):
        carried, seconds = list(given.values()), []
        for position in range(len(self._stages)):
            begin = time.perf_counter()
            logits, carried = self._stages.stage(position, carried)
            np.asarray(logits)  # waits for TensorFlow
            seconds.append(time.perf_counter() - begin)
        return seconds

    def _check_stages(self):
        if not len(self._stages):
            raise ValueError(
                f"The network in '{self.path}' was exported without stages. Use `whole`, or export it with "
                "`parts=('whole', 'stages')`."
            )

    def _answers(self, given, begin):
        carried = list(given.values())
        for position, (name, temperature) in enumerate(zip(self.exit_names, self.temperatures)):
            logits, carried = self._stages.stage(position, carried)
            logits = np.asarray(logits)
            seconds = time.perf_counter() - begin
            sigmoid = self._stages.sigmoid[position]
            yield Answer(logits, name, position, seconds, temperature=temperature, sigmoid=sigmoid)

    def _tensors(self, x, any_size=False):
        check_process(self._pid, "An `ExportedModel`")
        if self.preprocessor is not None:
            alone = [*x.values()] if isinstance(x, dict) else x if isinstance(x, (list, tuple)) else []
            if len(alone) == 1 and np.ndim(alone[0]) == 4:  # the input by its name, or in a list
                x = alone[0]
            x = self.preprocessor(x) if is_raw(x) else x
        return by_name(x, self._inputs, None if any_size else self.batch_size)
