"""The engine of runtimes that run converted files: LiteRT, ONNX Runtime and OpenVINO.

Each stage is converted into one part per batch size. These runtimes enter a part in microseconds, so the engine runs
stage by stage in the caller's thread. A direct run to one exit is a part of its own, without the heads in between.
"""

import hashlib

import keras
import numpy as np

from anytime_keras import graph
from anytime_keras.inference import converters, part_cache, runtimes
from anytime_keras.inference.answers import as_array
from anytime_keras.inference.engines.base import Engine, padded
from anytime_keras.inference.parts import Part

TOLERANCE = 1e-5  # largest difference to the network's float32 outputs, relative to the largest output or 1
_SIGNATURES = {"litert": "serving_default"}


class FileEngine(Engine):
    """Runs converted stages on a runtime.

    A batch of a size that is not prepared runs as several prepared batches, the last of which is padded.

    Args:
        stages: `Stages`.
        name: str, the runtime: `"litert"`, `"onnx"` or `"openvino"`.
        num_threads: int, the threads that compute a part.
        options: dict, options of `converters.convert`, such as the dtype.
        progress: function of a str, called before each conversion.

    Raises:
        ValueError: if the runtime cannot run the network.
        ImportError: if the runtime is not installed.
    """

    steps = True

    def __init__(self, stages, name, num_threads, options=None, progress=lambda text: None):
        super().__init__(stages)
        self.name = name
        self._num_threads, self._options, self._progress = num_threads, options or {}, progress
        self._runtime = runtimes.RUNTIMES[name](num_threads)
        self._plans = [Plan(f"stage_{position + 1}", segment) for position, segment in enumerate(self._segments)]
        self._direct_plans = {}
        self._of_any_size = {}  # from plan to loaded part, of runtimes whose parts run any batch size
        self._loaded = {}  # from batch size to the list of loaded stages
        self._direct = {}  # from (batch size, position) to a loaded part
        self._sizes = []
        inputs = stages.inputs
        self._form = (np.dtype(inputs[0].dtype), tuple(inputs[0].shape[1:])) if len(inputs) == 1 else None

    def start(self, x):
        if self._form is not None and type(x) is np.ndarray and len(x):
            if x.dtype == self._form[0] and x.shape[1:] == self._form[1]:  # the fast path needs no conversion
                return [np.ascontiguousarray(x)]
        return [np.ascontiguousarray(keras.ops.convert_to_numpy(tensor)) for tensor in self.stages.start(x)]

    def prepare(self, inputs):
        """Converts and loads the stages, and the direct run to the last exit, for one batch size.

        Raises:
            ValueError: if the runtime cannot run the network, or its outputs differ from the network's.
        """
        size = len(inputs[0])
        if size in self._loaded:
            return
        stages = [self._load(plan, size) for plan in self._plans]
        self.direct(len(self) - 1, size)
        self._check(stages, size, inputs)
        self._loaded[size] = stages
        self._sizes = sorted(self._loaded, reverse=True)

    def pieces(self, count):
        if count in self._loaded:
            return [count]
        sizes = []
        for size in self._sizes:
            sizes += [size] * (count // size)
            count %= size
        return sizes + [self._sizes[-1]] * (count > 0)

    def run(self, inputs, run):
        if run.first == run.last:
            run.emit(run.first, self._run_pieces(inputs, lambda size: self.direct(run.first, size))[0])
            return
        carried = inputs
        for position in range(self.start_of(run.first), run.first + 1):
            logits, carried = self.stage(position, carried, inputs)
        run.emit(run.first, logits)
        self._continue(carried, inputs, run)

    def stage(self, position, carried, inputs):
        given = inputs if self.starts[position] else carried
        if (loaded := self._loaded.get(len(given[0]))) is not None:
            return loaded[position](given)
        return self._run_pieces(given, lambda size: self._loaded[size][position])

    def take(self, tensor, rows):
        return tensor[rows]

    def direct(self, position, size):
        """Returns the part that runs straight to one exit, made when first used."""
        if (size, position) not in self._direct:
            if position not in self._direct_plans:
                segment = self.stages.at([self.stages.exit_names[position]]).segment(0)
                self._direct_plans[position] = Plan(f"direct_{position + 1}", segment)
            self._direct[size, position] = self._load(self._direct_plans[position], size)
        return self._direct[size, position]

    def _run_pieces(self, given, part):
        """Runs a batch in prepared sizes and joins the results."""
        results, begin, count = [], 0, len(given[0])
        for size in self.pieces(count):
            rows = padded([tensor[begin : begin + size] for tensor in given], size)
            results.append(part(size)(rows))
            begin += size
        if len(results) == 1:
            logits, carried = results[0]
            return logits[:count], [tensor[:count] for tensor in carried]
        logits = np.concatenate([logits for logits, _ in results])[:count]
        return logits, [np.concatenate(tensors)[:count] for tensors in zip(*(carried for _, carried in results))]

    def _load(self, plan, size):
        """Loads a part for a batch size, and converts it unless that is cached."""
        if plan.part is None:
            return _Loaded(plan, None)
        if self.name != "litert":  # these run any batch size
            if plan not in self._of_any_size:
                self._of_any_size[plan] = self._load_converted(plan, None)
            return self._of_any_size[plan]
        try:
            return self._load_converted(plan, 1, size)
        except (ValueError, RuntimeError):  # LiteRT cannot resize every part
            if size == 1:
                raise
            return self._load_converted(plan, size)

    def _load_converted(self, plan, converted_size, size=None):
        spec = {**plan.part.describe(converted_size), "signature": _SIGNATURES.get(self.name)}
        resized = None if size == converted_size else size
        return _Loaded(plan, self._runtime.load(self._content(plan.part, converted_size), spec, resized))

    def _content(self, part, size):
        def make():
            self._progress(f"{self.name}: {part.name}")
            return converters.convert([part], self.name, size, **self._options)[0]

        return part_cache.cached(self._key(part, size), make)

    def _key(self, part, size):
        return part_cache.key(part, self.name, size, **self._options)

    def identity(self, size):
        keys = [self._key(plan.part, 1) for plan in self._plans if plan.part]
        return " ".join([self.name, str(self._num_threads), str(size), *keys])

    def _check(self, stages, size, inputs):
        """Compares the outputs of all exits with the network's, unless this was done before."""
        key = hashlib.sha256(f"checked {self.identity(size)}".encode()).hexdigest()
        if part_cache.read(key) is not None:
            return
        ours = theirs = inputs
        for position, stage in enumerate(stages):
            expected = self._segments[position](inputs if self.starts[position] else theirs, training=False)
            logits, ours = stage(inputs if self.starts[position] else ours)
            found, theirs = [logits], expected["carried"]
            if position + 1 == len(stages):
                found.append(self.direct(position, size)(inputs)[0])
            for each in found:
                if not (difference := _difference(each, as_array(expected["logits"]))) <= TOLERANCE:
                    raise ValueError(
                        f"its outputs must equal the network's to {TOLERANCE:g}. Received: a difference of "
                        f"{difference:.2g} at '{self.stages.exit_names[position]}'"
                    )
        part_cache.write(key, b"")


def _difference(ours, theirs):
    """Returns the largest difference of two outputs, relative to the largest output or 1."""
    if ours.shape != theirs.shape:
        return float("inf")
    ours, theirs = ours.astype("float64"), theirs.astype("float64")
    return float(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))


