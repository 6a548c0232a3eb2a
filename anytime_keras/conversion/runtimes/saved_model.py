"""TensorFlow, for SavedModels."""

import os
import threading

from anytime_keras.conversion.runtimes.base import Part, Runtime, installed

_PID = os.getpid()  # of the process that imported this module


class SavedModel(Runtime):
    """Runs the signatures of a SavedModel with the package `tensorflow`. See `Runtime`.

    Parts exchange TensorFlow tensors, so that they are not copied. TensorFlow's threads are set for the whole process.
    """

    def __init__(self, num_threads=None):
        if num_threads is not None:
            raise ValueError("TensorFlow's threads are set for the whole process: `tf.config.threading`.")
        super().__init__(num_threads)
        self._tf = installed("tensorflow", "tensorflow")
        if os.getpid() != _PID:
            self._check_fork()
        self._loaded = {}

    def load(self, source, spec, batch_size=None):
        path = os.fspath(source)
        if path not in self._loaded:
            self._loaded[path] = self._tf.saved_model.load(path)
        signature = self._loaded[path].signatures.get(spec["signature"])
        if signature is None:
            raise ValueError(f"The part has no signature '{spec['signature']}'. Export the network again.")
        return SavedModelPart(signature, self._tf.convert_to_tensor, spec)

    def _check_fork(self, seconds=5.0):
        """Raises if TensorFlow computes nothing here, as in a fork of a process that has used it."""
        tf, ended = self._tf, threading.Event()

        def compute():
            tf.function(lambda x: tf.matmul(x, x) + tf.reduce_sum(tf.exp(x)), autograph=False)(tf.ones((2, 2)))
            ended.set()

        threading.Thread(target=compute, daemon=True).start()
        if not ended.wait(seconds):
            raise RuntimeError(
                f"In this fork {os.getpid()} of process {_PID} nothing can be computed, because a fork lacks "
                "TensorFlow's threads. Start processes with `multiprocessing.get_context('spawn')`, or fork before the "
                "first computation."
            )


class SavedModelPart(Part):
    def __init__(self, signature, tensor, spec):
        super().__init__(spec)
        self._signature, self._tensor = signature, tensor
        self._check_names(signature.structured_input_signature[1], signature.structured_outputs)

    def __call__(self, arrays):
        """See `Part`; returns TensorFlow tensors."""
        outputs = self._signature(**{name: self._tensor(array) for name, array in zip(self.inputs, arrays)})
        return [outputs[name] for name in self.outputs]
