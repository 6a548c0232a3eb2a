"""The base class, argument checks, layers and exit heads of the families."""

import inspect

from keras import layers

from anytime_keras._checks import check_number, check_positive_list
from anytime_keras.models.anytime_model import BuiltModel
from anytime_keras.models.layers import BatchNormalization, Conv2D, HeNormal

PRESETS = ("paper", "authors_code")
STEMS = ("small", "ilsvrc")


class Family(BuiltModel):
    """An anytime network built from a few arguments, each stored as an attribute of the same name.

    `input_shape` is stored as `image_shape`, since Keras has a property named `input_shape`. `values`
    are the `locals()` of the family's constructor, which contain the value of each argument, and the
    class as `__class__`.
    """

    def __init__(self, image, exits, values, name=None, dtype=None, **kwargs):
        super().__init__(inputs=image, outputs=exits, name=name, dtype=dtype, **kwargs)
        for argument, attribute in _attributes(values["__class__"]).items():
            if attribute != "num_exits":  # a property of all anytime networks
                setattr(self, attribute, values[argument])

    def get_config(self):
        config = {argument: getattr(self, attribute) for argument, attribute in _attributes(type(self)).items()}
        return {**config, **self._settings()}


def _attributes(family):
    """Returns a dict from each argument of a family's constructor to the attribute that holds it."""
    names = [name for name in inspect.signature(family).parameters if name not in ("name", "dtype", "kwargs")]
    return {name: "image_shape" if name == "input_shape" else name for name in names}


def check_image_shape(input_shape):
    """Returns `input_shape` as a tuple, or raises ValueError unless it is (height, width, channels)."""
    expected = "(height, width, channels), three positive ints, such as (32, 32, 3)"
    return check_positive_list("input_shape", input_shape, expected, length=3)


def check_fraction(**arguments):
    """Raises ValueError unless each argument is a number above 0 and at most 1."""
    for name, value in arguments.items():
        check_number(name, value, "in (0, 1]", lambda value: 0 < value <= 1)


def check_exits(num_units, **arguments):
    """Raises ValueError if an argument that places the exits exceeds the number of units."""
    for name, value in arguments.items():
        if value > num_units:
            raise ValueError(f"`{name}` must be at most {num_units}, the number of units. Received: {name}={value}.")


def kept(channels, reduction):
    """Returns the number of channels that a transition keeps, or raises if it is 0."""
    filters = int(channels * reduction)
    if filters < 1:
        raise ValueError(
            f"`reduction` must leave a channel. Received: reduction={reduction}, which leaves none of {channels}."
        )
    return filters


class Builder:
    """Creates layers with a given precision and padding convention.

    Convolutions have no bias. Convolutions and linear layers use the initialisation of He et al. (2015), as in the
    authors' code (the paper does not say). If `symmetric`, strided layers pad equally on all sides, as in PyTorch,
    otherwise as in TensorFlow: more at the bottom and right if the padding is odd.
    """

    def __init__(self, dtype=None, symmetric=False):
        self.dtype, self.symmetric = dtype, symmetric

    def conv(self, x, filters, kernel_size, strides=1, name=None):
        x, padding = self._padded(x, kernel_size, strides, name)
        options = {"data_format": "channels_last", "dtype": self.dtype, "name": name}
        conv = Conv2D(filters, kernel_size, strides, padding, use_bias=False, kernel_initializer=HeNormal(), **options)
        return conv(x)

    def _padded(self, x, size, strides, name):
        """Returns the input, padded if necessary, and the `padding` argument of a layer with this window."""
        if not self.symmetric or strides == 1 or size == 1:
            return x, "same"
        pad = layers.ZeroPadding2D(size // 2, data_format="channels_last", dtype=self.dtype, name=f"{name}_pad")
        return pad(x), "valid"

    def batch_norm(self, x, name=None):
        # Momentum .9 and epsilon 1e-5 as in the authors' code; Keras's defaults are .99 and 1e-3.
        return BatchNormalization(momentum=0.9, epsilon=1e-5, axis=-1, dtype=self.dtype, name=name)(x)

    def relu(self, x, name=None):
        return layers.ReLU(dtype=self.dtype, name=name)(x)

    def bn_relu(self, x, name):
        return self.relu(self.batch_norm(x, name=f"{name}_bn"), name=f"{name}_relu")

    def conv_bn_relu(self, x, filters, kernel_size, strides=1, name=None):
        return self.bn_relu(self.conv(x, filters, kernel_size, strides, name=f"{name}_conv"), name)

    def add(self, xs, name=None):
        return layers.Add(dtype=self.dtype, name=name)(xs)

    def concatenate(self, xs, name=None):
        return layers.Concatenate(axis=-1, dtype=self.dtype, name=name)(xs)

    def dropout(self, x, rate, name=None):
        return layers.Dropout(rate, dtype=self.dtype, name=name)(x) if rate else x

    def average_pool(self, x, name=None):
        return layers.AveragePooling2D(2, padding="same", data_format="channels_last", dtype=self.dtype, name=name)(x)

    def ilsvrc_stem(self, image, filters, name):
        """Applies a 7x7 convolution and a 3x3 max pooling, each with stride 2: (height / 4, width / 4, filters)."""
        x = self.conv_bn_relu(image, filters, 7, strides=2, name=name)
        # Padding zeros never win the symmetric max pooling, since its input comes from a ReLU.
        x, padding = self._padded(x, 3, 2, f"{name}_pool")
        options = {"data_format": "channels_last", "dtype": self.dtype, "name": f"{name}_pool"}
        return layers.MaxPooling2D(3, 2, padding, **options)(x)

    def classify_by_convs(self, x, num_classes, channels, name):
        """Applies MSDNet's head: two 3x3 convolutions with stride 2, then `classify`."""
        channels = x.shape[-1] if channels is None else channels
        for number in (1, 2):
            x = self.conv_bn_relu(x, channels, 3, strides=2, name=f"{name}_{number}")
        return self.classify(x, num_classes, name)

    def classify(self, x, num_classes, name):
        """Applies global average pooling and a linear layer; logits are at least float32 in any precision."""
        x = layers.GlobalAveragePooling2D(data_format="channels_last", dtype=self.dtype, name=f"{name}_pool")(x)
        return layers.Dense(num_classes, kernel_initializer=HeNormal(), dtype=logits_dtype(x), name=name)(x)


def logits_dtype(x):
    return "float32" if x.dtype in ("float16", "bfloat16") else x.dtype
