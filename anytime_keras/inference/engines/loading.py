"""Converts the stages of a network into parts of a runtime, and loads them."""

import keras

from anytime_keras import graph
from anytime_keras.conversion import converters, part_cache, runtimes
from anytime_keras.conversion.parts import Part
from anytime_keras.inference.progress import silent


class WeightsChanged(ValueError):
    """Raised instead of converting a network whose weights are no longer those with which the engine was made."""


class Loader:
    """Converts and loads parts for one runtime.

    Args:
        name: str, the runtime: `"litert"`, `"onnx"` or `"openvino"`.
        num_threads: int, the threads that compute a part.
        dtype: str, see `converters.convert`.
        samples: function from a `Plan` to typical inputs of its part, a list of arrays, for `"int8"`; else None.
        progress: function of a str, called before each conversion.
        memory: dict, see `part_cache.key`.

    Raises:
        ImportError: if the runtime is not installed.
    """

    def __init__(self, name, num_threads, dtype="float32", samples=None, progress=silent, memory=None):
        self.name, self._num_threads, self._dtype = name, num_threads, dtype
        self._samples, self._progress, self._memory = samples or (lambda plan: None), progress, memory
        self._runtime = runtimes.RUNTIMES[name](num_threads)
        self._keys = {}  # from plan and batch size to the key of the converted part
        self._of_any_size = {}  # from plan to its loaded part, on runtimes that allow it
        self._contents = {}  # from plan and batch size to the bytes of the converted part

    def load(self, plan, size, resize_only=False):
        """Returns the loaded part of a `Plan` for a batch size, a `Loaded`. Converts it unless that is cached.

        `resize_only` raises where LiteRT needs another conversion than that for a batch of one.

        Raises:
            Exception: of several types, if the runtime cannot run the part.
        """
        if plan.part is None:
            return Loaded(plan, None)
        if self.name != "litert":  # these run any batch size
            if plan not in self._of_any_size:
                self._of_any_size[plan] = self._load(plan, None)
            return self._of_any_size[plan]
        try:
            return self._load(plan, 1, size)
        except (ValueError, RuntimeError):  # LiteRT cannot resize every part
            if size == 1 or resize_only:
                raise
            return self._load(plan, size)

    def resized(self, plans, size):
        """Returns the loaded parts for another batch size, or None if that needs a new conversion."""
        try:
            return [self.load(plan, size, resize_only=True) for plan in plans]
        except (ValueError, RuntimeError):
            return None

    def key(self, plan):
        """Returns a str that identifies the converted part and the number of threads, or None; see `part_cache.key`."""
        key = self._key(plan, 1 if self.name == "litert" else None)
        return key and f"{key} {self._num_threads}"

    def _key(self, plan, size):
        if (plan, size) not in self._keys:  # it hashes the weights
            samples = self._samples(plan)
            key = part_cache.key(plan.part, self.name, size, self._dtype, samples, self._memory)
            self._keys[plan, size] = key
        return self._keys[plan, size]

    def _load(self, plan, converted_size, size=None):
        def make():
            if held := converters.held_by_layers(plan.part.model):
                raise ValueError(
                    "it needs layers that hold nothing but Keras's variables. Received: lookup tables or the like in "
                    f"{sorted({layer for layer, _ in held})}"
                )
            calls = graph.calls(plan.part.outputs, list(plan.part.inputs.values()))
            if unknown := converters.unknown_types(calls, self.name):
                raise ValueError(f"it needs layers that compute in float32. Received: layers in {unknown}")
            self._progress(f"{self.name}: {plan.part.name}")
            samples = self._samples(plan)
            calibration = None if samples is None else [samples]
            content = converters.convert([plan.part], self.name, converted_size, self._dtype, calibration)[0]
            if part_cache.weights(plan.part) != part_cache.weights(plan.part, self._memory):
                raise WeightsChanged("its weights must not change while it is converted")
            return content

        content = self._contents.get((plan, converted_size)) or part_cache.cached(self._key(plan, converted_size), make)
        if self.name == "litert":  # its interpreters keep the bytes in memory anyway
            self._contents[plan, converted_size] = content
        resized = None if size == converted_size else size
        return Loaded(plan, self._runtime.load(content, plan.part.describe(converted_size), resized))


class Plan:
    """A stage as a part that computes new tensors only, and where its results are found.

    Attributes:
        part: `Part`, or None if there is nothing to compute.
        reads: list of int, the inputs of the part among the stage's inputs.
        logits: int, the logits among the stage's inputs and the part's outputs.
        carried: list of int, the tensors for later stages, alike.
    """

    @classmethod
    def direct(cls, stages, position):
        """Returns the plan of a run straight to one exit, without the heads in between."""
        return cls(f"direct_{position + 1}", stages.at([stages.exit_names[position]]), 0)

    def __init__(self, name, stages, position):
        given, logits, carried = stages.ends(position)
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
        at = {id(tensor): number for number, tensor in enumerate([*given, *new])}
        self.logits, self.carried = at[id(logits)], [at[id(tensor)] for tensor in carried]
        first = len(given)

        def build():
            segment = stages.segment(position)
            found = {self.logits: segment.output["logits"], **dict(zip(self.carried, segment.output["carried"]))}
            results = {name: found[first + number] for number, name in enumerate(outputs)}
            return keras.Model([segment.inputs[at] for at in self.reads], results)

        self.part = Part(name, inputs, outputs, {}, build) if new else None


class Loaded:
    """A plan with its loaded part: takes a stage's inputs, returns its logits and the tensors for later stages."""

    def __init__(self, plan, part):
        self._reads, self._logits, self._carried, self._part = plan.reads, plan.logits, plan.carried, part

    def __call__(self, given):
        values = [*given, *self._part([given[at] for at in self._reads])] if self._part is not None else given
        return values[self._logits], [values[at] for at in self._carried]

    def terminate(self):
        if self._part is not None:
            self._part.terminate()
