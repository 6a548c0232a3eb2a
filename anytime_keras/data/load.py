"""Loads data sets, holds out splits, normalises images and batches them."""

import functools
import numbers
import os
import pathlib

import keras
import numpy as np

from anytime_keras import _errors
from anytime_keras._checks import check_int, check_positive_list
from anytime_keras.data import augment as augmentation
from anytime_keras.data import folder, parts, sources, tiny_imagenet
from anytime_keras.data.batches import ArrayPipeline, TensorFlowPipeline
from anytime_keras.data.examples import StreamExamples


class DataSet:
    """A data set ready for `fit` and `evaluate`. Iterating yields `train, validation, test`.

    Attributes:
        name: str.
        num_classes: int.
        class_names: list of str.
        image_shape: (height, width, channels).
        sizes: dict from split to number of images.
        mean, std: arrays of shape (channels,), of the training images with values from 0 to 1.
        batch_size, seed, split_seed: ints.
        augment: list of the augmentation steps for training images.
        one_hot: bool, whether labels are float vectors.
        skipped: list of paths, the corrupt images skipped so far; see `load`.

    `load` creates it from a `source` of examples.

    Example:
    >>> import anytime_keras as ak
    >>> data = ak.data.load("digits", batch_size=64)
    >>> data.sizes, data.steps_per_epoch, data.image_shape
    ({'train': 1294, 'validation': 144, 'test': 359}, 21, (8, 8, 1))
    >>> [tuple(part.shape) for part in next(iter(data.test))]
    [(64, 8, 8, 1), (64,)]
    """

    def __init__(self, source, batch_size, augment, seed, split_seed, one_hot):
        self.name, self.class_names = source.name, list(source.class_names)
        self.num_classes = len(self.class_names)
        self.batch_size, self.seed, self.split_seed = batch_size, seed, split_seed
        self.augment = list(augment)
        self.one_hot = one_hot or any(step in augmentation.MIXES for step in self.augment)
        self.examples, self._skipped = source.splits, source.skipped
        if "alternating_flip" in self.augment and isinstance(self.examples["train"], StreamExamples):
            raise ValueError(
                "`alternating_flip` needs images in memory or in a folder, because it must recognize each image. "
                f"Received: '{self.name}', which is read sequentially. Use `flip`."
            )
        self.sizes = {split: len(examples) for split, examples in self.examples.items()}
        self.image_shape = self.examples["train"].image_shape
        self.normalize(*self.examples["train"].moments())

    def normalize(self, mean, std):
        """Normalises images by these statistics instead of the training images'. Call it before taking any batch.

        Args:
            mean, std: arrays of shape (channels,), for values from 0 to 1.
        """
        self.mean, self.std = np.asarray(mean), np.maximum(std, 1e-6)
        augment = augmentation.compose(self.augment) if self.augment else None
        num_classes = self.num_classes if self.one_hot else None
        options = (self.batch_size, self.mean, self.std, augment, num_classes, self.seed)
        kind = TensorFlowPipeline if keras.backend.backend() == "tensorflow" else ArrayPipeline
        self._pipelines = {split: kind(examples, *options) for split, examples in self.examples.items()}

    def __getstate__(self):
        derived = ("_pipelines", "train", "validation", "test")  # hold TensorFlow's data sets and tensors
        return {name: value for name, value in vars(self).items() if name not in derived}

    def __setstate__(self, state):
        vars(self).update(state)
        self.normalize(self.mean, self.std)

    @functools.cached_property
    def train(self):
        """Training batches of one epoch, reshuffled and augmented again on each iteration."""
        return self._pipelines["train"].training()

    @functools.cached_property
    def validation(self):
        """Validation batches in fixed order, or None if nothing was held out."""
        return self._pipelines["validation"].evaluation() if "validation" in self._pipelines else None

    @functools.cached_property
    def test(self):
        """Test batches in fixed order, or None."""
        return self._pipelines["test"].evaluation() if "test" in self._pipelines else None

    @property
    def skipped(self):
        return sorted(self._skipped.paths) if self._skipped is not None else []

    @property
    def steps_per_epoch(self):
        """int, training batches per epoch."""
        return self._pipelines["train"].steps

    def pipeline(self, split):
        """Returns the `Pipeline` that batches a split's stored examples, or None if there is no such split."""
        return self._pipelines.get(split)

    def training_stream(self, first_epoch=0, first_step=0, whole=False, side=None):
        """Returns endless training batches for `fit(..., steps_per_epoch=data.steps_per_epoch)`.

        Each epoch's order and augmentation depend only on the seed and the epoch's number.

        Args:
            first_epoch, first_step: ints, where to start.
            whole: bool, whether to drop each epoch's last batch if it is smaller; an epoch then has `whole_steps`.
            side: function from (epoch, step) to the images' short side in pixels; None keeps their size.
        """
        return self._pipelines["train"].training_stream(first_epoch, first_step, whole, side)

    def __iter__(self):
        return iter((self.train, self.validation, self.test))

    def describe(self):
        """Returns the data set's preprocessing and splits as plain data."""
        own = ("name", "num_classes", "class_names", "sizes", "split_seed", "augment")
        return {
            **{name: getattr(self, name) for name in own},
            "image_shape": list(self.image_shape),
            "mean": [float(value) for value in self.mean],
            "std": [float(value) for value in self.std],
        }

    def __repr__(self):
        sizes = ", ".join(f"{split}={size}" for split, size in self.sizes.items())
        return f"DataSet('{self.name}', {sizes}, image_shape={self.image_shape}, num_classes={self.num_classes})"


