"""Preprocessing layers that Keras lacks."""

import keras
from keras import ops

from anytime_keras._lazy import tf
from anytime_keras.data import crops


@keras.saving.register_keras_serializable(package="anytime_keras")
class ShortSideResizing(keras.layers.Layer):
    """Resizes images so that their short side has a given length, and keeps their aspect ratio.

    `keras.layers.Resizing` resizes to one size, so it stretches images or crops them first. This layer resizes like the
    evaluation during training does: bilinearly, with antialiasing when images shrink. Integer images are rounded.

    Args:
        height, width: ints, the crop to be taken from the result, which is never smaller.
        short_side: int, the length of the short side in pixels. None is that of the crop.
        **kwargs: as in `keras.layers.Layer`.
    Call: images of shape `(batch, height, width, channels)` -> images of the same rank and dtype float32. On TensorFlow
        the height and width may be unknown when a graph is traced.

    Example:
    >>> import numpy as np
    >>> tuple(ShortSideResizing(224, 224, short_side=256)(np.zeros((1, 512, 1024, 3), "uint8")).shape)
    (1, 256, 512, 3)
    """

    def __init__(self, height, width, short_side=None, **kwargs):
        super().__init__(**{"dtype": "float32", "autocast": False, "trainable": False, **kwargs})
        self.height, self.width = height, width
        self.short_side = min(height, width) if short_side is None else short_side

    def call(self, images):
        height, width = images.shape[1:3]
        whole = keras.backend.is_int_dtype(images.dtype)
        if height is None or width is None:
            resized = self._resized_in_graph(images)
        else:
            size = crops.resized_size((height, width), (self.height, self.width), self.short_side)
            resized = ops.cast(images, "float32")
            if size != (height, width):
                resized = ops.image.resize(resized, size, antialias=True, data_format="channels_last")
        return ops.round(resized) if whole else resized

    def _resized_in_graph(self, images):
        """Resizes images whose size is known only when the graph runs, by the formula of `crops.resized_size`."""
        size = tf.shape(images)[1:3]
        lengths, crop = tf.cast(size, tf.float64), tf.constant([self.height, self.width], tf.float64)
        scale = tf.maximum(self.short_side / tf.reduce_min(lengths), tf.reduce_max(crop / lengths))
        size = tf.maximum([self.height, self.width], tf.cast(tf.round(lengths * scale), tf.int32))
        return tf.image.resize(images, size, antialias=True)

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        if height is None or width is None:
            return (batch, None, None, channels)
        size = crops.resized_size((height, width), (self.height, self.width), self.short_side)
        return (batch, *size, channels)

    def get_config(self):
        return {**super().get_config(), "height": self.height, "width": self.width, "short_side": self.short_side}


@keras.saving.register_keras_serializable(package="anytime_keras")
class ReverseChannels(keras.layers.Layer):
    """Reverses the channels of images, for networks that take blue, green, red.

    Call: images of shape `(batch, height, width, channels)` -> images of the same shape.

    Example:
    >>> import numpy as np
    >>> keras.ops.convert_to_numpy(ReverseChannels()(np.array([[[[1.0, 2.0, 3.0]]]])))[0, 0, 0].tolist()
    [3.0, 2.0, 1.0]
    """

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", "trainable": False, **kwargs})

    def call(self, images):
        return ops.flip(images, axis=-1)

    def compute_output_shape(self, input_shape):
        return input_shape
