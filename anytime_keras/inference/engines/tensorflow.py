"""The TensorFlow engine: one program holds all stages and can stop between any two.

TensorFlow takes a few tenths of a millisecond to enter a compiled function, which is as long as a stage of a small
network takes. One program therefore holds all stages, each within a `tf.cond` that reads the clock and a stop flag; a
callback delivers answers while the program runs. Stages are compiled once for all uses. The engine reads the weights
once, when it is created. Answers are bitwise equal to the whole model's.
"""

import threading

import tensorflow as tf

from anytime_keras.conversion.parts import call_unchanging
from anytime_keras.inference.engines.base import Engine


class TensorFlowEngine(Engine):
    """Calls one TensorFlow program per run; see the module docstring."""

    name = "tensorflow"

    def __init__(self, stages):
        super().__init__(stages)
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
        if (first, last) not in self._programs:
            specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in self.stages.inputs]
            times = tf.TensorSpec((len(self),), tf.float64)
            traced = tf.function(lambda times, *inputs: self._trace(list(inputs), first, last, times), autograph=False)
            self._programs[first, last] = traced.get_concrete_function(times, *specs)
        return self._programs[first, last]

    def _trace(self, inputs, first, last, latest_starts):
        carried = inputs
        for position in range(self.start_of(first), first):
            carried = self._stages[position].passing(inputs if self.starts[position] else carried)["carried"]
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
        result = self._stages[position].answering(inputs if self.starts[position] else carried)
        # Declared stateless so that the next stage does not wait for it. It still runs because its result is used.
        told = tf.numpy_function(self._emit, [position, result["logits"]], tf.bool, stateful=False)
        told.set_shape(())
        return [told, *result["carried"]]

    def _emit(self, position, logits):
        self._run.emit(int(position), logits)
        return True

    def run(self, inputs, run):
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
        result = self._stages[position].alone(*(inputs if self.starts[position] else carried))
        return result["logits"], result["carried"]


class _TracedStage:
    """One stage as TensorFlow functions, with everything that does not depend on its inputs precomputed.

    Attributes:
        outputs: dict, "logits" and "carried": the symbolic results.
        alone: function of the stage's inputs, to call outside a program; `answering` and `passing` are for programs.
    """

    def __init__(self, model):
        def specs(tensors):
            return [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]

        def forward(carried, values):
            return call_unchanging(model, carried, zip(model.variables, values))

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