def load(
    data,
    batch_size=128,
    validation=None,
    test=0.2,
    augment="default",
    image_size=None,
    seed=0,
    split_seed=0,
    one_hot=False,
    data_dir=None,
    download=True,
    skip_corrupt=False,
):
    """Loads a data set as batches of (image, label).

    Images are float32 of shape `(batch, height, width, channels)`, normalised per channel by the mean and standard
    deviation of the training images; labels are int32 of shape `(batch,)`. Batches are `tf.data.Dataset`s on
    TensorFlow and `keras.utils.PyDataset`s on other backends.

    Args:
        data: one of

            - a name: `"digits"`, `"cifar10"`, any image classification data set of tensorflow-datasets, or
              `"tiny_imagenet"`, whose published folder must be in `data_dir`;
            - a folder of images, `folder/<split>/<class>/<image>` or `folder/<class>/<image>`, or a folder that `pack`
              wrote;
            - an `.npz` file or a dict of arrays `x_train`, `y_train` and optionally `x_validation`, `y_validation`,
              `x_test`, `y_test`; or a pair `(x, y)`.
        batch_size: int.
        validation: fraction or number of training images to hold out, stratified by class; 0 for none; None for the
            data set's default, see `anytime_keras.data.defaults`; `"last"` for that number of the last training images
            in stored order, as the paper holds out the last 5000 of CIFAR. Ignored if the data has a validation split.
        test: as `validation`. Ignored if the data has a test split.
        augment: list of steps for training images (`anytime_keras.data.AUGMENTATION_STEPS`), or one string of steps
            separated by commas; `"default"` for the data set's augmentation in the paper's text; or None. The authors'
            code uses `"brightness,contrast,elastic,pad_crop"` for SVHN. Steps from keras-cv need its extra
            (`pip install '.[cv]'` in the checkout) and TensorFlow.
        image_size: (height, width) to crop to, for images of different sizes: the central crop after resizing the short
            side to 256/224 of the crop's, or in training a random crop of random size.
        seed: int, for shuffling and augmentation.
        split_seed: int, for the held-out images, so that runs with different seeds share their test images.
        one_hot: bool, whether labels are float vectors of shape `(batch, num_classes)`. They always are if `augment`
            mixes images (`mix_up`, `cut_mix`).
        data_dir: directory of tensorflow-datasets' data or Tiny ImageNet; None is tensorflow-datasets' default.
        download: bool, whether tensorflow-datasets may download.
        skip_corrupt: bool, for folders of images: whether to skip images that cannot be decoded, warn about each, and
            list them in the data set's `skipped`; otherwise the first raises an error that names it. If images are read
            on demand, a corrupt training image is replaced by the next readable one; an evaluation batch gets smaller,
            and still raises if none of its images is readable.

    Returns:
        A `DataSet`.

    Raises:
        ValueError: if the data set is unknown, a file is not an image, or a label or an argument is out of range.

    Example:
    >>> import anytime_keras as ak
    >>> data = ak.data.load("digits", batch_size=64)
    >>> data
    DataSet('digits', train=1294, validation=144, test=359, image_shape=(8, 8, 1), num_classes=10)
    >>> train, validation, test = data
    """
    batch_size = check_int("batch_size", batch_size)
    seed, split_seed = check_int("seed", seed, 0), check_int("split_seed", split_seed, 0)
    if image_size is not None:
        pair = (image_size, image_size) if isinstance(image_size, numbers.Integral) else image_size
        image_size = check_positive_list("image_size", pair, "(height, width), two positive ints", length=2)
    if augment is not None and not isinstance(augment, (str, list, tuple)):
        raise ValueError(f"`augment` must be 'default', None or a list of steps. Received: augment={augment!r}.")
    if isinstance(augment, str) and augment != "default":
        augment = [step.strip() for step in augment.split(",") if step.strip()]
    augmentation.compose([] if augment in ("default", None) else augment)

    source = _read(data, image_size, data_dir, download, skip_corrupt)
    _check_source(source, image_size, skip_corrupt)
    known = sources.defaults(source.name)
    if source.split_seed is not None:
        split_seed = source.split_seed
    else:
        if "test" not in source.splits and test:
            _hold_out(source, "test", test, split_seed)
        last = validation == "last"
        validation = known.validation if validation is None or last else validation
        if "validation" not in source.splits and validation:
            _hold_out(source, "validation", validation, split_seed, last)
    order = [split for split in ("train", "validation", "test") if split in source.splits]
    source.splits = {split: source.splits[split] for split in order}
    augment = known.augment if augment == "default" else augment or ()
    return DataSet(source, batch_size, augment, seed, split_seed, one_hot)


