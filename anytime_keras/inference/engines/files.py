"""The engine of runtimes that run converted files: LiteRT, ONNX Runtime and OpenVINO.

Each stage is converted into one part per batch size. These runtimes enter a part in microseconds, so the engine runs
stage by stage in the caller's thread. A direct run to one exit is a part of its own, without the heads in between.
"""

import contextlib
import threading

import numpy as np

from anytime_keras import _files
from anytime_keras.conversion import part_cache, runtimes
from anytime_keras.inference.engines.base import NEVER, Engine, arrays, padded
from anytime_keras.inference.engines.loading import Loader, Plan, WeightsChanged

BATCHES = (8, 2)  # batch sizes that early exit uses in addition to the prepared ones
AT_ONCE = 32  # samples that run together with early exit
CALL = 0.5  # what entering a part costs, in samples
TOLERANCE = 1e-5  # largest difference to the network's float32 outputs, relative to the largest output or 1


class FileEngine(Engine):
    """Runs converted stages on a runtime.

    A batch of a size that is not prepared runs as several prepared batches, the last of which may be padded. ONNX
    Runtime runs any size.

    Args:
        stages: `Stages`.
        name: str, the runtime: `"litert"`, `"onnx"` or `"openvino"`.
        num_threads: int, the threads that compute a part.
        dtype: str, see `converters.convert`.
        representative: list of arrays, typical inputs of the network, from which `"int8"` takes the ranges of values.
        progress: function of a str, called before each conversion.
        last: `Plan` of the direct run to the last exit.
        memory: dict, see `part_cache.key`.

    Attributes:
        num_threads: int.

    Raises:
        ValueError: if the network has dynamic sizes.
        ImportError: if the runtime is not installed.
    """

    steps = True

    def __init__(self, stages, name, num_threads, dtype, representative, progress, last, memory):
        super().__init__(stages)
        self.name, self.num_threads = name, num_threads
        self._dtype, self._representative = dtype, representative
        self._loader = Loader(name, num_threads, dtype, representative and self._samples, progress, memory)
        self._plans = [Plan(f"stage_{position + 1}", stages, position) for position in range(len(stages))]
        self._direct_plans = {len(stages) - 1: last}
        self._weights = self._hash_weights(memory)
        self._loaded = {}  # from batch size to the list of loaded stages
        self._direct = {}  # from (batch size, position) to a loaded part
        self._sizes, self._fixed = [], set()  # the prepared sizes; those to which the parts cannot be resized
        self._run, self._running, self._changing = None, None, threading.Lock()
        self._converting = threading.Lock()
        inputs = stages.inputs
        self._form = (np.dtype(inputs[0].dtype), tuple(inputs[0].shape[1:])) if len(inputs) == 1 else None

    def start(self, x):
        if self._form is not None and type(x) is np.ndarray and x.ndim and len(x):
            if x.dtype == self._form[0] and x.shape[1:] == self._form[1]:  # the fast path needs no conversion
                return [np.ascontiguousarray(x)]
        return arrays(self.stages.start(x))

    def prepare(self, inputs, lock=contextlib.nullcontext()):
        """Converts and loads the stages, and the direct run to the last exit, for one batch size; see `Engine`.

        Raises:
            ValueError: if the runtime cannot run the network, its outputs differ from the network's, or the weights
                have changed since the engine was made.
        """
        size = len(inputs[0])
        if size in self._sizes:
            return
        if self._sizes:
            self.check_weights()
        stages = [self._loader.load(plan, size) for plan in self._plans]
        self._load_direct(len(self) - 1, size)
        self._check(stages, size, inputs, lock)
        self._loaded[size] = stages
        self._sizes.append(size)

    def check_weights(self):
        if self._hash_weights() != self._weights:
            raise WeightsChanged(
                "The network's weights must be those with which the predictor was made. Received: other weights. Make "
                "a new predictor."
            )

    def _hash_weights(self, memory=None):
        return [part_cache.weights(plan.part, memory) for plan in self._plans if plan.part]

    def batch_size(self, most):
        for size in () if self.name == "onnx" else BATCHES:
            with self._converting:
                if size in self._loaded or size in self._fixed:
                    continue
                if stages := self._loader.resized(self._plans, size):
                    self._loaded[size] = stages
                else:
                    self._fixed.add(size)
        return min(most, max(AT_ONCE, *self._sizes))

    def run(self, inputs, run):
        with self._changing:
            self._run = run
        try:
            if run.first == run.last:
                run.emit(run.first, self._run_pieces(inputs, lambda size: self.direct(run.first, size))[0])
                return
            carried = inputs
            for position in range(self.start_of(run.first), run.first + 1):
                logits, carried = self.stage(position, carried, inputs)
            run.emit(run.first, logits)
            self._continue(carried, inputs, run)
        except runtimes.Terminated:
            if run.limit != NEVER:
                raise
        finally:
            with self._changing:
                self._run = None

    def stop(self, run):
        """Stops a run after its current stage, or within it on runtimes that can. Thread-safe."""
        super().stop(run)
        with self._changing:  # the next run must not begin meanwhile
            if self._run is run and self._running is not None:
                self._running.terminate()

    def stage(self, position, carried, inputs):
        given = inputs if self.starts[position] else carried
        return self._run_pieces(given, lambda size: self._stages(size)[position])

    def _stages(self, size):
        return self._loaded[self._sizes[0] if self.name == "onnx" else size]

    def take(self, tensor, rows):
        return tensor[rows]

    def prepare_direct(self, inputs, position):
        for size in self._cut(len(inputs[0])):
            self.direct(position, size)

    def direct(self, position, size):
        """Returns the part that runs straight to one exit, made when first used.

        If the weights have changed before that, the stages run one by one.
        """
        if (size, position) not in self._direct:
            with self._converting:
                try:
                    self.check_weights()
                    self._load_direct(position, size)
                except WeightsChanged:
                    stages = self._stages(size)[self.start_of(position) : position + 1]
                    self._direct[size, position] = Chain(stages)
        return self._direct[size, position]

    def _load_direct(self, position, size):
        if position not in self._direct_plans:
            self._direct_plans[position] = Plan.direct(self.stages, position)
        self._direct[size, position] = self._loader.load(self._direct_plans[position], size)

    def _cut(self, count):
        """Returns the sizes of loaded batches in which a batch of `count` samples runs."""
        any_size, largest = self.name == "onnx", max(AT_ONCE, *self._sizes)
        if count in self._loaded or (any_size and count <= largest):
            return [count]
        return cut(count, [largest, count % largest or 1] if any_size else sorted(self._loaded, reverse=True))

    def _run_pieces(self, given, part):
        """Runs a batch in the sizes that are loaded and joins the results."""
        count = len(given[0])
        sizes = self._cut(count)
        if sizes == [count]:
            self._running = part(count)
            return self._running(given)
        results, begin = [], 0
        for size in sizes:
            rows = [tensor[begin : begin + size] for tensor in given]
            if begin + size > count:
                rows = padded(rows, size)
            self._running = part(size)
            results.append(self._running(rows))
            begin += size
        if len(results) == 1:
            logits, carried = results[0]
            return logits[:count], [tensor[:count] for tensor in carried]
        logits = np.concatenate([logits for logits, _ in results])[:count]
        return logits, [np.concatenate(tensors)[:count] for tensors in zip(*(carried for _, carried in results))]

    def _samples(self, plan):
        """Returns the representative inputs of a part, which the network's own stages compute for each stage."""
        if plan not in self._plans:
            return [self._representative[at] for at in plan.reads]
        given = inputs = self._representative
        for position in range(self._plans.index(plan)):
            model = self._segments[position]
            _, given = in_batches(model, inputs if self.starts[position] else given)
        given = inputs if self.starts[self._plans.index(plan)] else given
        return [given[at] for at in plan.reads]

    def network_logits(self, samples):
        """Returns the logits of each exit that the network itself computes, for inputs of the first stage."""
        given, found = samples, []
        for segment, starts in zip(self._segments, self.starts):
            logits, given = in_batches(segment, samples if starts else given)
            found.append(logits)
        return found

    def identity(self, size):
        keys = [self._loader.key(plan) for plan in self._plans if plan.part]
        return None if None in keys else " ".join([self.name, str(size), *keys])

    def _check(self, stages, size, inputs, lock):
        """Compares the outputs of all exits with the network's in float32, unless this was done before."""
        if self._dtype != "float32":
            return
        identity = self.identity(size)
        key = identity and _files.sha256(f"checked {identity}".encode())
        if key and part_cache.read(key) is not None:
            return
        expected, found, carried = self.network_logits(inputs), [], inputs
        with lock:
            for position, stage in enumerate(stages):
                logits, carried = stage(inputs if self.starts[position] else carried)
                found.append(logits)
            straight = self.direct(len(self) - 1, size)(inputs)[0]
        for position, logits in [*enumerate(found), (len(found) - 1, straight)]:
            if not (difference := _difference(logits, expected[position])) <= TOLERANCE:
                raise ValueError(
                    f"its outputs must equal the network's to {TOLERANCE:g}. Received: a difference of "
                    f"{difference:.2g} at '{self.stages.exit_names[position]}'"
                )
        if key:
            part_cache.write(key, b"")


