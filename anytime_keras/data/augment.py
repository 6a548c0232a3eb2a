"""Batch augmentation in `keras.ops`, which runs both in tf.data and on a JAX device.

Every step is a function `(images, seed) -> images` on float images with values from 0 to 1, shape
`(batch, height, width, channels)`; steps in `MIXES` also change labels. All randomness comes from a `StepSeed`. The
same seed, epoch and step give the same images, so training resumes exactly.
"""

import keras
from keras import ops

from anytime_keras import graph
from anytime_keras._checks import check_choice
from anytime_keras._errors import explained


class StepSeed(keras.random.SeedGenerator):
    """Generates the random seeds of one training step; seed, epoch and step may be tensors.

    It counts up from the step instead of storing a variable. `numbers`, of shape `(batch,)`, are the images' indices in
    the stored data set, or None.
    """

    def __init__(self, seed, epoch, step, numbers=None):
        # Does not call the parent's `__init__`, which creates a variable.
        self.epoch, self.numbers = epoch, numbers
        self._first = ops.cast(seed, "int32") * 1_000_003 + ops.cast(epoch, "int32")
        self._second = ops.cast(step, "int32") * 64
        self._count = 0

    def next(self, ordered=True):
        self._count += 1
        return ops.cast(ops.stack([self._first, self._second + self._count]), "uint32")


def pad_crop(images, seed, share=1 / 8):
    """Pads with zeros by 1/8 of the side (4 of 32 pixels) and crops at random (Lee et al., 2015; He et al., 2016)."""
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
    """Flips each image horizontally with probability 0.5."""
    chosen = ops.cast(keras.random.uniform((ops.shape(images)[0], 1, 1, 1), seed=seed) < 0.5, images.dtype)
    # As exact as `where` on a slice with step -1, and five times as fast in TensorFlow on a CPU.
    return chosen * ops.flip(images, axis=2) + (1 - chosen) * images


def alternating_flip(images, seed):
    """Flips each image horizontally in every other epoch, half of the images in even epochs.

    Reference: [Jordan, 2024](https://arxiv.org/abs/2404.00498).
    """
    numbers, epoch = ops.cast(seed.numbers, "int32"), ops.cast(seed.epoch, "int32")
    first = ops.right_shift(numbers * 1_103_515_245 + 12_345, 16)  # one pseudo-random bit for each image
    chosen = ops.cast(ops.bitwise_and(first + epoch, 1), images.dtype)[:, None, None, None]
    return chosen * ops.flip(images, axis=2) + (1 - chosen) * images


def color(images, seed, strength=0.4):
    """Jitters brightness, contrast and saturation of each image by up to 40%.

    Follows fb.resnet.torch's augmentation for ILSVRC, which applies the three in random order (the result is the same,
    since each scales differences that the others preserve) and does not clip the result as we do.
    """
    _, height, width, channels = ops.shape(images)

    def factor():
        return 1.0 + strength * keras.random.uniform((ops.shape(images)[0], 1, 1), -1.0, 1.0, seed=seed)

    brightness, contrast, saturation = factor(), factor(), factor()
    weights = [[0.299], [0.587], [0.114]] if channels == 3 else [[1 / channels]] * channels
    to_grey = ops.tile(ops.convert_to_tensor(weights, images.dtype), (1, channels))  # (channels, channels)
    grey_mean = ops.matmul(ops.mean(images, axis=(1, 2)), to_grey)[:, None, :]  # (batch, 1, channels)
    # The three combine into one linear map of an image's colours and a shift.
    colors = brightness * contrast * (saturation * ops.eye(channels) + (1 - saturation) * to_grey)
    pixels = ops.matmul(ops.reshape(images, (-1, height * width, channels)), colors)
    pixels += brightness * (1 - contrast) * grey_mean
    return ops.clip(ops.reshape(pixels, (-1, height, width, channels)), 0.0, 1.0)


def lighting(images, seed, strength=0.1):
    """Shifts colours along the principal components of ImageNet's colours (Krizhevsky et al., 2012, section 4.1).

    The components are those of fb.resnet.torch.
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
    """Sets a random square to grey, as Cutout (DeVries & Taylor, 2017).

    Its side is a quarter to a half of the image's.
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


def elastic(images, seed, strength=3 / 40):
    """Displaces the pixels around four anchors by up to 3 pixels in 40.

    Matches tensorpack's GaussianDeform, which the authors' code uses on SVHN with these values.
    """
    batch, height, width, channels = ops.shape(images)
    rows = ops.reshape(ops.arange(height, dtype="float32"), (height, 1))
    columns = ops.reshape(ops.arange(width, dtype="float32"), (1, width))
    moves = strength * keras.random.uniform((batch, 4, 2), -1.0, 1.0, seed=seed)
    y, x = 0.0, 0.0
    for number, (anchor_y, anchor_x) in enumerate([(0.2, 0.2), (0.2, 0.8), (0.8, 0.8), (0.8, 0.2)]):
        pull = ops.exp(-((rows / height - anchor_y) ** 2 + (columns / width - anchor_x) ** 2) / 0.2)
        y += moves[:, number, 0][:, None, None] * pull
        x += moves[:, number, 1][:, None, None] * pull
    y = ops.clip(rows + height * y, 0.0, height - 1.0)  # (batch, height, width)
    x = ops.clip(columns + width * x, 0.0, width - 1.0)
    top, left = ops.floor(y), ops.floor(x)
    down, right = (y - top)[..., None], (x - left)[..., None]
    first = ops.reshape(ops.arange(batch, dtype="int32"), (-1, 1, 1)) * (height * width)
    pixels = ops.reshape(images, (-1, channels))

    def at(row, column):
        row, column = ops.cast(row, "int32"), ops.cast(column, "int32")
        return ops.take(pixels, first + ops.minimum(row, height - 1) * width + ops.minimum(column, width - 1), axis=0)

    above = (1 - right) * at(top, left) + right * at(top, left + 1)
    below = (1 - right) * at(top + 1, left) + right * at(top + 1, left + 1)
    return (1 - down) * above + down * below


