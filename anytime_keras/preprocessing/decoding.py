"""Decodes raw images of any kind to arrays with a network's number of channels. Exports ship this module."""

import os
import pathlib

import numpy as np
from PIL import Image

from anytime_keras.data.crops import CorruptImage, decode, to_array, upright

MOST_PIXELS = 2 * 89_478_485  # Pillow refuses larger files, which could fill the memory
LEAST_SIDE = 2
GREY = np.array([0.299, 0.587, 0.114], "float32")  # ITU-R 601, as Pillow converts
FORMS = "a path, a Pillow image, the bytes of an image file, an array, or a list of these"


def is_single(images):
    """Returns whether `images` is one image rather than several.

    >>> is_single("cat.jpg"), is_single(np.zeros((32, 32, 3))), is_single(np.zeros((5, 32, 32, 3))), is_single([])
    (True, True, False, False)
    """
    if isinstance(images, (str, bytes, os.PathLike, Image.Image)):
        return True
    return not isinstance(images, (list, tuple)) and np.ndim(images) < 4


def is_raw(images):
    """Returns whether `images` can only be raw images: files, Pillow images, or arrays of uint8.

    >>> is_raw("cat.jpg"), is_raw(np.zeros((1, 32, 32, 3), "uint8")), is_raw(np.zeros((1, 32, 32, 3)))
    (True, True, False)
    """
    if isinstance(images, (list, tuple)):
        return bool(images) and is_raw(images[0])
    if isinstance(images, np.ndarray):
        return images.dtype == np.uint8
    return isinstance(images, (str, bytes, os.PathLike, Image.Image))


def decoded(images, channels):
    """Decodes the images that `Preprocessor` takes, to 1 channel (grey), 3 (RGB), or as many as arrays have.

    Returns:
        A list of arrays of shape `(height, width, channels)`, or one array of shape `(batch, height, width, channels)`;
        uint8 or float32.

    Raises:
        ValueError: if an image is not valid; the error names it.
        OSError: if a file cannot be read.
    """
    if is_single(images):
        return [_decoded(images, "the image", channels)]
    if hasattr(images, "__array__") and np.ndim(images) == 4:
        return _array(np.asarray(images), "`images`", channels)
    if not isinstance(images, (list, tuple)):
        raise ValueError(f"`images` must be {FORMS}. Received: {_described(images)}.")
    if not images:
        raise ValueError(f"`images` must contain at least one image. Received: {images!r}.")
    return [_decoded(image, f"image {number}", channels) for number, image in enumerate(images)]


def _decoded(image, name, channels):
    if channels not in (1, 3) and isinstance(image, (str, os.PathLike, bytes, Image.Image)):
        raise ValueError(f"The network takes only arrays of {channels} channels. Received: {_described(image)}.")
    if isinstance(image, (str, os.PathLike)):
        check_file(image)
        found = to_array(decode(os.fspath(image), image, channels))
        name = f"'{image}'"
    elif isinstance(image, (bytes, Image.Image)):
        convert = decode if isinstance(image, bytes) else upright
        try:
            found = to_array(convert(image, name, channels))
        except CorruptImage as error:  # its message is about a file
            reason = str(error.__cause__).partition(" <_io")[0]  # without the object that holds the bytes
            raise ValueError(f"{name[0].upper()}{name[1:]} cannot be decoded: {reason}.") from error
    elif isinstance(image, np.ndarray) or hasattr(image, "__array__"):
        found = _array(np.asarray(image), name, channels)
    else:
        raise ValueError(f"An image must be {FORMS}. Received: {_described(image)} for {name}.")
    check_size(found.shape, name)
    return found


def check_file(path):
    """Raises ValueError unless there is a file at an image's path."""
    if str(path).startswith(("http://", "https://")):
        raise ValueError(f"An image must be a file on this machine. Received: '{path}'. Download it first.")
    if os.fspath(path) and pathlib.Path(path).is_dir():
        raise ValueError(f"An image must be a file. Received: the folder '{path}'. Name the files in it.")
    if not pathlib.Path(path).is_file():
        raise ValueError(f"There is no image '{path}'.")
    if pathlib.Path(path).stat().st_size == 0:
        raise CorruptImage(f"An image file must not be empty. Received: '{path}' with 0 bytes.")


def check_size(shape, name):
    """Raises ValueError if an image is too small to show anything, or too large."""
    height, width = shape[:2]
    if min(height, width) < LEAST_SIDE or height * width > MOST_PIXELS:
        raise ValueError(
            f"An image must be at least {LEAST_SIDE} pixels high and wide, and have {MOST_PIXELS:,} pixels at most. "
            f"Received: {height} x {width} pixels for {name}."
        )


def _array(array, name, channels):
    """Returns an array of images as uint8 or float32 with the given number of channels."""
    if array.ndim == 2:
        array = array[..., np.newaxis]
    if array.ndim not in (3, 4) or array.shape[-1] not in (1, 2, 3, 4, channels) or 0 in array.shape:
        raise ValueError(
            "An array must have shape (height, width), (height, width, channels) or (batch, height, width, channels) "
            f"with 1 to 4 channels. Received: shape {array.shape} for {name}. Move the channels to the last axis, or "
            "add an axis to a batch of grey images."
        )
    return _with_channels(_plain(array, name), channels, name)


def check_dtype(dtype, name):
    """Raises ValueError unless the values of images of a dtype have a known range."""
    if not (str(dtype) in ("uint8", "uint16", "bool") or "float" in str(dtype)):
        raise ValueError(
            "An array must be uint8 (0 to 255), uint16 (0 to 65535), bool, or float (0 to 1). "
            f"Received: dtype {dtype} for {name}. Convert it, for example with `astype('uint8')`."
        )


def _plain(array, name):
    """Returns an array as uint8, or as float32 if it has floats."""
    check_dtype(array.dtype.newbyteorder("="), name)
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype("uint8") * np.uint8(255)
    if array.dtype.kind == "u":  # 16 bits, to 8 bits like a file of 16 bits
        return (array.astype("float32") * (255 / 65535) + 0.5).astype("uint8")
    array = array.astype("float32", copy=False)
    if not np.isfinite(array).all():
        raise ValueError(f"An array of floats must be finite. Received: a NaN or an infinity in {name}.")
    return array


def _with_channels(array, channels, name):
    """Converts between grey and RGB, and removes transparency."""
    if array.shape[-1] == channels:
        return array
    if channels not in (1, 3):
        raise ValueError(
            f"The network takes only arrays of {channels} channels. Received: shape {array.shape} for {name}."
        )
    if array.shape[-1] in (2, 4):  # the last channel is opacity
        array = array[..., :-1]
    if array.shape[-1] == channels:
        return array
    if channels == 3:
        return np.repeat(array, 3, axis=-1)
    grey = array.astype("float32") @ GREY[:, np.newaxis]
    return grey if array.dtype != np.uint8 else (grey + 0.5).astype("uint8")


def _described(thing):
    if hasattr(thing, "shape") and hasattr(thing, "dtype"):
        return f"{type(thing).__name__} of shape {tuple(thing.shape)}"
    text = " ".join(repr(thing).split())
    return f"{type(thing).__name__} {text[:60]}{'...' if len(text) > 60 else ''}"
