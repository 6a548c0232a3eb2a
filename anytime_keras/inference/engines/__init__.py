"""Engines run the stages of a network on one runtime each, and can stop between any two stages.

`tensorflow` and `jax` compile for Keras's backend. `litert`, `onnx` and `openvino` convert the stages into files of
these runtimes, which are faster on a CPU. `create` picks one.
"""

from anytime_keras.inference.engines import choice
from anytime_keras.inference.engines.base import ALWAYS, NEVER, Engine, Latest, Run
from anytime_keras.inference.engines.choice import ENGINES, FILE_ENGINES, backend, create, of_backend

__all__ = ["ALWAYS", "ENGINES", "FILE_ENGINES", "NEVER", "Engine", "Latest", "Run", "backend", "choice", "create"]
__all__ += ["of_backend"]
