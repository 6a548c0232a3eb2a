"""The families' layers: Keras's, faster on CPUs, with the same weights and results."""

import math

import keras
import numpy as np
from keras import layers, ops

from anytime_keras import runtime
from anytime_keras._lazy import tf
from anytime_keras.cost import register_rule


@keras.saving.register_keras_serializable(package="anytime_keras")
class HeNormal(keras.initializers.HeNormal):
    """Keras's initializer of the same name and arguments, drawn by NumPy on JAX.

    JAX compiles a program for every shape, which on a CPU takes nearly all of the time to build a network.
    """

    def __call__(self, shape, dtype=None):
        own_axes = self.input_axes is not None or self.output_axes is not None or len(shape) < 2
        if keras.backend.backend() != "jax" or not isinstance(self.seed, int) or own_axes:
            return super().__call__(shape, dtype)
        rng = np.random.default_rng(self.seed % 2**63)
        numbers = rng.standard_normal(shape, "float32")
        while (far := np.abs(numbers) > 2).any():
            numbers[far] = rng.standard_normal(far.sum(), "float32")
        # A standard normal truncated at 2 has standard deviation 0.8796.
        scale = math.sqrt(2 / max(1, math.prod(shape[:-1]))) / 0.87962566103423978
        return keras.ops.convert_to_tensor(numbers * np.float32(scale), dtype or keras.config.floatx())


@keras.saving.register_keras_serializable(package="anytime_keras")
class Conv2D(layers.Conv2D):
    """`keras.layers.Conv2D` that trains many times faster in half precision on CPUs without support for it.

    TensorFlow emulates half precision there, number by number. Here inputs and outputs are rounded to half precision,
    and the same products are summed in single precision. In all other cases, Keras's code runs.
    """

    def convolution_op(self, inputs, kernel):
        if self.compute_dtype not in runtime.emulated_dtypes():
            return super().convolution_op(inputs, kernel)
        wide = super().convolution_op(ops.cast(inputs, "float32"), ops.cast(kernel, "float32"))
        return ops.cast(wide, self.compute_dtype)


@keras.saving.register_keras_serializable(package="anytime_keras")
class BatchNormalization(layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with the same weights, results and arguments, faster to train on TensorFlow.

    Keras computes moments, differences and products in separate passes over the batch, TensorFlow's fused operation in
    one. Keras's code runs wherever the operation does not apply: on other backends, with other axes, masks or
    precisions, for synchronised replicas, and under XLA, where the fused operation would compute the variance less
    exactly.
    """

    def call(self, inputs, training=None, mask=None):
        if not (training and self.trainable and mask is None and self._fuses(inputs)):
            return super().call(inputs, training=training, mask=mask)
        x = tf.cast(inputs, "float32") if self._is_slow(inputs) else inputs
        result = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=self.gamma, offset=self.beta, mean=[], variance=[], epsilon=self.epsilon, is_training=True
        )
        # The operation returns the unbiased variance (divided by n - 1); Keras averages the biased one (divided by n).
        count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), "float32")
        variance = result.batch_variance * ((count - 1) / count)
        for average, new in ((self.moving_mean, result.batch_mean), (self.moving_variance, variance)):
            average.assign(average * self.momentum + new * (1 - self.momentum))
        return tf.cast(result.y, inputs.dtype)

    def _fuses(self, inputs):
        return (
            keras.backend.backend() == "tensorflow"
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and self.center
            and self.scale
            and not (self.synchronized or self.renorm)
            and self.variable_dtype == "float32"
            and keras.backend.standardize_dtype(inputs.dtype) == self.compute_dtype
            and self.compute_dtype in ("float16", "bfloat16", "float32")
            and not _under_xla()
        )

    def _is_slow(self, inputs):
        """Returns whether single precision is faster: on CPUs, oneDNN has half only for multiples of 16 channels."""
        half = inputs.dtype in (tf.bfloat16, tf.float16)
        return half and self.gamma.shape[0] % 16 != 0 and not tf.config.get_visible_devices("GPU")


def _under_xla():
    from tensorflow.python.ops import control_flow_util  # there is no public API

    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


register_rule(BatchNormalization, lambda layer, inputs, outputs: 0)  # as for Keras's layer
