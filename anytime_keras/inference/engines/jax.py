"""The engine of Keras's other backends, JAX above all: a compiled function for each stage.

JAX enters compiled functions quickly. The engine reads the weights once, when it is created. XLA rounds differently
when it fuses operations differently, so answers may differ in the last bit from those of a model compiled as a whole.
"""

import keras
from keras import layers

from anytime_keras import graph
from anytime_keras._lazy import jax
from anytime_keras.conversion.parts import call_unchanging
from anytime_keras.inference.answers import as_array
from anytime_keras.inference.engines.base import Engine

ON_TENSORFLOW_ALONE = (layers.StringLookup, layers.IntegerLookup, layers.TextVectorization)
ON_TENSORFLOW_ALONE += (layers.Hashing, layers.HashedCrossing)


class JaxEngine(Engine):
    """Calls a compiled function for each stage, for backends with a low overhead per call."""

    any_size = False

    def __init__(self, stages):
        super().__init__(stages)
        self.name = keras.backend.backend()
        self._stages = [_compiled([segment]) for segment in self._segments]
        self._direct = [self._fused(position) if position else self._stages[0] for position in range(len(stages))]

    def _fused(self, last):
        """Compiles all stages up to `last` as one function, without the heads in between."""
        passing = [self.stages.segment(position, head=False) for position in range(self.start_of(last), last)]
        return _compiled([*passing, self._segments[last]])

    def run(self, inputs, run):
        result = self._direct[run.first](inputs)
        run.emit(run.first, as_array(result["logits"]))
        self._continue(result["carried"], inputs, run)

    def stage(self, position, carried, inputs):
        result = self._stages[position](inputs if self.starts[position] else carried)
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
    for layer in (layer for model in models for layer in graph.sublayers(model)):
        if isinstance(layer, ON_TENSORFLOW_ALONE):
            raise ValueError(
                f"On JAX, layers that it can compile are expected. Received: '{layer.name}' of type "
                f"{type(layer).__name__}. Call it before the network, or run Keras on TensorFlow."
            )

    @jax.jit
    def forward(weights, carried):
        for model, values in zip(models, weights):
            result = call_unchanging(model, carried, zip(model.variables, values))
            carried = result["carried"]
        return result

    # Copy the weights, because training and even `predict` donate the model's own arrays.
    weights = [[keras.ops.copy(variable.value) for variable in model.variables] for model in models]
    return lambda carried: forward(weights, carried)
