"""Runtimes that load and run parts of a network: TensorFlow's SavedModel, LiteRT, ONNX Runtime and OpenVINO.

This module needs NumPy and the runtime's own package, but neither Keras nor the rest of the library. `export` copies
its text into the reader that is shipped with an export.

Example:
>>> from anytime_keras.conversion import runtimes
>>> list(runtimes.RUNTIMES)
['saved_model', 'litert', 'onnx', 'openvino']
"""

import importlib
import io
import os
import threading
import zipfile

from anytime_keras._checks import check_int
from anytime_keras._forks import check_fork

MOST_THREADS = 1024  # runtimes start as many as asked for; a million blocks or ends the process


class Terminated(RuntimeError):
    """Raised by a run of a part that `Part.terminate` stopped."""


class Part:
    """A part of a network that is loaded in a runtime. Thread-safe.

    Args:
        spec: dict, the part's entry in an export's description: `"inputs"` and `"outputs"`, lists of dicts with
            `"name"`, `"shape"` and `"dtype"`, and `"signature"`, a str or None.

    Attributes:
        inputs: list of str, the names of the inputs, in order.
        outputs: list of str, the names of the outputs, in order.
    """

    def __init__(self, spec):
        self.inputs = [tensor["name"] for tensor in spec["inputs"]]
        self.outputs = [tensor["name"] for tensor in spec["outputs"]]

    def __call__(self, arrays):
        """Maps a list of arrays in the order of `inputs` to new arrays in that of `outputs`; may raise `Terminated`."""
        raise NotImplementedError

    def terminate(self):
        """Stops runs in progress, if the runtime can stop inside a part. Thread-safe."""

    def _check_names(self, inputs, outputs):
        """Checks that the file has the tensors of the description."""
        for expected, found in ((self.inputs, inputs), (self.outputs, outputs)):
            if sorted(found) != sorted(expected):
                raise ValueError(
                    f"A part and its description name different tensors: {sorted(found)} and {sorted(expected)}. "
                    "Export the network again."
                )


class Runtime:
    """Loads parts of a network, each with `num_threads` threads; None is the runtime's default."""

    def __init__(self, num_threads=None):
        self.num_threads = check_num_threads(num_threads)

    def load(self, source, spec, batch_size=None):
        """Loads a part, from a path or bytes, and returns a `Part`; its `spec` is as in `Part`.

        `batch_size` is the batch size to run; None is the part's own. Only LiteRT changes it; the parts of other
        runtimes either have a dynamic batch size or run with their own.
        """
        raise NotImplementedError


def check_num_threads(num_threads):
    """Returns a number of threads as an int, or None; raises ValueError if runtimes cannot start as many."""
    return None if num_threads is None else check_int("num_threads", num_threads, high=MOST_THREADS)


def installed(module, package):
    """Imports a runtime's module; the error contains the command that installs the package."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"This needs {package}, which cannot be imported: `pip install {package}`.") from error


class SavedModel(Runtime):
    """Runs the signatures of a SavedModel with the package `tensorflow`. See `Runtime`.

    Parts exchange TensorFlow tensors, so that they are not copied. TensorFlow's threads are set for the whole process.
    """

    def __init__(self, num_threads=None):
        if num_threads is not None:
            raise ValueError("TensorFlow's threads are set for the whole process: `tf.config.threading`.")
        super().__init__(num_threads)
        self._tf = tf = installed("tensorflow", "tensorflow")
        small = tf.function(lambda x: tf.matmul(x, x) + tf.reduce_sum(tf.exp(x)), autograph=False)
        check_fork(lambda: small(tf.ones((2, 2))), "TensorFlow")
        self._loaded = {}

    def load(self, source, spec, batch_size=None):
        path = os.fspath(source)
        if path not in self._loaded:
            self._loaded[path] = self._tf.saved_model.load(path)
        signature = self._loaded[path].signatures.get(spec["signature"])
        if signature is None:
            raise ValueError(f"The part has no signature '{spec['signature']}'. Export the network again.")
        return SavedModelPart(signature, self._tf.convert_to_tensor, spec)


class SavedModelPart(Part):
    def __init__(self, signature, tensor, spec):
        super().__init__(spec)
        self._signature, self._tensor = signature, tensor
        self._check_names(signature.structured_input_signature[1], signature.structured_outputs)

    def __call__(self, arrays):
        """See `Part`; returns TensorFlow tensors."""
        outputs = self._signature(**{name: self._tensor(array) for name, array in zip(self.inputs, arrays)})
        return [outputs[name] for name in self.outputs]


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


class ONNXRuntime(Runtime):
    """Runs `.onnx` files with the package `onnxruntime`, on the CPU. See `Runtime`.

    By default, the idle threads of each session spin, which slows down the other stages. Here they wait without
    spinning. Sessions cannot share a pool of such threads, because ONNX Runtime's global pool always spins.
    """

    def __init__(self, num_threads=None):
        super().__init__(num_threads)
        self._onnxruntime = installed("onnxruntime", "onnxruntime")
        self._options = self._onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = self.num_threads or 0
        self._options.add_session_config_entry("session.intra_op.allow_spinning", "0")

    def load(self, source, spec, batch_size=None):
        source = source if isinstance(source, bytes) else os.fspath(source)
        session = self._onnxruntime.InferenceSession(source, self._options, providers=["CPUExecutionProvider"])
        return ONNXPart(session, self._onnxruntime.RunOptions, spec)


class ONNXPart(Part):
    def __init__(self, session, run_options, spec):
        super().__init__(spec)
        self._session, self._run_options = session, run_options
        self._check_names(*([tensor.name for tensor in ends] for ends in (session.get_inputs(), session.get_outputs())))
        self._running = set()

    def __call__(self, arrays):
        options = self._run_options()
        self._running.add(options)
        try:
            return self._session.run(self.outputs, dict(zip(self.inputs, arrays)), options)
        except Exception as error:  # ONNX Runtime raises several types
            if options.terminate:
                raise Terminated("The run was terminated.") from error
            raise
        finally:
            self._running.discard(options)

    def terminate(self):
        for options in list(self._running):
            options.terminate = True


class OpenVINO(Runtime):
    """Runs OpenVINO's files with the package `openvino`, on the CPU. See `Runtime`.

    A part is an `.xml` file beside a `.bin` file with its weights, or the bytes of a zip file of both.
    """

    def __init__(self, num_threads=None):
        super().__init__(num_threads)
        self._core = installed("openvino", "openvino").Core()
        self._options = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        if self.num_threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = self.num_threads

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


RUNTIMES = {"saved_model": SavedModel, "litert": LiteRT, "onnx": ONNXRuntime, "openvino": OpenVINO}
