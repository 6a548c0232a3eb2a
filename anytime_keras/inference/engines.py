"""What runs stages: compiled programs that can stop between any two of them.

TensorFlow takes a few tenths of a millisecond to enter a compiled function, as long as a stage of a small network
takes. So there one program holds all stages, each within a `tf.cond` that looks at the clock and at a variable that
says whether to go on; answers leave it on the way, through a callback. JAX enters a compiled function quickly, and
gets one a stage.

Stages are compiled once for all uses. Weights are read when an engine is made.

On TensorFlow answers equal the whole model's bit for bit. XLA, and so JAX, rounds differently where it fuses operations
otherwise: there they may differ in the last bit from those of a model that is compiled as a whole.
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
    """What an engine needs to know of one run, and tells of it.

    Attributes:
        first: int, the stage whose exit answers first; heads before it are left out.
        last: int, the stage to end with at the latest.
        limit: float, `time.time()` until which stages may end. Set it lower to stop a running one.
        needed: float array, seconds that each stage is expected to take.
    """

    def __init__(self, first, last, limit, needed):
        self.first, self.last, self.limit, self.needed = first, last, limit, needed

    def emit(self, position, logits):
        """Called with each exit's answer, an array, as soon as it is there; maybe from another thread."""
        raise NotImplementedError


class Engine:
    """Runs the stages of a network on the machine's default device. One run at a time.

    Args:
        stages: `Stages`, or an object of the same methods.

    Attributes:
        any_size: bool, whether a new batch size compiles nothing.
        takes: list of lists, the shapes of the tensors that each stage takes, None where the model leaves them open.
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
        """Returns the stage to start from so as to answer at this one first: the latest that takes the input itself."""
        return max(start for start in range(position + 1) if self.stages.starts(start))

    def run(self, inputs, run):
        """Runs stages from `run.first` on until the clock passes `run.limit`; blocks until then."""
        raise NotImplementedError

    def stop(self, run):
        """Has a run end after the stage that it is in; from any thread."""
        run.limit = NEVER

    def stage(self, position, carried, inputs):
        """Runs one stage; returns its logits and what it leaves, as tensors of the backend."""
        raise NotImplementedError


class StepwiseEngine(Engine):
    """Enters a compiled function for each stage: for backends where that costs little."""

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
    """Compiles models that run one after the other, each on what the one before carries."""
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

    # Copies: training, and even `predict`, gives a model's own arrays away for reuse.
    weights = [[keras.ops.copy(variable.value) for variable in model.variables] for model in models]
    return lambda carried: forward(weights, carried)


class GraphEngine(Engine):
    """Enters one TensorFlow program for a whole run: see this file's docstring."""

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
        """Returns the program that answers first at stage `first` and may go on to `last`; traced once."""
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
        # One condition after the other, not within the other: nested, each would hand on all later stages' weights.
        for position in range(first + 1, last + 1):
            # A stage does not wait for the head of the one before, nor for its answer to be told.
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
        """Computes a stage and tells its answer; returns that this is done, and what the stage leaves."""
        import tensorflow as tf

        result = self._stages[position].answering(inputs if self.stages.starts(position) else carried)
        # Called stateless, lest TensorFlow has the next stage wait for it. Its result is asked for, so it does run.
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
        super().stop(run)  # for one that has not begun
        with self._lock:
            if self._run is run:
                self._halted = True
                self._stopped.assign(True)

    def stage(self, position, carried, inputs):
        result = self._stages[position].alone(*(inputs if self.stages.starts(position) else carried))
        return result["logits"], result["carried"]


class _TracedStage:
    """One stage as TensorFlow functions. Whatever does not depend on what it takes is computed once and for all.

    Attributes:
        outputs: dict, "logits" and "carried": the symbolic results.
        alone: function of what the stage takes, to be called by itself; `answering` and `passing` are for programs.
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
        # Entered by itself, a pruned function is not optimised: within another one it is, and takes half the time.
        alone = tf.function(lambda *carried: self.answering(carried), autograph=False)
        self.alone = alone.get_concrete_function(*specs(model.inputs))

    def answering(self, carried):
        return self._answering(*carried, *self._values)

    def passing(self, carried):
        return self._passing(*carried, *self._values)


def _fixed(graph, inputs):
    """Lists the tensors that operations which depend on `inputs` take and that do not depend on them.

    They are given as tensors, not as constants: those TensorFlow would fold into each other, and round differently.
    What layers hold besides variables, such as tables, functions take along by themselves.
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