def blur(images, seed, widest=1.0):
    """Applies a Gaussian blur with a random sigma for each image and axis, up to 1 pixel.

    The paper's text lists it for SVHN without parameters. Keras's layer draws one sigma for the whole batch.
    """
    batch, height, width, _ = ops.shape(images)
    for axis, length in ((1, height), (2, width)):
        sigma = keras.random.uniform((batch, 1, 1, 1), 1e-3, widest, seed=seed)
        padded = ops.pad(images, [[2, 2] if number == axis else [0, 0] for number in range(4)], mode="symmetric")
        blurred, total = 0.0, 0.0
        for shift in range(5):
            weight = ops.exp(-0.5 * ops.square((shift - 2) / sigma))
            shifted = slice(shift, shift + length)
            blurred += weight * (padded[:, shifted] if axis == 1 else padded[:, :, shifted])
            total += weight
        images = blurred / total
    return images


def mix_up(images, labels, seed, alpha=0.2):
    """Mixes each image and its one-hot label with another of the batch (Zhang et al., 2018).

    Keras's layer does the same but requests 64-bit numbers, for which JAX warns.
    """
    batch = ops.shape(images)[0]
    others = keras.random.shuffle(ops.arange(batch, dtype="int32"), seed=seed)
    share = keras.random.beta((batch, 1), alpha, alpha, seed=seed)
    labels = share * labels + (1 - share) * ops.take(labels, others, axis=0)
    share = share[:, :, None, None]
    return share * images + (1 - share) * ops.take(images, others, axis=0), labels


FUNCTIONS = {step.__name__: step for step in (pad_crop, flip, alternating_flip, color, lighting, erase, elastic, blur)}

# Keras's layers, created for each data set. AugMix is left out because Keras draws its operations in Python, once for
# the whole run.
LAYERS = {
    # The authors' code for SVHN: brightness, contrast, elastic, pad_crop.
    "brightness": lambda: keras.layers.RandomBrightness(10 / 255, value_range=(0, 1), data_format="channels_last"),
    # A single 0.2 would mean factors from 1 to 1.2.
    "contrast": lambda: keras.layers.RandomContrast((0.2, 0.2), value_range=(0, 1), data_format="channels_last"),
    # Cubuk et al., 2020. Keras draws the two operations per batch and their strength per image.
    "rand_augment": lambda: keras.layers.RandAugment(value_range=(0, 1), factor=0.15, data_format="channels_last"),
    # Zhong et al., 2020. Replaces a rectangle with noise in half of the images.
    "random_erasing": lambda: keras.layers.RandomErasing(value_range=(0, 1), data_format="channels_last"),
}

# Steps that mix images together with their one-hot labels.
MIXES = {
    "mix_up": lambda: mix_up,
    # Yun et al., 2019.
    "cut_mix": lambda: _from_layer(keras.layers.CutMix(data_format="channels_last"), mixes=True),
}

# Layers of keras-cv and their non-default arguments.
KERAS_CV = {
    # Cubuk et al., 2020. Unlike Keras's layer, draws operations per image: three, of medium strength.
    "keras_cv_rand_augment": ("RandAugment", {"value_range": (0, 1)}),
    # Hendrycks et al., 2020. Keras's layer draws its operations once for the whole run.
    "keras_cv_aug_mix": ("AugMix", {"value_range": (0, 1)}),
    # Chen et al., 2020.
    "keras_cv_grid_mask": ("GridMask", {}),
    "keras_cv_channel_shuffle": ("ChannelShuffle", {}),
}

STEPS = sorted([*FUNCTIONS, *LAYERS, *MIXES, *KERAS_CV])


def compose(steps):
    """Returns one function `(images, labels, seed) -> (images, labels)` that applies the named `STEPS` in order."""
    for step in steps:
        check_choice("augment", step, STEPS)
    functions = [_function(step) for step in steps]

    def augment(images, labels, seed):
        for function in functions:
            images, labels = function(images, labels, seed)
        return images, labels

    return augment


def _function(step):
    """Returns a step as a function `(images, labels, seed) -> (images, labels)`."""
    if step in MIXES:
        return MIXES[step]()
    if step in LAYERS:
        return _from_layer(LAYERS[step]())
    function = FUNCTIONS[step] if step in FUNCTIONS else _from_keras_cv(step)
    return lambda images, labels, seed: (function(images, seed), labels)


def _from_keras_cv(step):
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Steps of keras-cv need Keras's TensorFlow backend. Received: '{step}' on {keras.backend.backend()}. "
            "Keras's own `rand_augment` runs on every backend."
        )
    remedy = ". `pip install '.[cv]'` in the library's checkout installs it."
    with explained(f"`augment='{step}'` needs the package keras-cv: ", ImportError, end=remedy):
        from anytime_keras.data import keras_cv_steps
    return keras_cv_steps.step(*KERAS_CV[step])


def _from_layer(layer, mixes=False):
    """Wraps a Keras augmentation layer as a step that draws from our seed instead of the layer's."""

    def step(images, labels, seed):
        for part in [layer, *graph.sublayers(layer)]:
            if hasattr(part, "generator"):
                part.generator = seed
        transformation = layer.get_random_transformation(images, training=True, seed=seed)
        if mixes:
            labels = layer.transform_labels(labels, transformation, training=True)
        return layer.transform_images(images, transformation, training=True), labels

    return step
