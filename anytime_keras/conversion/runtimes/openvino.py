"""OpenVINO."""

import io
import os
import threading
import zipfile

from anytime_keras.conversion.runtimes.base import Part, Runtime, Terminated, installed


class OpenVINO(Runtime):
    """Runs OpenVINO's files with the package `openvino`, on the CPU. See `Runtime`.

    A part is an `.xml` file beside a `.bin` file with its weights, or the bytes of a zip file of both.
    """

    def __init__(self, num_threads=None):
        super().__init__(num_threads)
        self._core = installed("openvino", "openvino").Core()
        self._options = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        if num_threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = num_threads

    def load(self, source, spec, batch_size=None):
        if isinstance(source, bytes):
            with zipfile.ZipFile(io.BytesIO(source)) as files:
                model = self._core.read_model(files.read("model.xml"), files.read("model.bin"))
        else:
            model = self._core.read_model(os.fspath(source))
        options = dict(self._options)
        if model.has_rt_info("anytime_keras_precision"):
            precision = options["INFERENCE_PRECISION_HINT"] = model.get_rt_info("anytime_keras_precision").value
            known = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            if precision.upper() not in known:
                raise ValueError(
                    f"OpenVINO must support {precision} on this processor. It supports {sorted(known)}. Use float32."
                )
        return OpenVINOPart(self._core.compile_model(model, "CPU", options), spec)


class OpenVINOPart(Part):
    """One request, whose runs take turns. With a single thread, OpenVINO does not stop inside a part."""

    def __init__(self, compiled, spec):
        super().__init__(spec)
        inputs, outputs = _positions(compiled.inputs, self.inputs), _positions(compiled.outputs, self.outputs)
        self._check_names(inputs, outputs)
        self._positions = [inputs[name] for name in self.inputs]
        self._outputs = [outputs[name] for name in self.outputs]
        self._request, self._lock, self._stopped = compiled.create_infer_request(), threading.Lock(), False

    def __call__(self, arrays):
        with self._lock:
            self._stopped = False
            try:
                found = self._request.infer(dict(zip(self._positions, arrays)), share_inputs=True)
            except RuntimeError as error:
                if self._stopped:
                    raise Terminated("The run was terminated.") from error
                raise
            return [found[position] for position in self._outputs]

    def terminate(self):
        self._stopped = True
        self._request.cancel()


def _positions(tensors, names):
    """Returns the position of each tensor by its name; of several names, the one in `names`."""
    known = [set(tensor.get_names()) for tensor in tensors]
    return {next(iter(own & set(names) or own)): position for position, own in enumerate(known)}
