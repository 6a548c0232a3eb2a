"""The preprocessing that pretrained networks of `keras.applications` and keras-hub expect."""

import keras
import numpy as np

from anytime_keras.data import crops
from anytime_keras.preprocessing.preprocessor import Preprocessor

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
