"""Runs an exported anytime network: all at once, or stage by stage until a deadline.

`anytime_keras.export` puts this file beside what it writes, as `run_exported.py`. It needs NumPy and the runtime of the
set's format, nothing of Keras or of `anytime_keras`: copy the folder to where it shall run. From the command line it
measures each exit: `python run_exported.py --deadline=0.01`.
"""

import argparse
import dataclasses
import hashlib
import importlib
import json
import pathlib
import threading
import time
import types

import numpy as np

DESCRIPTION = "exported.json"
VERSION = 1


@dataclasses.dataclass
class Answer:
    """What one exit says.

    Attributes:
        logits: array of shape `(batch, classes)`.
        exit: str, the exit's name.
        position: int, its place among the exits, from 0.
        seconds: float, from the call to when the answer was there.
        late: bool, whether that was after the deadline.
    """

    logits: np.ndarray
    exit: str
    position: int
    seconds: float
    late: bool = False


class ExportedModel:
    """An exported set of stages, on the runtime that it was exported for.

    Hashes of all files are checked first. May be used from several threads.

    Args:
        path: the set's folder; None is the folder of this file.
        num_threads: int, how many threads a stage may use, for LiteRT and ONNX; None is the runtime's default.

    Attributes:
        exit_names: list of str, earliest first.
        costs: list, what each exit costs from the input on: `.exit`; `.backbone`, `.with_head`, `.with_all_heads` (MACs
            of one sample); `.params`.
        batch_size: int, or None if any will do.
        description: dict, the whole of `exported.json`.
        times: dict from batch size to the seconds that each stage is expected to take; see `calibrate`.

    Raises:
        ValueError: if the folder holds no set, or a file of it is missing or was changed.
        ImportError: if the set's runtime is not installed.
    """

    def __init__(self, path=None, num_threads=None):
        self.path = pathlib.Path(__file__).parent if path is None else pathlib.Path(path)
        self.description = _description(self.path)
        self.batch_size = self.description["batch_size"]
        self.costs = [types.SimpleNamespace(**cost) for cost in self.description["exits"]]
        self.exit_names = [cost.exit for cost in self.costs]
        self.times = {}
        self._inputs = self.description["inputs"]
        self._runtime = _RUNTIMES[self.description["format"]](self.path, num_threads)
        self._lock = threading.Lock()
        self._whole = None
        self._stages = [_Part(spec, self._runtime) for spec in self.description["stages"] or []]

    def whole(self, x):
        """Runs the whole network at once.

        Args:
            x: array of shape `(batch, ...)`; for several inputs a list of them, or a dict by their names.

        Returns:
            A dict from each exit's name to its logits, an array of shape `(batch, classes)`.
        """
        if self.description["whole"] is None:
            raise ValueError(
                f"The set in '{self.path}' was exported without the whole network. Use `predict` or `stream`, or "
                "export it with `parts=('whole', 'stages')`."
            )
        given = self._tensors(x)
        with self._lock:
            self._whole = self._whole or _Part(self.description["whole"], self._runtime)
        outputs = self._whole(given)
        return {name: np.asarray(outputs[key]) for name, key in self._whole.logits.items()}

    def stream(self, x):
        """Yields an `Answer` from each exit as soon as it is there. Stop asking, and no further stage is run."""
        begin = time.perf_counter()
        given = self._tensors(x)
        for position in self._positions():
            logits = self._stage(position, given)
            yield Answer(logits, self.exit_names[position], position, time.perf_counter() - begin)

    def predict(self, x, deadline=None):
        """Returns the best answer that can be had by a deadline.

        Stages are run one after the other as long as the next one is expected to end in time. The first is always run:
        a deadline that it cannot meet gives its answer, marked late.

        Args:
            x: array of shape `(batch, ...)`; for several inputs a list of them, or a dict by their names.
            deadline: float, seconds from now; None runs to the last exit.

        Returns:
            `Answer`.
        """
        begin = time.perf_counter()
        given = self._tensors(x)
        size = _batch_size(given)
        if deadline is not None and size not in self.times:
            raise ValueError(
                f"A deadline needs to know how long the stages take with a batch of {size}. Known: batches of "
                f"{sorted(self.times)}. Call `calibrate(x)` once, with an input of that batch size."
            )
        for position in self._positions():
            if position and deadline is not None:
                if not time.perf_counter() - begin + self.times[size][position] <= deadline:
                    break
            logits = self._stage(position, given)
            answer = Answer(logits, self.exit_names[position], position, time.perf_counter() - begin)
        answer.late = deadline is not None and not answer.seconds <= deadline
        return answer

    def calibrate(self, x, repeats=50, quantile=0.95):
        """Measures the stages on this machine, for deadlines with inputs of this batch size.

        Args:
            x: an input, as for `predict`.
            repeats: int, how often.
            quantile: float in [0, 1]; a stage is expected to take as long as this part of its runs did.

        Returns:
            The seconds of each stage, a list. Put it into `times` to skip the measurement next time.
        """
        given = self._tensors(x)
        for _ in range(3):  # runtimes allocate and choose kernels in their first runs
            self._measure(given)
        measured = np.quantile([self._measure(given) for _ in range(repeats)], quantile, axis=0)
        self.times[_batch_size(given)] = measured.tolist()
        return self.times[_batch_size(given)]

    def _measure(self, given):
        given, seconds = dict(given), []
        for position in self._positions():
            begin = time.perf_counter()
            self._stage(position, given)
            seconds.append(time.perf_counter() - begin)
        return seconds

    def _positions(self):
        if not self._stages:
            raise ValueError(
                f"The set in '{self.path}' was exported without stages. Use `whole`, or export it with "
                "`parts=('whole', 'stages')`."
            )
        return range(len(self._stages))

    def _stage(self, position, tensors):
        """Runs one stage on the tensors so far, a dict by name, adds what it makes to them, and returns its logits."""
        stage = self._stages[position]
        tensors.update(stage(tensors))
        return np.asarray(tensors[stage.logits[self.exit_names[position]]])

    def _tensors(self, x):
        return by_name(x, self._inputs, self.batch_size)


