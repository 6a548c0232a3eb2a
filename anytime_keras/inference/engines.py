"""Engines: compiled programs that run the stages of a network and can stop between any two stages.

TensorFlow takes a few tenths of a millisecond to enter a compiled function, which is as long as a stage of a small
network takes. On TensorFlow, one program therefore holds all stages, each within a `tf.cond` that reads the clock and a
stop flag; a callback delivers answers while the program runs. JAX enters compiled functions quickly, so each stage is
a separate function there.

Stages are compiled once for all uses. An engine reads the weights once, when it is created.

On TensorFlow, answers are bitwise equal to the whole model's. XLA, and thus JAX, rounds differently when it fuses
operations differently, so answers may differ in the last bit from those of a model compiled as a whole.
"""

import threading
import time

import keras

from anytime_keras.inference import unchanging
from anytime_keras.inference.answers import as_array

NEVER = -1.0e18
ALWAYS = 1.0e18
ON_TENSORFLOW_ALONE = (
    keras.layers.StringLookup,
    keras.layers.IntegerLookup,
    keras.layers.TextVectorization,
    keras.layers.Hashing,
    keras.layers.HashedCrossing,
)


class Run:
    """The parameters of one run of an engine, and the receiver of its answers.

    Attributes:
        first: int, the first stage whose exit answers; earlier heads are skipped.
        last: int, the last stage that may run.
        limit: float, a `time.time()`. Later stages start only if they are expected to end by then; lower it to stop.
        needed: float array, expected seconds of each stage.
    """

    def __init__(self, first, last, limit, needed):
        self.first, self.last, self.limit, self.needed = first, last, limit, needed

    def emit(self, position, logits):
        """Receives the logits of each exit, an array, as soon as they are ready. May run in another thread."""
        raise NotImplementedError


class Engine:
    """Runs the stages of a network on the default device, one run at a time.

    Args:
        stages: `Stages`, or an object with the same methods.

    Attributes:
        any_size: bool, whether new batch sizes need no recompilation.
        takes: list of lists, the input shapes of each stage, with None for dynamic dimensions.
        gives: list, the shape of each exit's logits.
        sigmoid: list of bools, whether each exit ends in a sigmoid.
    """

    any_size = True

    def __init__(self, stages):
        self.stages = stages
        self._segments = [stages.segment(position) for position in range(len(stages))]
        self.takes = [[tuple(tensor.shape) for tensor in segment.inputs] for segment in self._segments]
        self.gives = [tuple(segment.output["logits"].shape) for segment in self._segments]
        self.sigmoid = [stages.ends_in_sigmoid(position) for position in range(len(stages))]

    def __len__(self):
        return len(self.stages)

    def start_of(self, position):
        """Returns the latest stage up to `position` that takes the network's input, where a direct run starts."""
        return max(start for start in range(position + 1) if self.stages.starts(start))

    def run(self, inputs, run):
        """Runs stage `run.first`, then later stages while they are expected to end by `run.limit`. Blocks."""
        raise NotImplementedError

    def stop(self, run):
        """Stops a run after its current stage. Thread-safe."""
        run.limit = NEVER

    def stage(self, position, carried, inputs):
        """Runs one stage and returns its logits and the tensors for later stages, as backend tensors."""
        raise NotImplementedError


class StepwiseEngine(Engine):
    """Calls a compiled function for each stage, for backends with a low overhead per call."""

    any_size = False

    def __init__(self, stages):
        super().__init__(stages)
        self._stages = [_compiled([segment]) for segment in self._segments]
        self._direct = [self._fused(position) if position else self._stages[0] for position in range(len(stages))]

    def _fused(self, last):
        """Compiles all stages up to `last` as one function, without the heads in between."""
        passing = [self.stages.segment(position, head=False) for position in range(self.start_of(last), last)]
        return _compiled([*passing, self._segments[last]])

    def run(self, inputs, run):
        result = self._direct[run.first](inputs)
        run.emit(run.first, as_array(result["logits"]))
        for position in range(run.first + 1, run.last + 1):
            if time.time() + run.needed[position] > run.limit:
                return
            logits, carried = self.stage(position, result["carried"], inputs)
            result = {"logits": logits, "carried": carried}
            run.emit(position, as_array(logits))

    def stage(self, position, carried, inputs):
        result = self._stages[position](inputs if self.stages.starts(position) else carried)
        return result["logits"], result["carried"]


def _compiled(models):
    """Compiles a chain of models, each of which runs on the "carried" outputs of the previous one."""
    if keras.backend.backend() != "jax":

        def eager(carried):
            for model in models:
                result = model(carried, training=False)
                carried = result["carried"]
            return result

        return eager
    import jax

    for layer in (layer for model in models for layer in model._flatten_layers()):
        if isinstance(layer, ON_TENSORFLOW_ALONE):
            raise ValueError(
                f"On JAX, layers that it can compile are expected. Received: '{layer.name}' of type "
                f"{type(layer).__name__}. Call it before the network, or run Keras on TensorFlow."
            )

    @jax.jit
    def forward(weights, carried):
        for model, values in zip(models, weights):
            result = unchanging.call(model, carried, zip(model.variables, values))
            carried = result["carried"]
        return result

    # Copy the weights, because training and even `predict` donate the model's own arrays.
    weights = [[keras.ops.copy(variable.value) for variable in model.variables] for model in models]
    return lambda carried: forward(weights, carried)


