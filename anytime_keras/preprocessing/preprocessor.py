"""`Preprocessor`: raw images to a network's inputs, as in the evaluation during training or for pretrained networks."""

import keras
import numpy as np
from keras import ops

from anytime_keras.data import crops
from anytime_keras.data.examples import ArrayExamples
from anytime_keras.preprocessing import decoding
from anytime_keras.preprocessing.host import HostPreprocessor
from anytime_keras.preprocessing.layers import ReverseChannels, ShortSideResizing


class Preprocessor(HostPreprocessor):
    """Turns raw images into a network's inputs, exactly as the evaluation during training did.

    Images are resized so that their short side has `short_side` pixels, cropped to the centre, and normalised by
    `(value - mean) / std`. Files, Pillow images and NumPy arrays are resized on the host with Pillow, like images in
    training; tensors of the backend pass through `layers` on the device and may be traced. The two differ by rounding:
    by one of 255 levels for a few pixels of resized images.

    Args:
        image_shape: (height, width, channels) of the network's input, with 1 channel for grey or 3 for RGB. Networks
            with other numbers of channels take only arrays.
        mean, std: number or list of a number for each channel, in the channel order of the network, for values from
            0 to 1.
        short_side: int, pixels of the short side before cropping, such as 256 for a crop of 224. None uses the short
            side of the crop, so that only the ends of the long side are cropped.
        value_range: pair of numbers, the valid range of float images; None accepts all floats.
        channel_order: `"rgb"`, or `"bgr"` for networks that take blue, green, red.

    Attributes:
        image_shape: tuple of ints.
        layers: list of the Keras layers, in order: resizing, cropping, rescaling.

    Call: images -> float32 array of shape `(batch, height, width, channels)`; a tensor if the input is a tensor of the
        backend. The images are one or a list of:

        - a path or the bytes of an image file. 16-bit, CMYK, palette and transparent images are converted, and images
          are rotated by their EXIF orientation. Of an animation, the first frame is used.
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
        super().__init__(image_shape, mean, std, short_side, value_range, channel_order)
        height, width, _ = self.image_shape
        self.layers = [
            ShortSideResizing(height, width, self.short_side),
            keras.layers.CenterCrop(height, width, data_format="channels_last", dtype="float32"),
            *([ReverseChannels()] if self.channel_order == "bgr" else []),
            keras.layers.Rescaling(self._scales["uint8"].tolist(), (-self._shift).tolist(), dtype="float32"),
        ]

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
        return self._on_device(images) if ops.is_tensor(images) else super().__call__(images)

    def _on_device(self, images):
        """Applies `layers` to a tensor of shape (batch, height, width, channels) or (height, width, channels)."""
        images = images if len(images.shape) == 4 else images[None]
        if len(images.shape) != 4 or images.shape[-1] != self.image_shape[-1] or 0 in images.shape:
            expected = f"(batch, height, width, {self.image_shape[-1]})"
            raise ValueError(f"A tensor of images must have shape {expected}. Received: {tuple(images.shape)}.")
        size = images.shape[1:3]
        if None not in size:  # known, also while a graph is traced
            decoding.check_size(size, "the tensor")
            self.resized_size(size)
        images = self._of_255(images)
        for layer in self.layers:
            images = layer(images)
        return images

    def _of_255(self, images):
        """Converts a tensor of images to uint8, or to float32 from 0 to 255, with the checks of arrays."""
        dtype = keras.backend.standardize_dtype(images.dtype)
        decoding.check_dtype(dtype, "the tensor")
        if dtype == "uint8":
            return images
        if dtype == "bool":
            return ops.cast(images, "uint8") * 255
        values = ops.cast(images, "float32")
        if dtype == "uint16":
            return ops.cast(values * (255 / 65535) + 0.5, "uint8")
        try:
            finite, low, high = bool(ops.all(ops.isfinite(values))), float(ops.min(values)), float(ops.max(values))
        except TypeError:  # while a graph is traced, values are unknown
            return values * 255
        if not finite:
            raise ValueError("An array of floats must be finite. Received: a NaN or an infinity in the tensor.")
        self._check_range(low, high)
        return values * 255


# The modes of `keras.applications`: what `preprocess_input` does to values from 0 to 255, as arguments of
# `Preprocessor`, whose means and deviations are of values from 0 to 1.
_CAFFE = dict(mean=[103.939 / 255, 116.779 / 255, 123.68 / 255], std=1 / 255, channel_order="bgr")
_TF = dict(mean=0.5, std=0.5)  # from -1 to 1
_TORCH = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
_INSIDE = dict(mean=0.0, std=1 / 255)  # unchanged, because the network's first layers do it
# How the names of networks begin, in lower case. The first entry that fits counts.
_APPLICATIONS = {
    ("resnet50v2", "resnet101v2", "resnet152v2"): _TF,
    ("resnet50", "resnet101", "resnet152", "vgg16", "vgg19"): _CAFFE,
    ("efficientnet", "mobilenetv3", "convnext"): _INSIDE,
    ("mobilenet_", "mobilenetv2_", "inception_v3", "inception_resnet_v2", "xception", "nasnet"): _TF,
    ("densenet121", "densenet169", "densenet201"): _TORCH,
}


def of_pretrained(model, input_shape=None):
    """Returns the `Preprocessor` of a pretrained network, or None if it is not known.

    Networks of `keras.applications` are recognized by the name that it gives them, and tasks of keras-hub, such as
    `keras_hub.models.ImageClassifier.from_preset(...)`, by their `preprocessor`. Images are cropped to their center.

    Args:
        model: functional Keras model.
        input_shape: (height, width, channels), if the model leaves the size of its input open.

    Example:
    >>> import keras
    >>> model = keras.applications.MobileNet(input_shape=(64, 64, 3), alpha=0.25, weights=None)
    >>> of_pretrained(model)
    Preprocessor(image_shape=(64, 64, 3), mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5], short_side=73)
    """
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
        return None
    shape = list(model.inputs[0].shape[1:])
    converter = getattr(getattr(model, "preprocessor", None), "image_converter", None)
    if None in shape[:2]:
        size = input_shape[:2] if input_shape is not None else getattr(converter, "image_size", None)
        if size is None:
            return None
        shape[:2] = size
    if shape[-1] != 3:
        return None
    if converter is not None:
        return _of_converter(converter, shape)
    for prefixes, arguments in _APPLICATIONS.items():
        if model.name.lower().startswith(prefixes):
            own = (keras.layers.Rescaling, keras.layers.Normalization)
            if arguments is _INSIDE and not any(isinstance(layer, own) for layer in model.layers):
                return None  # built with `include_preprocessing=False`
            return Preprocessor(shape, **arguments, short_side=crops.short_side(shape[:2]))
    return None


def _of_converter(converter, shape):
    """Returns the `Preprocessor` of a keras-hub `ImageConverter`, which computes value * scale + offset."""
    scale = np.broadcast_to(1.0 if converter.scale is None else converter.scale, 3).astype(float)
    offset = np.broadcast_to(0.0 if converter.offset is None else converter.offset, 3).astype(float)
    std = 1 / (255 * scale)
    return Preprocessor(shape, (-offset * std).tolist(), std.tolist())
