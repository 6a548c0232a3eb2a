"""Runs an exported anytime network, whole or stage by stage until a deadline.

`anytime_keras.export` copies this file into each export as `run_exported.py`. It requires NumPy and the runtime of the
export's format, but neither Keras nor `anytime_keras`, so the folder can be copied to other machines. On the command
line, it measures the latency of each exit: `python run_exported.py --deadline=0.01`.
"""

import argparse
import dataclasses
import hashlib
import importlib
import json
import math
import numbers
import os
import pathlib
import threading
import time
import types

import numpy as np

_PID = os.getpid()  # of the process that imported this module
DESCRIPTION = "exported.json"
VERSION = 2

# The schema of `exported.json`. Ints are non-negative, a tuple lists two alternatives, and {str: ...} allows any key.
_TENSOR = {"name": str, "shape": [(int, None)], "dtype": str}
_PART = {
    "file": str,
    "signature": (str, None),
    "inputs": [_TENSOR],
    "outputs": [{**_TENSOR, "exit": (str, None)}],
}
_FORM = {
    "version": int,
    "model": str,
    "format": str,
    "precision": str,
    "batch_size": (int, None),
    "inputs": [{**_TENSOR, "key": str}],
    "exits": [{"exit": str, "backbone": int, "with_head": int, "with_all_heads": int, "params": int}],
    "sigmoid": [str],
    "inference": ({}, None),
    "whole": (_PART, None),
    "stages": ([{**_PART, "exit": str, "macs": int}], None),
    "files": {str: {"bytes": int, "sha256": str}},
}
# Files, besides hidden ones, that Python and file managers create in folders. They are ignored.
_LEFTOVERS = ("__pycache__", "__macosx", "@eadir", "thumbs.db", "desktop.ini")
_INFERENCE = {"temperatures": {str: float}, "exits": [str], "thresholds": [list]}  # all optional
_TYPES = "string bool float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64".split()


@dataclasses.dataclass
class Answer:
    """The output of one exit for a batch.

    Attributes:
        logits: array of shape `(batch, classes)`.
        exit: str, the exit's name.
        position: int, the exit's index, from 0.
        seconds: float, time from the call until the answer was ready.
        late: bool, whether the answer missed the deadline.
        temperature: float by which logits are divided for `confidence`, fitted by `Predictor.calibrate`, or 1.
        sigmoid: bool, whether the exit ends in a sigmoid. `logits` are then independent probabilities.
    """

    logits: np.ndarray
    exit: str
    position: int
    seconds: float
    late: bool = False
    temperature: float = 1.0
    sigmoid: bool = False

    @property
    def confidence(self):
        """The probability of the likeliest class of each sample, shape `(batch,)`.

        Computed from the softmax of `logits / temperature`. Outputs that are already probabilities (they sum to one)
        are converted to logits by taking their logarithm. Sigmoid outputs are used unchanged.
        """
        logits = np.asarray(self.logits, "float32")
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise ValueError(
                "Confidence needs one output for each of two classes or more, shape (batch, classes). Received: shape "
                f"{logits.shape} from '{self.exit}'. Use `logits`."
            )
        if self.sigmoid:
            return logits.max(axis=-1)
        if (logits >= 0).all() and np.abs(logits.sum(axis=-1) - 1).max() < 1e-3:
            logits = np.log(np.maximum(logits, 1e-30))
        below = (logits - logits.max(axis=-1, keepdims=True)) / self.temperature
        return 1 / np.exp(below).sum(axis=-1)


