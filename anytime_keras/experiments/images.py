"""Makes small image data sets from large ones, for experiments that converge on a CPU."""

import pathlib

import numpy as np

from anytime_keras.data.splits import hold_out


def small_images(source, folder, side=16, train=5000, validation=2000):
    """Scales a data set's images down by area averaging and keeps a part of the training images, stratified by class.

    Args:
        source: path of an `.npz` file with arrays x_train, y_train, x_test and y_test; images of uint8 whose height and
            width are multiples of `side`.
        folder: directory of the result, `<name>_<side>px.npz`. Experiments do not augment images of such a name.
        side: int, height and width of the small images.
        train, validation: ints, numbers of images to keep from x_train. All test images are kept.

    Returns:
        The result's path.

    Raises:
        ValueError: if the images' size is not a multiple of `side`, or there are too few.

    Example:
    >>> import os, tempfile
    >>> source = os.path.join(tempfile.mkdtemp(), "cifar10.npz")
    >>> labels = np.arange(40) % 2
    >>> images = np.zeros((40, 32, 32, 3), "uint8")
    >>> np.savez(source, x_train=images, y_train=labels, x_test=images, y_test=labels)
    >>> small_images(source, os.path.dirname(source), train=20, validation=8).name
    'cifar10_16px.npz'
    """
    with np.load(source) as file:
        arrays = dict(file)
    height, width = arrays["x_train"].shape[1:3]
    if height % side or width % side:
        raise ValueError(f"Height and width must be multiples of side={side}. Received: images of {height}x{width}.")

    def scaled(images):
        blocks = images.reshape(len(images), side, height // side, side, width // side, -1)
        return np.rint(blocks.mean((2, 4), dtype="float64")).astype("uint8")

    kept, held = hold_out(arrays["y_train"], validation, 0, "validation")
    chosen = kept[hold_out(arrays["y_train"][kept], train, 0, "train")[1]]
    path = pathlib.Path(folder) / f"{pathlib.Path(source).stem}_{side}px.npz"
    parts = {"train": ("train", chosen), "validation": ("train", held), "test": ("test", slice(None))}
    made = {f"x_{name}": scaled(arrays[f"x_{split}"][index]) for name, (split, index) in parts.items()}
    made.update({f"y_{name}": arrays[f"y_{split}"][index] for name, (split, index) in parts.items()})
    np.savez(path, **made, **{name: arrays[name] for name in arrays if name == "class_names"})
    return path
