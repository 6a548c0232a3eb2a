"""Tiny ImageNet 200 from its published folder: 200 classes of ImageNet at 64x64, 500 training images each.

The published test images have no labels. As usual, the 10,000 published validation images serve as the test split, and
the validation split is held out of train.
"""

import numpy as np

from anytime_keras.data.folder import from_files, list_images
from anytime_keras.data.sources import tfds_directory

FOLDER = "tiny-imagenet-200"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


def is_folder(path):
    """Returns whether a folder has Tiny ImageNet's layout."""
    return all((path / part).exists() for part in ("wnids.txt", "train", "val/val_annotations.txt"))


def find(data_dir=None):
    """Returns the path of Tiny ImageNet: `data_dir` itself or `tiny-imagenet-200` in it; None is `tfds_directory()`."""
    place = tfds_directory(data_dir)
    for path in (place, place / FOLDER):
        if is_folder(path):
            return path
    raise ValueError(
        f"'tiny_imagenet' needs the folder '{place / FOLDER}' with wnids.txt, words.txt, train/ and val/. Received: "
        f"data_dir={data_dir!r} without it. Unpack {URL} there, or pass the `data_dir` that contains it."
    )


def load(path, image_size=None, skip_corrupt=False):
    """Reads the training images and, as the test split, the published validation images, all as RGB.

    Classes are numbered in the order of their WordNet IDs, as folder loaders do, not in the order of wnids.txt. Their
    names come from words.txt. Arguments are those of `folder.load`.
    """
    wnids = sorted((path / "wnids.txt").read_text().split())
    words = dict(line.split("\t", 1) for line in (path / "words.txt").read_text().splitlines() if "\t" in line)
    for wnid in wnids:
        if wnid not in words:
            raise ValueError(f"'{path / 'words.txt'}' must contain every class of wnids.txt. Received: no '{wnid}'.")
    files = {"train": _training_files(path / "train", wnids), "test": _validation_files(path / "val", wnids)}
    return from_files("tiny_imagenet", files, [words[wnid] for wnid in wnids], image_size, skip_corrupt)


def _training_files(place, wnids):
    paths, labels = [], []
    for label, wnid in enumerate(wnids):
        folder = place / wnid / "images"
        found = list_images(folder) if folder.is_dir() else []
        if not found:
            raise ValueError(f"'{folder}' must contain the training images of a class. Received: none.")
        paths.extend(found)
        labels.extend([label] * len(found))
    return paths, np.array(labels)


def _validation_files(place, wnids):
    """Returns the images listed in val_annotations.txt, whose lines are file name, class and box, separated by tabs."""
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    images = place / "images"
    there = {path.name for path in images.iterdir()} if images.is_dir() else ()
    paths, labels = [], []
    for line in filter(str.strip, (place / "val_annotations.txt").read_text().splitlines()):
        name, wnid = (line.split("\t") + [""])[:2]
        if wnid not in label_of:
            raise ValueError(f"'{place / 'val_annotations.txt'}' must give each image a class. Received: {line!r}.")
        if name not in there:
            raise ValueError(
                f"'{place / 'val_annotations.txt'}' must list images in '{images}'. Received: '{name}', which is not "
                "there. Unpack the data set again."
            )
        paths.append(str(images / name))
        labels.append(label_of[wnid])
    return paths, np.array(labels)
