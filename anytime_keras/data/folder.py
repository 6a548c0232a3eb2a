"""Reads splits of examples and class names from a folder of images."""

import concurrent.futures
import math
import pathlib
import warnings

import numpy as np

from anytime_keras import _errors
from anytime_keras.data import crops, sources
from anytime_keras.data.examples import ArrayExamples, FileExamples, Skipped
from anytime_keras.data.sources import Source

# Non-hidden leftovers of tools: macOS archives, recycle bins, thumbnails, settings, Python's bytecode.
LEFTOVERS = ["__macosx", "$recycle.bin", "#recycle", "@recycle", "@eadir", "system volume information", "lost+found"]
LEFTOVERS += ["thumbs.db", "desktop.ini", "__pycache__"]
EXTENSIONS = [".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".jp2", ".avif"]
EXTENSIONS += [".pbm", ".pgm", ".pnm", ".ppm"]


def load(path, image_size=None, skip_corrupt=False, name=None):
    """Reads a folder of images in tfds ImageFolder's layout: `path/<split>/<class>/<image>`, or `path/<class>/<image>`.

    Splits are `train`, `validation` (or `val`) and `test`. Hidden files and folders are ignored. Images of one size
    that fit into memory are read at once; others are cropped to `image_size` on demand. With `skip_corrupt`, images
    that cannot be decoded are skipped.
    """
    path = pathlib.Path(path)
    children = _folders(path)
    names = [child.name for child in children]
    split_of = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
    folders = {split_of[child.name]: child for child in children if child.name in split_of} or {"train": path}
    unknown = [name for name in names if name not in split_of]
    if {"val", "validation"} <= set(names):
        raise ValueError(f"'{path}' must have one validation split. Received: both `val` and `validation`. Merge them.")
    if folders.get("train", path) != path and unknown:
        raise ValueError(
            f"'{path}' must contain only splits. Received also: {unknown}. {_errors.nearest(unknown[0], split_of)}"
        )
    if "train" not in folders:
        raise ValueError(f"'{path}' needs a folder `train` with one folder of images per class. Received: {names}.")
    class_names = [child.name for child in _folders(folders["train"])]
    if not class_names:
        raise ValueError(
            f"'{folders['train']}' must contain one folder of images per class, as in `cat/1.png`. Received: none."
        )
    files = {split: _list_files(place, class_names) for split, place in folders.items()}
    return from_files(name or str(path), files, class_names, image_size, skip_corrupt)


def _list_files(place, class_names):
    """Returns (paths, labels) of the images of one split."""
    paths, labels = [], []
    expected = f"The classes of '{place}' must be those of the training images. Received: '{{}}'."
    _errors.check_known([child.name for child in _folders(place)], class_names, expected)
    for child in _folders(place):
        found = list_images(child)
        _check_class(child, found)
        paths.extend(found)
        labels.extend([class_names.index(child.name)] * len(found))
    if not paths:
        raise ValueError(f"'{place}' contains no images. Known file types: {', '.join(EXTENSIONS)}.")
    ignored = [file for child in _folders(place) for file in _entries(child) if file.is_file() and not _is_image(file)]
    ignored += [file for file in _entries(place) if _is_image(file) and not file.is_dir()]
    if ignored:
        warnings.warn(
            f"{len(ignored)} files in '{place}' are ignored, such as '{ignored[0].relative_to(place)}', because they "
            f"are not of a known image type ({', '.join(EXTENSIONS)}) or not in the folder of a class.",
            stacklevel=2,
        )
    return paths, np.array(labels)


def _check_class(folder, images):
    """Raises if a class has no images, or has images in subfolders, which are not read."""
    inside = [file for inner in _folders(folder) for file in inner.rglob("*")]
    deeper = [file for file in inside if _is_image(file) and not file.name.startswith(".")]
    if deeper:
        raise ValueError(
            f"The images of class '{folder.name}' must be in '{folder}' itself. Received: {len(deeper)} in folders "
            f"within it, such as '{deeper[0].relative_to(folder)}'. Move them up, or out of the data set."
        )
    if not images:
        others = ", ".join(sorted({file.suffix or file.name for file in _entries(folder)})) or "nothing"
        raise ValueError(
            f"Class '{folder.name}' contains no images: '{folder}' contains {others}. Known file types: "
            f"{', '.join(EXTENSIONS)}. Convert them, or remove the folder."
        )


def list_images(folder):
    """Returns the paths of the image files in a folder, sorted."""
    return [str(file) for file in _entries(folder) if _is_image(file)]


def _is_image(file):
    return file.suffix.lower() in EXTENSIONS


def _folders(path):
    return [child for child in _entries(path) if child.is_dir()]


def _entries(folder):
    """Returns a folder's entries, sorted, without hidden files and `LEFTOVERS`."""
    children = sorted(folder.iterdir())
    return [child for child in children if not child.name.startswith(".") and child.name.lower() not in LEFTOVERS]


def from_files(name, files, class_names, image_size=None, skip_corrupt=False):
    """Creates a source from `files`, a dict from split to (paths, labels). Other arguments are those of `load`."""
    skipped = Skipped() if skip_corrupt else None

    def cropped(size):
        splits = {split: FileExamples(*pair, (*size, 3), skipped) for split, pair in files.items()}
        return Source(name, splits, class_names, skipped)

    if image_size is not None:
        return cropped(image_size)
    if skip_corrupt:
        files = {split: _whole(paths, labels, skipped, split, class_names) for split, (paths, labels) in files.items()}
    first = files["train"][0][0]
    size = crops.size(first)

    def checked(path, size_of_this):
        if size_of_this != size:
            raise ValueError(
                f"The images of '{name}' have different sizes, so pass the size to crop them to, such as "
                f"`image_size=(224, 224)`. Received: '{first}' of {size}, '{path}' of {size_of_this}."
            )

    def read(paths):
        images = np.empty((len(paths), *size, 3), "uint8")

        def fill(number):
            image = crops.to_array(crops.decode(paths[number], paths[number]))
            checked(paths[number], image.shape[:2])
            images[number] = image

        list(pool.map(fill, range(len(paths))))
        return images

    with concurrent.futures.ThreadPoolExecutor() as pool:
        if 3 * math.prod(size) * sum(len(paths) for paths, _ in files.values()) > sources.IN_MEMORY_BYTES:
            for paths, _ in files.values():
                list(pool.map(lambda path: checked(path, crops.size(path)), paths))
            return cropped(size)
        images = {split: read(paths) for split, (paths, _) in files.items()}
    if all((array == array[..., :1]).all() for array in images.values()):
        images = {split: np.ascontiguousarray(array[..., :1]) for split, array in images.items()}  # grey
    splits = {split: ArrayExamples(images[split], labels, paths) for split, (paths, labels) in files.items()}
    return Source(name, splits, class_names, skipped)


def _whole(paths, labels, skipped, split, class_names):
    """Returns the (paths, labels) of a split's images that can be decoded. Every training class must have one."""

    def error_of(path):
        try:
            crops.decode(path, path)
        except crops.CorruptImage as error:
            return error

    with concurrent.futures.ThreadPoolExecutor() as pool:
        errors = list(pool.map(error_of, paths))
    if all(errors):
        raise errors[0]
    kept = [number for number, error in enumerate(errors) if error is None]
    if split == "train" and (lost := sorted(set(labels) - set(labels[kept]))):
        raise ValueError(
            f"No training image of class '{class_names[lost[0]]}' can be decoded. Received: "
            f"'{paths[list(labels).index(lost[0])]}' and others. Repair them, or remove the class."
        )
    for path, error in zip(paths, errors):
        if error is not None:
            skipped.add(path, error)
    return [paths[number] for number in kept], labels[kept]
