"""Engines run the stages of a network on one runtime each, and can stop between any two stages.

`tensorflow` and `jax` compile for Keras's backend. `litert`, `onnx` and `openvino` convert the stages into files of
these runtimes, which are faster on a CPU. `create` picks one.
"""

import keras

from anytime_keras.inference.engines import choice
from anytime_keras.inference.engines.base import ALWAYS, NEVER, Engine, Latest, Run
from anytime_keras.inference.engines.choice import ENGINES, FILE_ENGINES, create

__all__ = [
    "ALWAYS",
    "ENGINES",
    "FILE_ENGINES",
    "NEVER",
    "Engine",
    "Latest",
    "Run",
    "backend",
    "choice",
    "create",
    "engine",
]


def engine(stages):
    """Returns the `Engine` for Keras's backend."""
    if keras.backend.backend() == "tensorflow":
        from anytime_keras.inference.engines.tensorflow import TensorFlowEngine

        return TensorFlowEngine(stages)
    from anytime_keras.inference.engines.jax import JaxEngine

    return JaxEngine(stages)


def backend():
    """Returns the name of the engine for Keras's backend, one of `ENGINES`."""
    return keras.backend.backend() if keras.backend.backend() in ENGINES else "auto"
