"""LiteRT, formerly TensorFlow Lite."""

import os
import threading

from anytime_keras.conversion.runtimes.base import Part, Runtime, installed


class LiteRT(Runtime):
    """Runs `.tflite` files with the package `ai-edge-litert`. See `Runtime`."""

    def __init__(self, num_threads=None):
        super().__init__(num_threads)
        self._interpreter = installed("ai_edge_litert.interpreter", "ai-edge-litert").Interpreter

    def load(self, source, spec, batch_size=None):
        content = {"model_content": source} if isinstance(source, bytes) else {"model_path": os.fspath(source)}
        return LiteRTPart(self._interpreter(**content, num_threads=self.num_threads), spec, batch_size)


class LiteRTPart(Part):
    """One interpreter, whose runs take turns because it stores its inputs and outputs.

    With small stages, its methods take a fifth less time than a signature runner, which allocates tensors in each run.
    """

    def __init__(self, interpreter, spec, batch_size):
        super().__init__(spec)
        self._run, self._lock = interpreter, threading.Lock()
        inputs, outputs = _tensors(interpreter, spec.get("signature"), (self.inputs, self.outputs))
        self._check_names(inputs, outputs)
        self._inputs = [inputs[name]["index"] for name in self.inputs]
        self._outputs = [outputs[name]["index"] for name in self.outputs]
        if batch_size is not None:
            for name, index in zip(self.inputs, self._inputs):
                interpreter.resize_tensor_input(index, [batch_size, *inputs[name]["shape"][1:]])
        interpreter.allocate_tensors()
        shapes = {detail["index"]: detail["shape"] for detail in interpreter.get_output_details()}
        for name, index in zip(self.outputs, self._outputs):
            if batch_size is not None and shapes[index][0] != batch_size:
                raise ValueError(
                    f"The part has a fixed batch size. Received: a batch of {batch_size}, for which '{name}' has shape "
                    f"{tuple(shapes[index])}. Convert the part for that batch size."
                )

    def __call__(self, arrays):
        run = self._run
        with self._lock:
            for index, array in zip(self._inputs, arrays):
                run.set_tensor(index, array)
            run.invoke()
            return [run.get_tensor(index) for index in self._outputs]


def _tensors(interpreter, signature, expected):
    """Returns the details of the inputs and the outputs, two dicts by name.

    A file without a signature has no reliable names; they are the `expected` ones, in order.

    The runner that knows them is not kept, because interpreters refuse to run while another object refers to them.
    """
    if signature is None:
        ends = interpreter.get_input_details(), interpreter.get_output_details()
        return [dict(zip(names, details, strict=True)) for names, details in zip(expected, ends)]
    if signature not in interpreter.get_signature_list():
        raise ValueError(f"The part has no signature '{signature}'. Export the network again.")
    runner = interpreter.get_signature_runner(signature)
    return runner.get_input_details(), runner.get_output_details()