class ExportedModel:
    """Loads an exported network and runs it on the runtime of its format.

    The constructor verifies the description and the hashes of all files. Instances are thread-safe, but cannot be used
    in a forked process.

    Args:
        path: the export's folder; None is the folder of this file.
        num_threads: int, number of threads per stage, for LiteRT and ONNX; None is the runtime's default.

    Attributes:
        exit_names: list of str, earliest first.
        costs: list, the cost of each exit from the input on: `.exit`; `.backbone`, `.with_head`, `.with_all_heads`
            (MACs of one sample); `.params`.
        batch_size: int, or None if the batch size is dynamic.
        description: dict, the content of `exported.json`.
        temperatures: list of float, one per exit; see `Answer`.
        times: dict from batch size, or from the shapes of all inputs if other axes are dynamic too, to the expected
            seconds of each stage; see `calibrate`.

    Raises:
        ValueError: if the folder does not contain an export, or a file is missing, was changed or was added.
        ImportError: if the format's runtime is not installed.
    """

    def __init__(self, path=None, num_threads=None):
        self.path = pathlib.Path(__file__).parent if path is None else pathlib.Path(path)
        self.description = _description(self.path)
        self.batch_size = self.description["batch_size"]
        self.costs = [types.SimpleNamespace(**cost) for cost in self.description["exits"]]
        self.exit_names = [cost.exit for cost in self.costs]
        found = (self.description["inference"] or {}).get("temperatures", {})
        self.temperatures = [found.get(name, 1.0) for name in self.exit_names]
        self.times = {}
        self._pid = os.getpid()
        self._inputs = self.description["inputs"]
        self._runtime = _RUNTIMES[self.description["format"]](self.path, num_threads)
        self._lock = threading.Lock()
        self._whole = None
        self._stages = [_Part(spec, self._runtime) for spec in self.description["stages"] or []]

    def __reduce__(self):
        raise TypeError(
            "An `ExportedModel` holds its runtime's programs, so it cannot be copied or pickled. Open the folder "
            f"'{self.path}' again."
        )

    def whole(self, x):
        """Runs the whole network and returns the logits of all exits.

        Args:
            x: array of shape `(batch, ...)`; for several inputs a list of arrays, or a dict of arrays by name.

        Returns:
            A dict from exit name to logits, an array of shape `(batch, classes)`.
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
        """Returns an iterator over the `Answer`s of all exits, which runs each stage when it is requested."""
        begin = time.perf_counter()
        positions, given = self._positions(), self._tensors(x)
        return (self._answer(position, given, begin) for position in positions)

    def predict(self, x, deadline=None):
        """Returns the answer of the deepest exit within a deadline.

        Runs stages in order while the next one is expected to end in time. The first stage always runs; if it misses
        the deadline, its answer has `late=True`.

        Args:
            x: array of shape `(batch, ...)`; for several inputs a list of arrays, or a dict of arrays by name.
            deadline: float, seconds from now; None runs all stages.

        Returns:
            An `Answer`.

        Raises:
            ValueError: if `x` does not fit the network, `deadline` is not a number, or a deadline is given and `times`
                lacks the size of `x`.
        """
        begin = time.perf_counter()
        number = isinstance(deadline, numbers.Real) and not isinstance(deadline, bool) and not math.isnan(deadline)
        if deadline is not None and not number:
            raise ValueError(f"`deadline` must be a number of seconds, or None. Received: {deadline!r}.")
        positions, given = self._positions(), self._tensors(x)
        size = self._size(given)
        if deadline is not None and size not in self.times:
            what = f"a batch of {size}" if isinstance(size, int) else f"inputs of shapes {list(size)}"
            raise ValueError(
                f"A deadline needs to know how long the stages take with {what}. Known: {sorted(self.times)}. Call "
                "`calibrate(x)` once, with an input of that size."
            )
        for position in positions:
            if position and deadline is not None:
                if time.perf_counter() - begin + self.times[size][position] > deadline:
                    break
            answer = self._answer(position, given, begin)
        answer.late = deadline is not None and answer.seconds > deadline
        return answer

    def calibrate(self, x, repeats=50, quantile=0.95):
        """Measures the latency of each stage on this machine, for deadlines with inputs of this size.

        Args:
            x: an input, as for `predict`.
            repeats: int, number of runs.
            quantile: float in [0, 1], the quantile of the measured times to use as the expected time.

        Returns:
            The seconds of each stage, a list. Store it in `times` to skip the measurement next time.
        """
        if not isinstance(repeats, int) or repeats < 1 or not 0 <= quantile <= 1:
            raise ValueError(
                "`repeats` must be an int of 1 or more, and `quantile` be from 0 to 1. "
                f"Received: repeats={repeats!r}, quantile={quantile!r}."
            )
        given = self._tensors(x)
        for _ in range(3):  # warm up: runtimes allocate memory and select kernels in the first runs
            self._measure(given)
        measured = np.quantile([self._measure(given) for _ in range(repeats)], quantile, axis=0)
        self.times[self._size(given)] = measured.tolist()
        return self.times[self._size(given)]

    def _size(self, tensors):
        """Returns the input size, the key of `times`."""
        if any(None in spec["shape"][1:] for spec in self._inputs):
            return tuple(tensors[spec["name"]].shape for spec in self._inputs)
        return _batch_size(tensors)

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

    def _answer(self, position, given, begin):
        logits = self._stage(position, given)
        seconds = time.perf_counter() - begin
        name, temperature = self.exit_names[position], self.temperatures[position]
        sigmoid = name in self.description["sigmoid"]
        return Answer(logits, name, position, seconds, temperature=temperature, sigmoid=sigmoid)

    def _stage(self, position, tensors):
        """Runs one stage, adds its outputs to `tensors` (a dict by name), and returns its logits."""
        stage = self._stages[position]
        tensors.update(stage(tensors))
        return np.asarray(tensors[stage.logits[self.exit_names[position]]])

    def _tensors(self, x):
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"A set works in the process that opened it. Expected: process {self._pid}. Received: a call in its "
                f"fork {os.getpid()}, where the runtime's threads are missing. Start processes with "
                "`multiprocessing.get_context('spawn')`, and open the set in each."
            )
        return by_name(x, self._inputs, self.batch_size)


def by_name(x, specs, batch_size=None):
    """Validates the network's inputs and returns them as a dict from name to array.

    Args:
        x: array, list of arrays, or dict of arrays by the inputs' keys.
        specs: list of dicts, `"inputs"` of the description.
        batch_size: int, or None if the batch size is dynamic.

    Raises:
        ValueError: if an input is missing, has the wrong shape or type, or the batch is empty.
    """
    keys = [spec["key"] for spec in specs]
    if isinstance(x, dict):
        if set(x) != set(keys):
            raise ValueError(f"The network's inputs are {keys}. Received: {list(x)}.")
        arrays = [x[key] for key in keys]
    elif len(keys) > 1:
        arrays = list(x) if isinstance(x, (list, tuple)) else [x]
    else:  # nested lists of numbers are valid arrays too, so recognize `[x]` by the rank of `x`
        in_list = isinstance(x, (list, tuple)) and len(x) == 1 and np.ndim(x[0]) == len(specs[0]["shape"])
        arrays = x if in_list else [x]
    if len(arrays) != len(keys):
        raise ValueError(f"The network takes {len(keys)} inputs, {keys}. Received: {len(arrays)}.")
    tensors = {}
    for array, spec in zip(arrays, specs):
        array = np.asarray(array)
        expected = [batch_size, *spec["shape"][1:]]
        fits = array.ndim == len(expected) and all(want in (None, got) for want, got in zip(expected, array.shape))
        if not fits or (tensors and len(array) != _batch_size(tensors)):
            raise ValueError(
                f"Input '{spec['key']}' must have shape {_shape(expected)}, with one batch size for all inputs. "
                f"Received: shape {array.shape}."
            )
        if not len(array):
            raise ValueError(f"Input '{spec['key']}' must be a batch of a sample or more. Received: {array.shape}.")
        tensors[spec["name"]] = _cast(array, spec["dtype"])
        if tensors[spec["name"]] is None:
            raise ValueError(
                f"Input '{spec['key']}' must be of type {spec['dtype']}. Received: {array.dtype}, whose values are not "
                "all such numbers. Convert them first."
            )
    return tensors


def _cast(array, dtype):
    """Casts an array to another dtype, or returns None if that would change values by more than rounding."""
    if dtype == "string":
        return array.astype(object) if array.dtype.kind in "USO" else None
    dtype = np.dtype(dtype)
    if array.dtype.kind in "biu" and dtype.kind in "biu":
        cast = array.astype(dtype)
        return cast if (cast == array).all() else None
    return array.astype(dtype, copy=False) if np.can_cast(array.dtype, dtype, "same_kind") else None


class _Part:
    """A part of an export, called with a dict of tensors that includes its inputs; returns a dict of its outputs."""

    def __init__(self, spec, runtime):
        self.inputs = [tensor["name"] for tensor in spec["inputs"]]
        self.logits = {tensor["exit"]: tensor["name"] for tensor in spec["outputs"] if tensor["exit"] is not None}
        self._run = runtime.load(spec)

    def __call__(self, tensors):
        return self._run({name: tensors[name] for name in self.inputs})


class _SavedModel:
    """The TensorFlow runtime: parts are signatures of one SavedModel and exchange TensorFlow tensors."""

    def __init__(self, folder, num_threads):
        if num_threads is not None:
            raise ValueError("TensorFlow's threads are set for the whole process: `tf.config.threading`.")
        self._tf = _installed("tensorflow", "tensorflow")
        if os.getpid() != _PID:
            self._check_fork()
        self._loaded = self._tf.saved_model.load(str(folder / "saved_model"))

    def load(self, spec):
        signature, tensor = self._loaded.signatures.get(spec["signature"]), self._tf.convert_to_tensor
        if signature is None:
            raise ValueError(f"The SavedModel has no signature '{spec['signature']}'. Export the set again.")
        _check_names(spec, signature.structured_input_signature[1], signature.structured_outputs)
        return lambda tensors: signature(**{name: tensor(value) for name, value in tensors.items()})

    def _check_fork(self, seconds=5.0):
        """Raises if TensorFlow computes nothing here, as in a fork of a process that has used it."""
        tf, ended = self._tf, threading.Event()

        def compute():
            tf.function(lambda x: tf.matmul(x, x) + tf.reduce_sum(tf.exp(x)), autograph=False)(tf.ones((2, 2)))
            ended.set()

        threading.Thread(target=compute, daemon=True).start()
        if not ended.wait(seconds):
            raise RuntimeError(
                f"In this fork {os.getpid()} of process {_PID} nothing can be computed, because a fork lacks "
                "TensorFlow's threads. Start processes with `multiprocessing.get_context('spawn')`, or fork before the "
                "first computation."
            )


class _LiteRT:
    def __init__(self, folder, num_threads):
        self._folder, self._num_threads = folder, num_threads
        self._interpreter = _installed("ai_edge_litert.interpreter", "ai-edge-litert").Interpreter

    def load(self, spec):
        interpreter = self._interpreter(str(self._folder / spec["file"]), num_threads=self._num_threads)
        run, lock = interpreter.get_signature_runner(spec["signature"]), threading.Lock()
        _check_names(spec, run.get_input_details(), run.get_output_details())

        def locked(tensors):  # interpreters store their inputs and outputs
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
        _check_names(spec, *([t.name for t in ends] for ends in (session.get_inputs(), session.get_outputs())))
        outputs = [tensor["name"] for tensor in spec["outputs"]]
        return lambda tensors: dict(zip(outputs, session.run(outputs, tensors)))


_RUNTIMES = {"saved_model": _SavedModel, "litert": _LiteRT, "onnx": _Onnx}


def _installed(module, package):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"This set runs on {package}, which cannot be imported: `pip install {package}`.") from error


def _check_names(spec, inputs, outputs):
    """Checks that the inputs and outputs of a file match the description."""
    for described, names in ((spec["inputs"], inputs), (spec["outputs"], outputs)):
        expected = sorted(tensor["name"] for tensor in described)
        if sorted(names) != expected:
            raise ValueError(
                f"'{spec['file']}' and {DESCRIPTION} name different tensors: {sorted(names)} and {expected}. Export "
                "the set again."
            )


def _description(folder):
    """Reads an export's description, and verifies its hash, its consistency and its files."""
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        version = description["version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"'{folder}' holds no exported network: {DESCRIPTION} cannot be read ({error!r}). Expected a folder that "
            "`anytime_keras.export` wrote."
        ) from error
    if version != VERSION:
        raise ValueError(
            f"'{folder}' is an exported set of version {version}. Expected: {VERSION}. Use its own run_exported.py."
        )
    try:
        _expect(description.get("sha256") == fingerprint(description), "its own hash is another.")
        _match(description, _FORM, "it")
        _check_description(description)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"'{folder / DESCRIPTION}' is not what was exported: {error} Copy or export it again."
        ) from error
    _check_files(folder, description["files"])
    return description


