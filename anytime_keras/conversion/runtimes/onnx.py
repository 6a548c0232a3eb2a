"""ONNX Runtime."""

import os

from anytime_keras.conversion.runtimes.base import Part, Runtime, Terminated, installed


class ONNXRuntime(Runtime):
    """Runs `.onnx` files with the package `onnxruntime`, on the CPU. See `Runtime`.

    By default, the idle threads of each session spin, which slows down the other stages. Here they wait without
    spinning. Sessions cannot share a pool of such threads, because ONNX Runtime's global pool always spins.
    """

    def __init__(self, num_threads=None):
        super().__init__(num_threads)
        self._onnxruntime = installed("onnxruntime", "onnxruntime")
        self._options = self._onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = num_threads or 0
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
