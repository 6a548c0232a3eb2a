"""`Preprocessor`: raw images to a network's inputs, exactly as in the evaluation during training."""

import math
import numbers

import keras
import numpy as np
from keras import ops
from PIL import Image

from anytime_keras.data import crops
from anytime_keras.data.examples import ArrayExamples
from anytime_keras.preprocessing import decoding
from anytime_keras.preprocessing.layers import ReverseChannels, ShortSideResizing

CHANNEL_ORDERS = ("rgb", "bgr")


class Preprocessor:
    """Turns raw images into a network's inputs, exactly as the evaluation during training did.

    Images are resized so that their short side has `short_side` pixels, cropped to the centre, and normalised by
    `(value - mean) / std`. Files, Pillow images and NumPy arrays are resized on the host with Pillow, like images in
    training; tensors of the backend pass through `layers` on the device and may be traced. The two differ by rounding:
    by one of 255 levels for a few pixels of resized images.

    Args:
        image_shape: (height, width, channels) of the network's input, with 1 channel for grey or 3 for RGB. Networks
            with other numbers of channels take arrays only.
        mean, std: number or list of a number for each channel, in the channel order of the network, for values from
            0 to 1.
        short_side: int, pixels of the short side before cropping, such as 256 for a crop of 224. None is that of the
            crop, so nothing but the ends of the long side is cut off.
        value_range: pair of numbers, the range of float images, which are checked; None accepts all floats.
        channel_order: `"rgb"`, or `"bgr"` for networks that take blue, green, red.

    Attributes:
        image_shape: tuple of ints.
        layers: list of the Keras layers, in order: resizing, cropping, rescaling.

    Call: images -> float32 array of shape `(batch, height, width, channels)`; a tensor if the input is a tensor of the
        backend. The images are one of, or a list of:

        - a path or the bytes of an image file. 16-bit, CMYK, palette and transparent images are converted, and images
          are rotated by their EXIF orientation.
        - a `PIL.Image.Image`.
        - an array of shape `(height, width)` or `(height, width, channels)`, or a batch of those; uint8, uint16, bool,
          or float with values from 0 to 1. The channels are grey, grey and opacity, RGB, or RGB and opacity.

    Raises:
        ValueError: if an argument or an image is not valid; the error names the image.

    Example:
    >>> preprocessor = Preprocessor((224, 224, 3), mean=[0.485, 0.456, 0.406], std=0.226, short_side=256)
    >>> preprocessor(np.zeros((480, 640, 3), "uint8")).shape
    (1, 224, 224, 3)
    >>> [type(layer).__name__ for layer in preprocessor.layers]
    ['ShortSideResizing', 'CenterCrop', 'Rescaling']
    """

    def __init__(self, image_shape, mean=0.0, std=1.0, short_side=None, value_range=(0.0, 1.0), channel_order="rgb"):
        self.image_shape = _image_shape(image_shape)
        self.mean = _by_channel("mean", mean, self.image_shape[-1])
        self.std = _by_channel("std", std, self.image_shape[-1])
        if min(self.std) <= 0:
            raise ValueError(f"`std` must be above 0. Received: std={std}.")
        least = min(self.image_shape[:2])
        if short_side is not None and (not _is_int(short_side) or short_side < least):
            raise ValueError(f"`short_side` must be None or an int, {least} or more. Received: {short_side!r}.")
        if channel_order not in CHANNEL_ORDERS:
            raise ValueError(f"`channel_order` must be one of {CHANNEL_ORDERS}. Received: {channel_order!r}.")
        self.short_side = least if short_side is None else short_side
        self.value_range = None if value_range is None else tuple(map(float, value_range))
        self.channel_order = channel_order
        # In float32 and in this order, so that results equal those of `data.batches.Pipeline` bit for bit.
        self._scales = {
            dtype: np.asarray(scale / np.array(self.std), "float32")
            for dtype, scale in (("uint8", 1 / 255), ("float32", 1.0))
        }
        self._shift = np.asarray(np.array(self.mean) / np.array(self.std), "float32")
        self.layers = self._layers()

    @classmethod
    def for_data(cls, data):
        """Returns the preprocessor that does to raw images what a data set's evaluation batches do.

        Args:
            data: `anytime_keras.data.DataSet`.

        Example:
        >>> import anytime_keras as ak
        >>> Preprocessor.for_data(ak.data.load("digits"))
        Preprocessor(image_shape=(8, 8, 1), mean=[0.306], std=[0.377], short_side=8)
        """
        examples, value_range = data.examples["train"], (0.0, 1.0)
        short_side = None
        if not isinstance(examples, ArrayExamples):
            short_side = crops.short_side(data.image_shape[:2])
        elif examples.images.dtype != np.uint8 and not 0 <= examples.images.min() <= examples.images.max() <= 1:
            value_range = None
        return cls(data.image_shape, data.mean, data.std, short_side, value_range)

    def __call__(self, images):
        if ops.is_tensor(images):
            return self._on_device(images)
        found = decoding.decoded(images, self.image_shape[-1])
        fitted = [self._fitted(image) for image in found]
        batch = np.empty((len(fitted), *self.image_shape), "float32")
        for row, image in zip(batch, fitted):
            self._check_range(image)
            image = image if self.channel_order == "rgb" else image[..., ::-1]
            row[:] = image.astype("float32") * self._scales[image.dtype.name] - self._shift
        return batch

    def _fitted(self, image):
        """Returns one image resized and cropped, shape `image_shape`."""
        size = self.image_shape[:2]
        resized = crops.resized_size(image.shape[:2], size, self.short_side)
        if resized == image.shape[:2] == size:
            return image
        if math.prod(resized) > decoding.MOST_PIXELS:
            raise ValueError(
                f"An image must not be that narrow. Received: {image.shape[0]} x {image.shape[1]} pixels, which the "
                f"network's input would enlarge to {resized[0]} x {resized[1]}. Crop it."
            )
        if image.dtype == np.uint8 and image.shape[-1] == 3:
            return crops.center_crop(Image.fromarray(image), size, self.short_side)
        parts = [crops.center_crop(Image.fromarray(part), size, self.short_side) for part in np.moveaxis(image, -1, 0)]
        return np.concatenate(parts, axis=-1)

    def _check_range(self, image):
        if image.dtype == np.uint8 or self.value_range is None:
            return
        (low, high), margin = self.value_range, 1e-3
        if image.min() < low - margin or image.max() > high + margin:
            raise ValueError(
                f"Images of floats must have values from {low:g} to {high:g}. Received: values from {image.min():g} to "
                f"{image.max():g}. Convert images with values from 0 to 255 with `astype('uint8')`."
            )

    def _on_device(self, images):
        """Applies `layers` to a tensor of shape (batch, height, width, channels) or (height, width, channels)."""
        images = images if len(images.shape) == 4 else images[None]
        if len(images.shape) != 4 or images.shape[-1] != self.image_shape[-1]:
            raise ValueError(
                f"A tensor of images must have shape (batch, height, width, {self.image_shape[-1]}). "
                f"Received: shape {tuple(images.shape)}."
            )
        if not keras.backend.is_int_dtype(images.dtype):
            images = ops.cast(images, "float32") * 255
        for layer in self.layers:
            images = layer(images)
        return images

    def _layers(self):
        height, width, _ = self.image_shape
        layers = [
            ShortSideResizing(height, width, self.short_side),
            keras.layers.CenterCrop(height, width, data_format="channels_last", dtype="float32"),
            keras.layers.Rescaling(self._scales["uint8"].tolist(), (-self._shift).tolist(), dtype="float32"),
        ]
        if self.channel_order == "bgr":
            layers.insert(2, ReverseChannels())
        return layers

    def get_config(self):
        """Returns the arguments as plain data, which `from_config` reads."""
        return {
            "image_shape": list(self.image_shape),
            "mean": self.mean,
            "std": self.std,
            "short_side": self.short_side,
            "value_range": None if self.value_range is None else list(self.value_range),
            "channel_order": self.channel_order,
        }

    @classmethod
    def from_config(cls, config):
        """Creates a preprocessor from the result of `get_config`."""
        return cls(**config)

    def __repr__(self):
        mean, std = ([round(value, 3) for value in values] for values in (self.mean, self.std))
        order = "" if self.channel_order == "rgb" else f", channel_order='{self.channel_order}'"
        return (
            f"Preprocessor(image_shape={self.image_shape}, mean={mean}, std={std}, short_side={self.short_side}{order})"
        )


def _is_int(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _image_shape(shape):
    shape = tuple(shape) if isinstance(shape, (list, tuple)) else ()
    if len(shape) != 3 or not all(_is_int(side) and side > 0 for side in shape):
        raise ValueError(
            f"`image_shape` must be (height, width, channels), three positive ints. Received: image_shape={shape!r}."
        )
    return tuple(map(int, shape))


def _by_channel(name, values, channels):
    values = [values] * channels if isinstance(values, numbers.Real) else [float(value) for value in values]
    if len(values) != channels or not np.isfinite(values).all():
        raise ValueError(
            f"`{name}` must be a finite number, or one for each of {channels} channels. Received: {name}={values}."
        )
    return [float(value) for value in values]
