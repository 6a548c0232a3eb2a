"""Makes small image data sets from large ones, for experiments that converge on a CPU."""

import pathlib

import numpy as np

from anytime_keras._checks import check_int
from anytime_keras.data import sources
from anytime_keras.data.load import hold_out


def small_images(source, folder, side=16, train=5000, validation=2000):
    """Scales the images of an `.npz` file down by area averaging and writes `<name>_<side>px.npz` to a folder.

    Returns its path. Keeps all test images and a part of the training images, stratified by class. Experiments do not
    augment images of such a name.
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
    arrays = {"class_names": found.class_names}
    parts = dict(train=given["train"].subset(chosen), validation=given["train"].subset(held), test=given["test"])
    for name, part in parts.items():
        blocks = part.images.reshape(len(part), side, height // side, side, width // side, -1)
        arrays[f"x_{name}"] = np.rint(blocks.mean((2, 4), dtype="float64")).astype("uint8")
        arrays[f"y_{name}"] = part.labels
    path = pathlib.Path(folder) / f"{pathlib.Path(source).stem}_{side}px.npz"
    np.savez(path, **arrays)
    return path
