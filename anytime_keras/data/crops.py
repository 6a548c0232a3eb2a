"""Decodes and crops single images with Pillow, identically on every backend."""

import contextlib
import io
import math
import os
import re
import struct

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin


# What Pillow raises for corrupt or truncated image files.
NO_IMAGE: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError)
NO_IMAGE += (struct.error, Image.DecompressionBombError)


class CorruptImage(ValueError):
    """Raised if an image cannot be decoded; the message names it."""


@contextlib.contextmanager
def corrupt_images_named():
    """Re-raises the `CorruptImage` that TensorFlow wraps in its own error."""
    try:
        yield
    except CorruptImage:
        raise
    except Exception as error:
        found = re.search(r"CorruptImage: (.*?)(\nTraceback|\n\n|$)", str(error), re.DOTALL)
        if found is None:
            raise
        raise CorruptImage(found[1]) from error


@contextlib.contextmanager
def _naming(name):
    """Turns what Pillow raises for a corrupt image into a `CorruptImage` with its name."""
    try:
        yield
    except NO_IMAGE as error:
        if isinstance(error, CorruptImage) or getattr(error, "errno", None) is not None:  # a system error
            raise
        reason = f"cannot be decoded: {error}. Repair or remove it."
        if isinstance(error, Image.DecompressionBombError):
            reason = f"is too large to be decoded safely: {error} Scale it down."
        raise CorruptImage(f"The image '{name}' {reason}") from error


def decode(source, name, channels=3):
    """Decodes an image file, a path or bytes, as `upright` describes."""
    with _naming(name), Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        return upright(image, name, channels)


def upright(image, name, channels=3):
    """Applies the Exif orientation of a Pillow image and converts it to 8-bit grey or RGB, or raises `CorruptImage`."""
    with _naming(name):
        formats = getattr(image, "tag_v2", {}).get(TiffImagePlugin.SAMPLEFORMAT, ())
        # Pillow reads signed integers of 8 bits as unsigned; for those of 16 and 32 bits, see `_eight_bits`.
        if 2 in formats and image.mode != "I":
            raise ValueError(f"unsigned values are expected, received a TIFF of signed integers, mode '{image.mode}'")
        turned = ImageOps.exif_transpose(image)
        return _eight_bits(image, turned).convert("L" if channels == 1 else "RGB")


def swaps_sides(image, name):
    """Returns whether the Exif orientation of a Pillow image swaps height and width, or raises `CorruptImage`."""
    with _naming(name):
        return image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)


def _eight_bits(image, turned):
    """Scales `turned` from 16-bit grey to 8 bits (Pillow would clip it); `image`, as opened, has the file's tags."""
    of_16_bits = image.mode == "I" and image.format in ("PNG", "PPM")  # Pillow decodes them as int32
    if image.mode in ("I", "F") and not of_16_bits:
        raise ValueError(
            f"8 or 16 bits are expected, received Pillow's mode '{image.mode}' of 32 bits, which has no fixed range"
        )
    if image.mode[0] != "I":
        return turned
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    largest = 2 ** tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0] - 1
    values = np.asarray(turned, "float32") * (255 / largest)
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # white is zero
        values = 255 - values
    return Image.fromarray((values + 0.5).astype("uint8"))


def size(path: str | os.PathLike) -> tuple[int, int]:
    """Returns the (height, width) of an image as decoded by `decode`. A PNG file is decoded to find its orientation."""
    with _naming(path), Image.open(path) as image:
        if swaps_sides(image, path):
            ImageOps.exif_transpose(image, in_place=True)
        return image.height, image.width


def stored_size(path: str | os.PathLike) -> tuple[int, int]:
    """Returns the (height, width) in the header of an image file, before its Exif orientation is applied."""
    with _naming(path), Image.open(path) as image:
        return image.height, image.width


def to_array(image: Image.Image) -> np.ndarray:
    """Returns the image as uint8, shape (height, width, channels)."""
    array = np.asarray(image)
    return array if array.ndim == 3 else array[..., np.newaxis]


def center_crop(image: Image.Image, size: tuple[int, int], short_side: int | None = None) -> np.ndarray:
    """Resizes the short side and takes the central crop, the paper's single crop (224 of 256).

    `size` is (height, width) of the crop. Returns uint8, shape (height, width, channels). `short_side` is in pixels;
    None is 256/224 of the crop's. Resizing is bilinear, antialiased when the image shrinks.
    """
    height, width = size
    resized = resized_size((image.height, image.width), size, short_side)
    image = image.resize((resized[1], resized[0]), Image.Resampling.BILINEAR)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return to_array(image.crop((left, top, left + width, top + height)))


def short_side(size: tuple[int, int]) -> int:
    """Returns 256/224 of the short side of a crop, the length to which `center_crop` resizes an image's by default."""
    return round(min(size) * 256 / 224)


def resized_size(image_size: tuple[int, int], size: tuple[int, int], shorter: int | None = None) -> tuple[int, int]:
    """Returns the (height, width), at least the crop's, to which `center_crop` resizes an image before cropping.

    >>> resized_size((375, 500), (224, 224))
    (256, 341)
    """
    shorter = shorter or short_side(size)
    scale = max(shorter / min(image_size), *(crop / length for crop, length in zip(size, image_size)))
    height, width = (max(crop, round(length * scale)) for crop, length in zip(size, image_size))
    return height, width


def random_resized_crop(image: Image.Image, size, rng: np.random.Generator, area=(0.08, 1.0), aspect=(3 / 4, 4 / 3)):
    """Takes a random crop of random area and aspect ratio and resizes it, the usual training crop for ILSVRC.

    Reference: Szegedy et al., 2015; as in fb.resnet.torch, which the authors' code follows, except that the logarithm
    of the aspect ratio is uniform, as in torchvision, and resizing is antialiased. Falls back to the central crop if
    ten random crops do not fit into the image.

    `size` is (height, width); `area` is the range of the crop's share of the image, `aspect` that of width / height.
    Returns uint8, shape (height, width, channels).
    """
    for _ in range(10):
        target = rng.uniform(*area) * image.width * image.height
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        width, height = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < width <= image.width and 0 < height <= image.height:
            left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
            box = (float(left), float(top), float(left + width), float(top + height))
            return to_array(image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box))
    return center_crop(image, size, short_side=min(size))


def decoded_crop(source, name, image_shape, rng=None):
    """Decodes an image and returns the central crop, or a random training crop if `rng` is given, of `image_shape`."""
    image, size = decode(source, name, image_shape[-1]), image_shape[:2]
    return center_crop(image, size) if rng is None else random_resized_crop(image, size, rng)
