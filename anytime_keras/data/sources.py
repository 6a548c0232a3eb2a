"""Reads splits of examples and class names from a named data set, arrays or an .npz file."""

import dataclasses
import math
import os
import pathlib
import zipfile
import zlib

import numpy as np

from anytime_keras import _errors
from anytime_keras._lazy import tfds
from anytime_keras.data.examples import ArrayExamples, Skipped, StreamExamples

IN_MEMORY_BYTES = 4 * 2**30  # larger data sets are read from disk on demand


@dataclasses.dataclass
class Source:
    """A data set's contents before splits are held out."""

    name: str
    splits: dict  # examples of "train" and, if the data set has them, "validation" and "test"
    class_names: list
    skipped: Skipped | None = None  # if images that cannot be decoded are skipped
    split_seed: int | None = None  # if splits are already held out


@dataclasses.dataclass(frozen=True)
class Known:
    """Default settings of a named data set."""

    splits: dict  # from our split to tensorflow-datasets'
    augment: tuple  # steps for training
    validation: float = 0.1  # number or fraction of training images to hold out
    image_size: tuple | None = None  # (height, width) to crop to, if images have different sizes


# The paper's four data sets (section 5.1) and Tiny ImageNet. Validation sizes are ours where the paper gives none.
KNOWN = {
    "cifar10": Known({"train": "train", "test": "test"}, ("pad_crop", "flip"), 5000),
    "cifar100": Known({"train": "train", "test": "test"}, ("pad_crop", "flip"), 5000),
    "svhn_cropped": Known({"train": "train+extra", "test": "test"}, ("pad_crop", "blur"), 6000),
    "imagenet2012": Known({"train": "train", "test": "validation"}, ("flip", "color", "lighting"), 10000, (224, 224)),
    "tiny_imagenet": Known({}, ("pad_crop", "flip")),
}


def tfds_directory(data_dir=None):
    """Returns the directory of tensorflow-datasets' data."""
    path = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return _errors.expanded(path, "Pass the `data_dir` that contains the data set, or set TFDS_DATA_DIR to it.")


def known_name(data):
    """Returns the key of `KNOWN` that a name, versioned name, file or folder refers to, or None.

    >>> known_name("imagenet2012:5.1.0"), known_name("/data/svhn_cropped.npz"), known_name("cifar10_n")
    ('imagenet2012', 'svhn_cropped', None)
    """
    text = str(data)
    file = pathlib.PurePath(text.removesuffix(".npz")).name
    candidates = (file,) if text.endswith(".npz") else (text.split(":")[0].split("/")[0], file)
    return next((name for name in candidates if name in KNOWN), None)


def defaults(data):
    """Returns the default settings of a data set.

    Args:
        data: str, a name, with or without a version, or the path of a file or folder of that name.

    Returns:
        An object with the `splits` of tensorflow-datasets, and the `augment`, `validation` and `image_size` of `load`.

    Example:
    >>> defaults("cifar10:3.0.2").augment, defaults("flowers").validation
    (('pad_crop', 'flip'), 0.1)
    """
    return KNOWN.get(known_name(data), Known({}, ()))


def names():
    """Lists the data sets with defaults here; any other name refers to tensorflow-datasets.

    >>> names()
    ['cifar10', 'cifar100', 'digits', 'imagenet2012', 'svhn_cropped', 'tiny_imagenet']
    """
    return sorted(["digits", *KNOWN])