class Chain:
    """Loaded stages that run one after the other, in place of one part."""

    def __init__(self, stages):
        self._stages = stages

    def __call__(self, given):
        for stage in self._stages:
            logits, given = stage(given)
        return logits, given

    def terminate(self):
        for stage in self._stages:
            stage.terminate()


def cut(count, sizes):
    """Cuts a batch of `count` samples into batches of the given sizes, of which the last may be padded.

    Args:
        count: int.
        sizes: list of int, descending.

    Returns:
        A list of int, the cheapest choice if each batch costs as much as its samples and `CALL`.

    >>> cut(26, [32, 8, 2]), cut(31, [32, 8, 2])
    ([8, 8, 8, 2], [32])
    """
    size, rest = sizes[0], sizes[1:]
    filled = [size] * -(-count // size)
    if not rest or count % size == 0:
        return filled
    exact = [size] * (count // size) + cut(count % size, rest)
    return min(filled, exact, key=lambda batches: sum(batches) + CALL * len(batches))


def in_batches(segment, samples, size=32):
    """Runs a stage for many samples; returns its logits, and the list of its "carried" arrays."""
    starts = range(0, len(samples[0]), size)
    results = [segment([array[at : at + size] for array in samples], training=False) for at in starts]
    joined = [np.concatenate(arrays(tensors)) for tensors in zip(*([r["logits"], *r["carried"]] for r in results))]
    return joined[0], joined[1:]


def _difference(ours, theirs):
    """Returns the largest difference of two outputs, relative to the largest output or 1."""
    if ours.shape != theirs.shape:
        return float("inf")
    ours, theirs = ours.astype("float64"), theirs.astype("float64")
    return float(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))
