"""Augmentation of batches with `keras.ops`, so that it runs in tf.data and on a JAX device alike.

Every step is a function `(images, seed) -> images` on float images with values from 0 to 1, shape
`(batch, height, width, channels)`. Randomness comes from a `StepSeed` alone: the same seed, epoch
and step give the same images, which is what lets training resume exactly.
"""

import keras
from keras import ops

from anytime_keras import _errors


class StepSeed(keras.random.SeedGenerator):
    """Random seeds for one training step, also where seed, epoch and step are tensors.

    Keras's random functions ask a `SeedGenerator` for the next seed; this one counts from the step instead of keeping
    a variable.
    """

    def __init__(self, seed, epoch, step):
        # No call of the parent's: it makes a variable.
        self._first = ops.cast(seed, "int32") * 1_000_003 + ops.cast(epoch, "int32")
        self._second = ops.cast(step, "int32") * 64
        self._count = 0

    def next(self, ordered=True):
        self._count += 1
        return ops.cast(ops.stack([self._first, self._second + self._count]), "uint32")


def pad_crop(images, seed, share=1 / 8):
    """Pads with zeros by 1/8 of the side (4 of 32 pixels) and cuts the old size out at a random place.

    Reference: Lee et al., 2015; He et al., 2016.
    """
    batch, height, width, channels = ops.shape(images)
    pad_y, pad_x = round(height * share), round(width * share)
    padded = ops.pad(images, [[0, 0], [pad_y, pad_y], [pad_x, pad_x], [0, 0]])
    top = keras.random.randint((batch, 1, 1), 0, 2 * pad_y + 1, seed=seed)
    left = keras.random.randint((batch, 1, 1), 0, 2 * pad_x + 1, seed=seed)
    rows = top + ops.reshape(ops.arange(height, dtype="int32"), (1, height, 1))
    columns = left + ops.reshape(ops.arange(width, dtype="int32"), (1, 1, width))
    first = ops.reshape(ops.arange(batch, dtype="int32"), (batch, 1, 1)) * (height + 2 * pad_y)
    pixels = (first + rows) * (width + 2 * pad_x) + columns  # (batch, height, width)
    return ops.take(ops.reshape(padded, (-1, channels)), pixels, axis=0)


def flip(images, seed):
    """Mirrors half of the images left to right."""
    chosen = keras.random.uniform((ops.shape(images)[0], 1, 1, 1), seed=seed) < 0.5
    return ops.where(chosen, images[:, :, ::-1, :], images)


def color(images, seed, strength=0.4):
    """Changes brightness, contrast and saturation by up to 40%, each image by its own amount, in this order.

    As fb.resnet.torch does for ILSVRC, in random order there. Grey images keep their saturation.
    """

    def factor():
        return 1.0 + strength * keras.random.uniform((ops.shape(images)[0], 1, 1, 1), -1.0, 1.0, seed=seed)

    brightness, contrast, saturation = factor(), factor(), factor()
    images = images * brightness
    grey = _grey(images)
    mean = ops.mean(grey, axis=(1, 2, 3), keepdims=True)
    images = mean + (images - mean) * contrast
    if images.shape[-1] == 3:
        grey = _grey(images)
        images = grey + (images - grey) * saturation
    return ops.clip(images, 0.0, 1.0)


def _grey(images):
    if images.shape[-1] != 3:
        return ops.mean(images, axis=-1, keepdims=True)
    return ops.sum(images * ops.convert_to_tensor([0.299, 0.587, 0.114], images.dtype), axis=-1, keepdims=True)


def lighting(images, seed, strength=0.1):
    """Shifts colours along the main axes of ImageNet's colours.

    Reference: Krizhevsky et al., 2012, section 4.1; axes as in fb.resnet.torch.
    """
    if images.shape[-1] != 3:
        return images
    values = [0.2175, 0.0188, 0.0045]
    vectors = [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    alpha = strength * keras.random.normal((ops.shape(images)[0], 3), seed=seed)
    shift = ops.matmul(
        alpha * ops.convert_to_tensor(values, "float32"), ops.transpose(ops.convert_to_tensor(vectors, "float32"))
    )
    return images + shift[:, None, None, :]


def erase(images, seed):
    """Sets a random square with sides of a quarter to a half of the image's to grey, as cutout does.

    Reference: DeVries & Taylor, 2017.
    """
    batch, height, width, _ = ops.shape(images)

    def inside(length):
        center = keras.random.uniform((batch, 1), seed=seed) * length
        return center, ops.reshape(ops.arange(length, dtype="float32"), (1, length))

    half = keras.random.uniform((batch, 1), 0.125, 0.25, seed=seed) * min(height, width)
    y, rows = inside(height)
    x, columns = inside(width)
    hit = (ops.abs(rows + 0.5 - y) < half)[:, :, None] & (ops.abs(columns + 0.5 - x) < half)[:, None, :]
    return ops.where(hit[..., None], ops.cast(0.5, images.dtype), images)


FUNCTIONS = {
    "pad_crop": pad_crop,
    "flip": flip,
    "color": color,
    "lighting": lighting,
    "erase": erase,
}

# Keras's own layers, made anew for each data set.
LAYERS = {
    # The paper's text for SVHN: each image is blurred by a Gaussian of random width, up to 1 pixel.
    "blur": lambda: keras.layers.RandomGaussianBlur(
        factor=1.0, kernel_size=3, sigma=1.0, value_range=(0, 1), data_format="channels_last"
    ),
    # Cubuk et al., 2020. Keras draws the two operations for the whole batch, their strength for each image.
    "rand_augment": lambda: keras.layers.RandAugment(value_range=(0, 1), factor=0.15, data_format="channels_last"),
}

STEPS = sorted([*FUNCTIONS, *LAYERS])


def compose(steps):
    """Returns one function `(images, seed) -> images` that applies the named steps in order.

    Args:
        steps: list of names from `STEPS`.

    Raises:
        ValueError: if a name is unknown.
    """
    for step in steps:
        if step not in STEPS:
            raise ValueError(f"`augment` names an unknown step. Received: {step!r}. {_errors.nearest(step, STEPS)}")
    functions = [FUNCTIONS[step] if step in FUNCTIONS else _from_layer(LAYERS[step]()) for step in steps]

    def augment(images, seed):
        for function in functions:
            images = function(images, seed)
        return images

    return augment


def _from_layer(layer):
    """Makes a step of a Keras augmentation layer, which takes our seed instead of its own."""

    def step(images, seed):
        for part in layer._flatten_layers():
            if hasattr(part, "generator"):
                part.generator = seed
        transformation = layer.get_random_transformation(images, training=True, seed=seed)
        return layer.transform_images(images, transformation, training=True)

    return step