def _match(value, form, where):
    """Validates JSON data against a schema such as `_FORM`."""
    if isinstance(form, tuple):
        if value is not form[1]:
            _match(value, form[0], where)
        return
    kind = form if isinstance(form, type) else type(form)
    accepted = (int, float) if kind is float else kind
    fits = isinstance(value, accepted) and not isinstance(value, bool) and not (kind is int and value < 0)
    _expect(fits, f"{where} must be {kind.__name__}{' of 0 or more' if kind is int else ''}, and is {value!r:.80}.")
    if isinstance(form, list):
        for position, each in enumerate(value):
            _match(each, form[0], f"{where}[{position}]")
    if isinstance(form, dict):
        for key in value if str in form else form:
            _expect(key in value, f"{where} has no '{key}'.")
            _match(value[key], form[str] if str in form else form[key], f"{where}['{key}']")


def _check_description(description):
    """Checks that a description's inputs, exits, stages and files are consistent."""
    inputs, exits, files = (description[key] for key in ("inputs", "exits", "files"))
    known, names = {tensor["name"]: tensor for tensor in inputs}, [cost["exit"] for cost in exits]
    keys = {tensor["key"] for tensor in inputs}
    _expect(description["format"] in _RUNTIMES, f"format {description['format']!r} is not of {list(_RUNTIMES)}.")
    _expect(description["batch_size"] != 0, "its batch size is 0.")
    _expect(inputs and len(known) == len(keys) == len(inputs), "its inputs need different names.")
    _expect(names and len(set(names)) == len(names), "its exits need different names.")
    for tensor in inputs:
        _check_tensor(tensor, description["batch_size"])
    check_inference(description["inference"])
    whole, stages = description["whole"], description["stages"]
    _expect(whole is not None or stages is not None, "it has neither the whole network nor stages.")
    if whole is not None:
        _check_part(whole, "the whole", known, names, description)
    if stages is not None:
        _expect([stage["exit"] for stage in stages] == names, f"its stages are not those of the exits {names}.")
        paid = 0
        for stage, cost in zip(stages, exits):
            where = f"the stage of '{stage['exit']}'"
            _check_part(stage, where, known, [stage["exit"]], description)
            _expect(stage["macs"] == cost["with_all_heads"] - paid, f"{where} and its exit disagree on MACs.")
            paid = cost["with_all_heads"]
            known = {**known, **{tensor["name"]: tensor for tensor in stage["outputs"]}}