def digits():
    """Returns scikit-learn's bundled handwritten digits: 1,797 grey 8x8 images, values from 0 to 1."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    images = (bundle.images / 16.0).astype("float32")[..., np.newaxis]
    return Source("digits", {"train": ArrayExamples(images, bundle.target)}, list(map(str, bundle.target_names)))


def arrays(arrays, name="arrays"):
    """Reads arrays `x_train`, `y_train` and optionally `x_validation`, `y_validation`, `x_test`, `y_test`."""
    known = [f"{axis}_{split}" for split in ("train", "validation", "test") for axis in "xy"]
    _errors.check_known(arrays, [*known, "class_names"], f"'{name}' contains an unknown array. Received: '{{}}'.")
    splits = {}
    for split in ("train", "validation", "test"):
        pair = [arrays[f"{axis}_{split}"] for axis in "xy" if arrays.get(f"{axis}_{split}") is not None]
        if len(pair) == 1 or (split == "train" and not pair):
            raise ValueError(f"'{name}' needs both `x_{split}` and `y_{split}`. Received: {sorted(arrays)}.")
        if pair:
            splits[split] = _checked(*map(np.asarray, pair), split, name)
    class_names = arrays.get("class_names")
    if class_names is None:
        found = np.unique(splits["train"].labels)
        if found[0] != 0 or found[-1] != len(found) - 1:
            raise ValueError(
                f"`y_train` of '{name}' must contain every class from 0 to the last. Received: {len(found)} classes "
                f"from {found[0]} to {found[-1]}. Number them without gaps, or name all in `class_names`."
            )
        class_names = range(len(found))
    if np.ndim(class_names) != 1:
        raise ValueError(f"`class_names` of '{name}' must be a list of names. Received: {class_names!r:.100}.")
    return Source(name, splits, list(map(str, class_names)))


def _checked(images, labels, split, name):
    where = f"`x_{split}` of '{name}'"
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or not len(images):
        raise ValueError(
            f"{where} must have shape (n, height, width, channels), n above 0. Received: shape {images.shape}."
        )
    if images.dtype != np.uint8:
        if not np.issubdtype(images.dtype, np.floating):
            raise ValueError(f"{where} must be uint8 (0 to 255) or floats. Received: dtype {images.dtype}.")
        images = images.astype("float32")
        if not (finite := np.isfinite(images).all(axis=(1, 2, 3))).all():
            raise ValueError(f"{where} must be finite. Received: NaN or infinity in image {finite.argmin()}.")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"`y_{split}` of '{name}' must be {len(images)} ints. Received: shape {labels.shape}, dtype {labels.dtype}."
        )
    return ArrayExamples(images, labels)


def npz(path):
    """Reads an .npz file of the arrays that `arrays` takes."""
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            return arrays(dict(file), name=str(path))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(f"'{path}' is no .npz file of arrays: {error}.") from error


def from_tfds(name, image_size=None, data_dir=None, download=True):
    """Loads a classification data set of tensorflow-datasets, whose name may contain a config and a version."""
    tfds_directory(data_dir)  # without a home directory, tensorflow-datasets would write to a folder named `~`
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise ValueError(
            f"There is no data set or folder '{name}'. "
            f"{_errors.nearest(name, [*names(), *tfds.list_builders()], most=10)}"
        ) from error
    features = builder.info.features
    kinds = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = kinds.get("image"), kinds.get("label")
    if not (isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel)):
        raise ValueError(
            f"'{name}' of tensorflow-datasets must consist of images with one class each. Received: {features}."
        )
    if download:
        builder.download_and_prepare()
    available = builder.info.splits
    if not available:
        raise ValueError(f"'{name}' is not on this machine. Pass `download=True`, or the `data_dir` that contains it.")
    known = defaults(name)
    splits = known.splits or {split: split for split in ("train", "validation", "test") if split in available}
    if "train" not in splits:
        raise ValueError(f"'{name}' has no split 'train'. It has {list(available)}.")
    image_size, shape = image_size or known.image_size, image.shape
    if image_size is None and None in shape[:2]:
        raise ValueError(f"The images of '{name}' have different sizes. Crop them with `image_size=(224, 224)`.")
    count = sum(available[split].num_examples for split in splits.values())
    in_memory = image_size is None and math.prod(shape) * count <= IN_MEMORY_BYTES
    shape = (*(image_size or shape[:2]), shape[-1] or 3)

    def read(split):
        if not in_memory:
            return StreamExamples(builder, split, shape)
        examples = list(tfds.as_numpy(builder.as_dataset(split=split)))
        images, labels = ([example[key] for example in examples] for key in ("image", "label"))
        return ArrayExamples(np.stack(images), np.array(labels))

    return Source(name, {ours: read(theirs) for ours, theirs in splits.items()}, label.names)
