"""Makes small image data sets from large ones, for experiments that converge on a CPU."""

import pathlib

import numpy as np

from anytime_keras._checks import check_int
from anytime_keras.data import sources
from anytime_keras.data.splits import hold_out


def small_images(source, folder, side=16, train=5000, validation=2000):
    """Scales a data set's images down by area averaging and keeps a part of the training images, stratified by class.

    Args:
        source: path of an `.npz` file with arrays x_train, y_train, x_test, y_test and optionally class_names; images
            of uint8 whose height and width are multiples of `side`.
        folder: directory of the result, `<name>_<side>px.npz`. Experiments do not augment images of such a name.
        side: int, height and width of the small images.
        train, validation: ints, numbers of images to keep from x_train. All test images are kept.

    Returns:
        The result's path.

    Raises:
        ValueError: if the file has other arrays, the images' size is not a multiple of `side`, or there are too few.

    Example:
    >>> import os, tempfile
    >>> source = os.path.join(tempfile.mkdtemp(), "cifar10.npz")
    >>> labels = np.arange(40) % 2
    >>> images = np.zeros((40, 32, 32, 3), "uint8")
    >>> np.savez(source, x_train=images, y_train=labels, x_test=images, y_test=labels)
    >>> small_images(source, os.path.dirname(source), train=20, validation=8).name
    'cifar10_16px.npz'
    """
    check_int("side", side)
    found = sources.npz(source)
    given = found.splits
    if "test" not in given or any(examples.images.dtype != np.uint8 for examples in given.values()):
        received = ", ".join(f"{split} of {examples.images.dtype}" for split, examples in given.items())
        raise ValueError(f"'{source}' must hold images of uint8, `x_train` and `x_test`. Received: {received}.")
    height, width = given["train"].image_shape[:2]
    if height % side or width % side:
        raise ValueError(f"Height and width must be multiples of side={side}. Received: images of {height}x{width}.")

    labels = given["train"].labels
    kept, held = hold_out(labels, validation, 0, "validation")
    chosen = kept[hold_out(labels[kept], train, 0, "train")[1]]
    parts = dict(train=given["train"].subset(chosen), validation=given["train"].subset(held), test=given["test"])
    arrays = {}
    for name, part in parts.items():
        blocks = part.images.reshape(len(part.images), side, height // side, side, width // side, -1)
        arrays[f"x_{name}"] = np.rint(blocks.mean((2, 4), dtype="float64")).astype("uint8")
        arrays[f"y_{name}"] = part.labels
    path = pathlib.Path(folder) / f"{pathlib.Path(source).stem}_{side}px.npz"
    np.savez(path, **arrays, class_names=found.class_names)
    return path