def _check_part(part, where, known, exits, description):
    """Checks one part; `known` is a dict by name of the tensors that it may take."""
    single = description["format"] == "saved_model"
    file = "saved_model/saved_model.pb" if single else part["file"]
    _expect(file in description["files"] and (not single or part["file"] == "saved_model"), f"{where} has no file.")
    _expect(part["signature"] is not None or description["format"] == "onnx", f"{where} has no signature.")
    for tensor in part["inputs"]:
        given = known.get(tensor["name"], {})
        same = all(tensor[key] == given.get(key) for key in _TENSOR)
        _expect(same, f"{where} takes '{tensor['name']}', which nothing before gives in that shape and type.")
    names = [tensor["name"] for tensor in part["outputs"]]
    for tensor in part["outputs"]:
        _check_tensor(tensor, description["batch_size"])
    _expect(len({*names, *known}) == len(names) + len(known), f"{where} gives a tensor that is there already.")
    answered = [tensor["exit"] for tensor in part["outputs"] if tensor["exit"] is not None]
    _expect(answered == exits, f"{where} must answer for {exits}, and does for {answered}.")


def _check_tensor(tensor, batch_size):
    _expect(tensor["dtype"] in _TYPES, f"'{tensor['name']}' has the unknown type {tensor['dtype']!r}.")
    _expect(tensor["shape"][:1] == [batch_size], f"'{tensor['name']}' is not for batches of {batch_size}.")


