"""TensorFlow, for SavedModels."""

import os

from anytime_keras._forks import check_fork
from anytime_keras.conversion.runtimes.base import Part, Runtime, installed


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
