"""Pieces that the families share: convolutions as the paper initialises them, and exit heads."""

from keras import layers

from anytime_keras import _errors

PRESETS = ("paper", "authors_code")


def check_preset(preset):
    if preset not in PRESETS:
        raise ValueError(
            f"`preset` must be one of {PRESETS}. Received: preset={preset!r}. {_errors.nearest(preset, PRESETS)}"
        )


def check_image_shape(input_shape):
    """Returns `input_shape` as (height, width, channels), or raises."""
    shape = tuple(input_shape) if isinstance(input_shape, (tuple, list)) else input_shape
    if not isinstance(shape, tuple) or len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(
            "`input_shape` must be (height, width, channels), three positive ints. "
            f"Received: input_shape={input_shape!r}. For example `input_shape=(32, 32, 3)`."
        )
    return shape


def check_positive(**arguments):
    """Raises unless every argument is a positive int."""
    for name, value in arguments.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"`{name}` must be a positive int. Received: {name}={value!r}.")


class Builder:
    """Makes layers with one precision and a prefix in their names.

    Convolutions have no bias and are initialised as He et al. (2015) propose, linear layers likewise,
    as in the authors' code (the paper does not say).
    """

    def __init__(self, dtype=None):
        self.dtype = dtype

    def conv(self, x, filters, kernel_size, strides=1, name=None):
        return layers.Conv2D(
            filters,
            kernel_size,
            strides,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            data_format="channels_last",
            dtype=self.dtype,
            name=name,
        )(x)

    def batch_norm(self, x, name=None):
        # Momentum .9 and epsilon 1e-5 as in the authors' code; Keras's defaults are .99 and 1e-3.
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, axis=-1, dtype=self.dtype, name=name)(x)

    def relu(self, x, name=None):
        return layers.ReLU(dtype=self.dtype, name=name)(x)

    def bn_relu(self, x, name):
        return self.relu(self.batch_norm(x, name=f"{name}_bn"), name=f"{name}_relu")

    def add(self, xs, name=None):
        return layers.Add(dtype=self.dtype, name=name)(xs)

    def average_pool(self, x, name=None):
        return layers.AveragePooling2D(2, padding="same", data_format="channels_last", dtype=self.dtype, name=name)(x)

    def classify(self, x, num_classes, name):
        """Global average pooling and a linear layer; the logits are float32 or wider whatever the precision."""
        x = layers.GlobalAveragePooling2D(data_format="channels_last", dtype=self.dtype, name=f"{name}_pool")(x)
        return layers.Dense(num_classes, kernel_initializer="he_normal", dtype=logits_dtype(x), name=name)(x)


def logits_dtype(x):
    return "float32" if x.dtype in ("float16", "bfloat16") else x.dtype
