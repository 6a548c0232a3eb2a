"""Runtimes that load and run parts of a network: TensorFlow's SavedModel, LiteRT, ONNX Runtime and OpenVINO.

These modules need NumPy and the runtime's own package, but neither Keras nor the rest of the library. `export` copies
their text into the reader that is shipped with an export.

Example:
>>> from anytime_keras.conversion import runtimes
>>> list(runtimes.RUNTIMES)
['saved_model', 'litert', 'onnx', 'openvino']
"""

from anytime_keras.conversion.runtimes.base import Part, Runtime, Terminated
from anytime_keras.conversion.runtimes.litert import LiteRT
from anytime_keras.conversion.runtimes.onnx import ONNXRuntime
from anytime_keras.conversion.runtimes.openvino import OpenVINO
from anytime_keras.conversion.runtimes.saved_model import SavedModel

RUNTIMES = {"saved_model": SavedModel, "litert": LiteRT, "onnx": ONNXRuntime, "openvino": OpenVINO}

__all__ = ["RUNTIMES", "LiteRT", "ONNXRuntime", "OpenVINO", "Part", "Runtime", "SavedModel", "Terminated"]