def by_name(x, specs, batch_size=None):
    """Returns a dict from the name of each of the network's inputs to its array, once all fit.

    Args:
        x: array, list of arrays, or dict of arrays by the inputs' keys.
        specs: list of dicts, `"inputs"` of the description.
        batch_size: int, or None if any will do.
    """
    keys = [spec["key"] for spec in specs]
    if isinstance(x, dict):
        if set(x) != set(keys):
            raise ValueError(f"The network's inputs are {keys}. Received: {list(x)}.")
        arrays = [x[key] for key in keys]
    else:
        arrays = [x] if len(keys) == 1 else list(x)
    if len(arrays) != len(keys):
        raise ValueError(f"The network takes {len(keys)} inputs, {keys}. Received: {len(arrays)}.")
    tensors = {}
    for array, spec in zip(arrays, specs):
        array = np.asarray(array, spec["dtype"])
        expected = [batch_size, *spec["shape"][1:]]
        fits = array.ndim == len(expected) and all(want in (None, got) for want, got in zip(expected, array.shape))
        if not fits or (tensors and len(array) != _batch_size(tensors)):
            raise ValueError(
                f"Input '{spec['key']}' must have shape {_shape(expected)}, with one batch size for all inputs. "
                f"Received: shape {array.shape}."
            )
        tensors[spec["name"]] = array
    return tensors


class _Part:
    """One part of a set: called with a dict of tensors that has its inputs, it returns a dict of its outputs."""

    def __init__(self, spec, runtime):
        self.inputs = [tensor["name"] for tensor in spec["inputs"]]
        self.logits = {tensor["exit"]: tensor["name"] for tensor in spec["outputs"] if tensor["exit"] is not None}
        self._run = runtime.load(spec)

    def __call__(self, tensors):
        return self._run({name: tensors[name] for name in self.inputs})