class GraphEngine(Engine):
    """Calls one TensorFlow program per run; see the module docstring."""

    def __init__(self, stages):
        super().__init__(stages)
        import tensorflow as tf

        try:
            tf.timestamp()
        except tf.errors.FailedPreconditionError as error:
            raise ValueError(
                "A predictor looks at the clock within TensorFlow's program, which "
                "`tf.config.experimental.enable_op_determinism()` forbids. Predict in a process without it."
            ) from error
        self._stages = [_TracedStage(segment) for segment in self._segments]
        self._programs = {}
        self._run, self._halted, self._lock = None, False, threading.Lock()
        self._stopped = tf.Variable(False, trainable=False)

    def program(self, first, last):
        """Returns the program that runs straight to stage `first` and may continue to `last`. Traced once."""
        import tensorflow as tf

        if (first, last) not in self._programs:
            specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in self.stages.inputs]
            times = tf.TensorSpec((len(self),), tf.float64)
            traced = tf.function(lambda times, *inputs: self._trace(list(inputs), first, last, times), autograph=False)
            self._programs[first, last] = traced.get_concrete_function(times, *specs)
        return self._programs[first, last]

    def _trace(self, inputs, first, last, latest_starts):
        import tensorflow as tf

        carried = inputs
        for position in range(self.start_of(first), first):
            carried = self._stages[position].passing(inputs if self.stages.starts(position) else carried)["carried"]
        told, *carried = self._answer(first, carried, inputs)
        goes_on, all_told = tf.constant(True), [told]
        # Chained conditions: nested ones would each pass on the weights of all later stages.
        for position in range(first + 1, last + 1):
            # A stage waits neither for the previous head nor for the delivery of its answer.
            with tf.control_dependencies([goes_on, *carried]):
                in_time = tf.timestamp() <= latest_starts[position]
                goes_on = goes_on & in_time & tf.logical_not(self._stopped.read_value())
            given, left = carried, self._stages[position].outputs["carried"]
            told, *carried = tf.cond(
                goes_on,
                lambda: self._answer(position, given, inputs),
                lambda: [tf.constant(False), *(tf.zeros([n or 0 for n in t.shape], t.dtype) for t in left)],
            )
            all_told.append(told)
        return all_told

    def _answer(self, position, carried, inputs):
        """Computes a stage and emits its answer; returns a "done" tensor and the tensors for later stages."""
        import tensorflow as tf

        result = self._stages[position].answering(inputs if self.stages.starts(position) else carried)
        # Declared stateless so that the next stage does not wait for it. It still runs because its result is used.
        told = tf.numpy_function(self._emit, [position, result["logits"]], tf.bool, stateful=False)
        told.set_shape(())
        return [told, *result["carried"]]

    def _emit(self, position, logits):
        self._run.emit(int(position), logits)
        return True

    def run(self, inputs, run):
        import tensorflow as tf

        program = self.program(run.first, run.last)
        with self._lock:
            self._run = run
            if self._halted:
                self._stopped.assign(False)
                self._halted = False
        try:
            program(tf.constant(run.limit - run.needed, tf.float64), *inputs)
        finally:
            with self._lock:
                self._run = None

    def stop(self, run):
        super().stop(run)  # in case the run has not begun
        with self._lock:
            if self._run is run:
                self._halted = True
                self._stopped.assign(True)

    def stage(self, position, carried, inputs):
        result = self._stages[position].alone(*(inputs if self.stages.starts(position) else carried))
        return result["logits"], result["carried"]


class _TracedStage:
    """One stage as TensorFlow functions, with everything that does not depend on its inputs precomputed.

    Attributes:
        outputs: dict, "logits" and "carried": the symbolic results.
        alone: function of the stage's inputs, to call outside a program; `answering` and `passing` are for programs.
    """

    def __init__(self, model):
        import tensorflow as tf

        def specs(tensors):
            return [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]

        def forward(carried, values):
            return unchanging.call(model, carried, zip(model.variables, values))

        values = [tf.convert_to_tensor(variable.value) for variable in model.variables]
        traced = tf.compat.v1.wrap_function(forward, [specs(model.inputs), specs(values)])
        inputs, weights = traced.inputs[: len(model.inputs)], traced.inputs[len(model.inputs) :][: len(values)]
        fixed = _fixed(traced.graph, inputs)
        self.outputs = traced.structured_outputs
        self._values = traced.prune(weights, fixed)(*values) if fixed else []
        self._answering = traced.prune(inputs + fixed, self.outputs)
        self._passing = traced.prune(inputs + fixed, {"carried": self.outputs["carried"]})
        # TensorFlow optimizes a pruned function only inside another function, which halves its time.
        alone = tf.function(lambda *carried: self.answering(carried), autograph=False)
        self.alone = alone.get_concrete_function(*specs(model.inputs))

    def answering(self, carried):
        return self._answering(*carried, *self._values)

    def passing(self, carried):
        return self._passing(*carried, *self._values)


def _fixed(graph, inputs):
    """Lists the tensors that do not depend on `inputs` but are read by operations that do.

    They are passed as tensors because TensorFlow would fold constants and round differently. Functions capture other
    resources of layers, such as lookup tables, automatically.
    """
    varying, fixed = {tensor.name for tensor in inputs}, {}
    held = {tensor.name for tensor in graph.internal_captures}
    for operation in graph.get_operations():
        if any(tensor.name in varying for tensor in operation.inputs):
            varying.update(tensor.name for tensor in operation.outputs)
            fixed.update((tensor.name, tensor) for tensor in operation.inputs if tensor.op.type != "Const")
    return [tensor for name, tensor in fixed.items() if name not in varying and name not in held]


def engine(stages):
    """Returns the `Engine` for Keras's backend."""
    return GraphEngine(stages) if keras.backend.backend() == "tensorflow" else StepwiseEngine(stages)
