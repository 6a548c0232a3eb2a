"""Preprocesses raw images with NumPy and Pillow. Exports ship this module, so it imports no Keras."""

import numbers

import numpy as np
from PIL import Image

from anytime_keras._checks import check_choice, check_int, check_positive_list
from anytime_keras.data.crops import center_crop, resized_size
from anytime_keras.preprocessing.decoding import MOST_PIXELS, decoded

CHANNEL_ORDERS = ("rgb", "bgr")


class HostPreprocessor:
    """Turns raw images into a network's inputs on the host; see `Preprocessor` for the arguments and the images."""

    def __init__(self, image_shape, mean=0.0, std=1.0, short_side=None, value_range=(0.0, 1.0), channel_order="rgb"):
        expected = "(height, width, channels), three positive ints"
        self.image_shape = check_positive_list("image_shape", image_shape, expected, length=3)
        self.mean = _by_channel("mean", mean, self.image_shape[-1])
        self.std = _by_channel("std", std, self.image_shape[-1])
        if min(self.std) <= 0:
            raise ValueError(f"`std` must be above 0. Received: std={std}.")
        least = min(self.image_shape[:2])
        self.short_side = least if short_side is None else check_int("short_side", short_side, least)
        check_choice("channel_order", channel_order, CHANNEL_ORDERS)
        self.value_range = None if value_range is None else tuple(map(float, value_range))
        if value_range is not None and not (len(self.value_range) == 2 and self.value_range[0] < self.value_range[1]):
            raise ValueError(f"`value_range` must be None or a pair of ascending numbers. Received: {value_range!r}.")
        self.channel_order = channel_order
        # In float32 and in this order, so that results equal those of `data.batches.Pipeline` bit for bit.
        scales = {"uint8": 1 / 255, "float32": 1.0}
        self._scales = {dtype: np.asarray(scale / np.array(self.std), "float32") for dtype, scale in scales.items()}
        self._shift = np.asarray(np.array(self.mean) / np.array(self.std), "float32")

    def __call__(self, images):
        fitted = [self._fitted(image) for image in decoded(images, self.image_shape[-1])]
        batch = np.empty((len(fitted), *self.image_shape), "float32")
        for row, image in zip(batch, fitted):
            if image.dtype != np.uint8:
                self._check_range(image.min(), image.max())
            image = image if self.channel_order == "rgb" else image[..., ::-1]
            row[:] = image.astype("float32") * self._scales[image.dtype.name] - self._shift
        return batch

    def _fitted(self, image):
        """Returns one image resized and cropped, shape `image_shape`."""
        size = self.image_shape[:2]
        if self.resized_size(image.shape[:2]) == image.shape[:2] == size:
            return image
        if image.dtype == np.uint8 and image.shape[-1] == 3:
            return center_crop(Image.fromarray(image), size, self.short_side)
        parts = [center_crop(Image.fromarray(part), size, self.short_side) for part in np.moveaxis(image, -1, 0)]
        return np.concatenate(parts, axis=-1)

    def resized_size(self, image_size, count=1, most=MOST_PIXELS):
        """Returns the (height, width) to which images are resized before they are cropped.

        A thin image becomes large, because its short side is resized to that of the network.

        Args:
            image_size: tuple of int, the (height, width) of the images.
            count: int, the number of images.
            most: int, the largest number of pixels of all of them after resizing.

        Raises:
            ValueError: if they would have more pixels.

        >>> HostPreprocessor((224, 224, 3)).resized_size((375, 500))
        (224, 299)
        """
        height, width = resized_size(image_size, self.image_shape[:2], self.short_side)
        if count * height * width > most:
            raise ValueError(
                f"Images resized for the network must have at most {most:,} pixels in total. Received: {count} of "
                f"{image_size[0]} x {image_size[1]} pixels, which would become {height} x {width}. Crop them."
            )
        return height, width

    def _check_range(self, least, largest):
        """Raises ValueError if the values of float images are out of range."""
        if self.value_range is None:
            return
        (low, high), margin = self.value_range, 1e-3
        if least < low - margin or largest > high + margin:
            raise ValueError(
                f"Images of floats must have values from {low:g} to {high:g}. Received: values from {least:g} to "
                f"{largest:g}. Convert images with values from 0 to 255 with `astype('uint8')`."
            )

    def get_config(self):
        """Returns the arguments as plain data, which `from_config` reads."""
        config = {name: getattr(self, name) for name in ("mean", "std", "short_side", "channel_order")}
        value_range = None if self.value_range is None else list(self.value_range)
        return {"image_shape": list(self.image_shape), "value_range": value_range, **config}

    @classmethod
    def from_config(cls, config):
        """Creates a preprocessor from the result of `get_config`.

        Raises:
            ValueError: if the config is not valid.
        """
        try:
            return cls(**config)
        except TypeError as error:
            raise ValueError(f"`config` must be what `get_config` returns. Received: {config!r:.200}.") from error

    def __repr__(self):
        mean, std = ([round(value, 3) for value in values] for values in (self.mean, self.std))
        order = "" if self.channel_order == "rgb" else f", channel_order='{self.channel_order}'"
        name = type(self).__name__
        return f"{name}(image_shape={self.image_shape}, mean={mean}, std={std}, short_side={self.short_side}{order})"


def _by_channel(name, values, channels):
    values = [values] * channels if isinstance(values, numbers.Real) else [float(value) for value in values]
    if len(values) != channels or not np.isfinite(values).all():
        raise ValueError(
            f"`{name}` must be a finite number, or one for each of {channels} channels. Received: {name}={values}."
        )
    return [float(value) for value in values]