class _SavedModel:
    """TensorFlow: all parts are signatures of one SavedModel; tensors between stages stay TensorFlow's."""

    def __init__(self, folder, num_threads):
        if num_threads is not None:
            raise ValueError("TensorFlow's threads are set for the whole process: `tf.config.threading`.")
        self._tf = _installed("tensorflow", "tensorflow")
        self._loaded = self._tf.saved_model.load(str(folder / "saved_model"))

    def load(self, spec):
        signature, tensor = self._loaded.signatures[spec["signature"]], self._tf.convert_to_tensor
        return lambda tensors: signature(**{name: tensor(value) for name, value in tensors.items()})


class _LiteRT:
    def __init__(self, folder, num_threads):
        self._folder, self._num_threads = folder, num_threads
        self._interpreter = _installed("ai_edge_litert.interpreter", "ai-edge-litert").Interpreter

    def load(self, spec):
        interpreter = self._interpreter(str(self._folder / spec["file"]), num_threads=self._num_threads)
        run, lock = interpreter.get_signature_runner(spec["signature"]), threading.Lock()

        def locked(tensors):  # an interpreter keeps its inputs and outputs in itself
            with lock:
                return run(**tensors)

        return locked


class _Onnx:
    def __init__(self, folder, num_threads):
        self._folder = folder
        self._onnxruntime = _installed("onnxruntime", "onnxruntime")
        self._options = self._onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = num_threads or 0

    def load(self, spec):
        session = self._onnxruntime.InferenceSession(
            str(self._folder / spec["file"]), self._options, providers=["CPUExecutionProvider"]
        )
        outputs = [tensor["name"] for tensor in spec["outputs"]]
        return lambda tensors: dict(zip(outputs, session.run(outputs, tensors)))


_RUNTIMES = {"saved_model": _SavedModel, "litert": _LiteRT, "onnx": _Onnx}


def _installed(module, package):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"This set runs on {package}, which cannot be imported: `pip install {package}`.") from error


def _description(folder):
    """Reads a set's description, and checks that its files are what was exported."""
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        version, files = description["version"], description["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"'{folder}' holds no exported network: {DESCRIPTION} cannot be read ({error!r}). Expected a folder that "
            "`anytime_keras.export` wrote."
        ) from error
    if version != VERSION:
        raise ValueError(
            f"'{folder}' is an exported set of version {version}. Expected: {VERSION}. Use its own run_exported.py."
        )
    for name, expected in files:
        if not (folder / name).is_file() or sha256(folder / name) != expected["sha256"]:
            raise ValueError(
                f"'{folder / name}' is missing or is not the file that was exported. Copy or export it again."
            )
    return description


def sha256(path):
    """Returns the SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _batch_size(tensors):
    return len(next(iter(tensors.values())))


def _shape(sizes):
    return "(" + ", ".join("any" if size is None else str(size) for size in sizes) + ")"


def main():
    parser = argparse.ArgumentParser(description="Measures an exported anytime network on this machine.")
    parser.add_argument("path", nargs="?", help="the set's folder; by default that of this file")
    parser.add_argument("--batch_size", type=int, help="by default what the set was exported for, or 1")
    parser.add_argument("--deadline", type=float, help="seconds; tells which exit answers by then")
    parser.add_argument("--num_threads", type=int)
    args = parser.parse_args()
    model = ExportedModel(args.path, args.num_threads)
    size = args.batch_size or model.batch_size or 1
    x = {spec["key"]: np.zeros([size, *spec["shape"][1:]], spec["dtype"]) for spec in model.description["inputs"]}
    seconds = np.cumsum(model.calibrate(x))
    print(f"{'exit':<16}{'MACs (millions)':>16}{'milliseconds':>16}")
    for cost, until in zip(model.costs, seconds):
        print(f"{cost.exit:<16}{cost.with_all_heads / 1e6:>16.3f}{1e3 * until:>16.3f}")
    if args.deadline is not None:
        answer = model.predict(x, args.deadline)
        print(f"by {args.deadline} s: {answer.exit} after {answer.seconds:.6f} s{', late' if answer.late else ''}")


if __name__ == "__main__":
    main()