def _read(data, image_size, data_dir, download, skip_corrupt):
    if isinstance(data, dict):
        return sources.arrays(data)
    if isinstance(data, (tuple, list)) and len(data) == 2:
        return sources.arrays({"x_train": data[0], "y_train": data[1]})
    if not isinstance(data, (str, os.PathLike)) or not str(data):
        raise ValueError(f"`data` must be a name, a path, a dict of arrays or a pair (x, y). Received: {data!r:.60}.")
    path, name = pathlib.Path(data), str(data)
    if path.is_dir():
        if (path / parts.INDEX).is_file():
            return parts.load(path)
        read = tiny_imagenet.load if tiny_imagenet.is_folder(path) else folder.load
        return read(path, image_size, skip_corrupt)
    if path.is_file():
        if path.suffix != ".npz":
            raise ValueError(f"A data file must be an .npz of arrays. Received: '{path}'. Or pass a folder of images.")
        return sources.npz(path)
    if name == "digits":
        return sources.digits()
    if name == "tiny_imagenet":
        return tiny_imagenet.load(tiny_imagenet.find(data_dir), image_size, skip_corrupt)
    if path.is_absolute() or path.suffix == ".npz" or name.startswith((".", "~")):
        raise ValueError(f"There is no file or folder '{data}'. {_errors.nearest(data, sources.names())}")
    return sources.from_tfds(name, image_size, data_dir, download)


def _check_source(source, image_size, skip_corrupt):
    """Raises ValueError if a source does not fit the arguments of `load`, or its images or labels are not usable."""
    name, classes = source.name, len(source.class_names)
    if skip_corrupt and source.skipped is None:
        raise ValueError(f"`skip_corrupt` is for folders of images. Received: '{name}'. Omit it.")
    shapes = {split: examples.image_shape for split, examples in source.splits.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"The images of '{name}' must have one shape in all splits. Received: {shapes}.")
    if image_size is not None and shapes["train"][:2] != image_size:
        raise ValueError(
            f"`image_size` is for image files, which are cropped to it. Received: image_size={image_size} for '{name}' "
            f"with images of shape {shapes['train']}. Omit it."
        )
    if classes < 2:
        raise ValueError(f"'{name}' must have at least two classes. Received: {source.class_names}.")
    for split, examples in source.splits.items():
        labels = np.asarray([] if examples.labels is None else examples.labels)
        wrong = np.flatnonzero((labels < 0) | (labels >= classes))
        if len(wrong):
            raise ValueError(
                f"Labels must be from 0 to {classes - 1}, the {classes} classes of '{name}'. Received: "
                f"{int(labels[wrong[0]])} for image {wrong[0]} of split '{split}'."
            )


def _hold_out(source, split, amount, seed, last=False):
    train = source.splits["train"]
    if train.labels is None:  # read sequentially, so hold out the last examples
        divided = train.divided(_number(amount, len(train), split))
    elif last:
        indices = np.split(np.arange(len(train)), [-_number(amount, len(train), split)])
        divided = map(train.subset, indices)
    else:
        divided = map(train.subset, hold_out(train.labels, amount, [seed, len(split)], split))
    source.splits["train"], source.splits[split] = divided


def hold_out(labels: np.ndarray, amount: float, seed: int | list[int], what: str) -> tuple[np.ndarray, np.ndarray]:
    """Selects a fraction or a number of examples to hold out, stratified by class.

    Returns the sorted indices kept and held out. Every class keeps at least one example. Raises ValueError, which names
    the split `what`, if nothing would be kept or held out.
    """
    wanted = _number(amount, len(labels), what)
    rng = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    shares = wanted * counts / len(labels)
    taken = np.floor(shares).astype(int)
    rest = np.argsort(-(shares - taken), kind="stable")[: wanted - taken.sum()]
    taken[rest] += 1
    taken = np.minimum(taken, counts - 1)
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:number] for label, number in zip(classes, taken)]
    held = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(labels)), held), held


def _number(amount: float, available: int, what: str) -> int:
    """Converts a fraction or a number of examples to a number, or raises; see `hold_out`."""
    whole = isinstance(amount, numbers.Integral)
    share = isinstance(amount, numbers.Real) and not whole and 0 < amount < 1
    wanted = int(amount) if whole else round(amount * available) if share else 0
    if isinstance(amount, bool) or not 0 < wanted < available:
        raise ValueError(
            f"`{what}` must be a fraction between 0 and 1, or a number of examples below that of the training images. "
            f"Received: {what}={amount!r} with {available} training images."
        )
    return wanted