class Plan:
    """A stage as a part that computes new tensors only, and where its results are found.

    Attributes:
        part: `Part`, or None if there is nothing to compute.
        reads: list of int, the inputs of the part among the stage's inputs.
        logits: int, the logits among the stage's inputs and the part's outputs.
        carried: list of int, the tensors for later stages, alike.
    """

    def __init__(self, name, segment):
        given, logits, carried = list(segment.inputs), segment.output["logits"], segment.output["carried"]
        known = {id(tensor) for tensor in given}
        new = list({id(tensor): tensor for tensor in [logits, *carried] if id(tensor) not in known}.values())
        for tensor in [*given, *new]:
            if not tensor.shape or tensor.shape[0] is not None or None in tensor.shape[1:]:
                raise ValueError(
                    f"it needs tensors of fixed shape, with the batch as the first axis. Received: shape "
                    f"{tuple(tensor.shape)} in {name}"
                )
        read = {id(tensor) for call in graph.calls(new, given) for tensor in call.input_tensors}
        self.reads = [at for at, tensor in enumerate(given) if id(tensor) in read]
        inputs = {f"input_{at}": given[at] for at in self.reads}
        outputs = {f"output_{number:03}": tensor for number, tensor in enumerate(new)}
        self.part = Part(name, inputs, outputs, {}) if new else None
        at = {id(tensor): number for number, tensor in enumerate([*given, *new])}
        self.logits, self.carried = at[id(logits)], [at[id(tensor)] for tensor in carried]


class _Loaded:
    """A plan with its loaded part: takes a stage's inputs, returns its logits and the tensors for later stages."""

    def __init__(self, plan, part):
        self._reads, self._logits, self._carried, self._part = plan.reads, plan.logits, plan.carried, part

    def __call__(self, given):
        values = [*given, *self._part([given[at] for at in self._reads])] if self._part else given
        return values[self._logits], [values[at] for at in self._carried]