def check_inference(found):
    """Validates a model's `inference`, which contains the exits' temperatures, or None.

    Raises:
        ValueError: if it does not have the form that `Predictor` stores.
    """
    _match(found, ({}, None), "inference")
    for key, form in _INFERENCE.items():
        if found and key in found:
            _match(found[key], form, f"inference['{key}']")
    for name, temperature in (found or {}).get("temperatures", {}).items():
        _expect(0 < temperature < math.inf, f"the temperature of '{name}' must be above 0, and is {temperature}.")


def _check_files(folder, files):
    """Checks that the export's folder contains exactly the exported files, unchanged."""
    for name, expected in files.items():
        path = pathlib.PureWindowsPath(name)  # parses both kinds of slashes, and drives
        if path.anchor or ".." in path.parts:
            raise ValueError(f"{DESCRIPTION} of '{folder}' names a file outside of it: {name!r}. Do not use this set.")
        try:
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"'{folder / name}' is a link to a file outside of the set. Copy the file itself.")
            same = (folder / name).stat().st_size == expected["bytes"] and sha256(folder / name) == expected["sha256"]
        except (OSError, RuntimeError):  # RuntimeError: a link to itself
            same = False
        if not same:
            raise ValueError(
                f"'{folder / name}' is missing or is not the file that was exported. Copy or export it again."
            )
    known = {DESCRIPTION, *files}
    for file in folder.rglob("*"):
        name = file.relative_to(folder)
        leftover = any(part.startswith(".") or part.lower() in _LEFTOVERS for part in name.parts)
        if (file.is_symlink() or not file.is_dir()) and name.as_posix() not in known and not leftover:
            raise ValueError(f"'{file}' is not part of the exported set. Remove it, or export the set again.")


def _expect(fits, otherwise):
    if not fits:
        raise ValueError(otherwise)


def fingerprint(description):
    """Returns the SHA-256 of a description without its own hash, independent of JSON formatting."""
    rest = {key: value for key, value in description.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


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
    inputs = model.description["inputs"]
    if any(None in spec["shape"][1:] for spec in inputs):
        parser.error("this set has inputs of open size. Measure it in Python: `ExportedModel(path).calibrate(x)`")
    x = {spec["key"]: np.zeros([size, *spec["shape"][1:]], spec["dtype"].replace("string", "U1")) for spec in inputs}
    seconds = np.cumsum(model.calibrate(x))
    print(f"{'exit':<16}{'MACs (millions)':>16}{'milliseconds':>16}")
    for cost, until in zip(model.costs, seconds):
        print(f"{cost.exit:<16}{cost.with_all_heads / 1e6:>16.3f}{1e3 * until:>16.3f}")
    if args.deadline is not None:
        answer = model.predict(x, args.deadline)
        print(f"by {args.deadline} s: {answer.exit} after {answer.seconds:.6f} s{', late' if answer.late else ''}")


if __name__ == "__main__":
    main()
