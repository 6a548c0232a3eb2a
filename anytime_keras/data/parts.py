"""Packs a data set into a few files of bounded size, for training on a machine with little more than Python.

The folder contains `parts.json`, which describes the data set, and its images in `part-1.npz`, `part-2.npz` and so on:
the original files if there are any, otherwise PNG files for 8-bit grey and RGB images and raw values for all others.
"""

import concurrent.futures
import io
import json
import pathlib

import numpy as np
from PIL import Image

from anytime_keras import _files
from anytime_keras._checks import check_number
from anytime_keras._errors import explained
from anytime_keras.data import crops
from anytime_keras.data.examples import ArrayExamples, processors
from anytime_keras.data.sources import Source

FORMAT = 1
INDEX = "parts.json"


def pack(data_set, folder, part_mb=58.0):
    """Writes a data set's training and validation images, not the test images, as files for `ak.data.load(folder)`.

    Args:
        data_set: `DataSet` whose images are in memory.
        folder: output directory; must be new or empty.
        part_mb: float, maximum size of a part in units of 10**6 bytes.

    Returns:
        List of the files' paths, `parts.json` first.

    Raises:
        ValueError: if images are not in memory, an image is larger than a part, or the folder is not empty.

    Example:
    >>> import tempfile, anytime_keras as ak
    >>> folder = tempfile.mkdtemp()
    >>> paths = pack(ak.data.load("digits"), folder, part_mb=0.2)
    >>> len(paths), ak.data.load(folder).sizes
    (4, {'train': 1294, 'validation': 144})
    """
    check_number("part_mb", part_mb, "above 0", lambda value: value > 0)
    folder = pathlib.Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"`folder` must be new or empty. Received: '{folder}', which contains files.")
    splits = {split: data_set.examples[split] for split in ("train", "validation") if split in data_set.sizes}
    if not splits["train"].in_memory:
        raise ValueError(f"`pack` needs images in memory. Received: '{data_set.name}', which is read from disk.")
    folder.mkdir(parents=True, exist_ok=True)
    examples = splits["train"]
    pictures = examples.images.dtype == np.uint8 and examples.image_shape[-1] in (1, 3)
    encoding = "file" if examples.paths is not None else "png" if pictures else "raw"
    limit, paths, part, size = part_mb * 1e6 - 4096, [], [], 0  # leaves room for the headers of an .npz file
    records = ((split, label, content) for split in splits for label, content in _contents(splits[split], encoding))
    for record in records:
        if len(record[2]) + 32 > limit:
            raise ValueError(
                f"An image must fit into a part of {part_mb} MB. Received: an image of {len(record[2])} bytes. Choose "
                "a larger `part_mb`."
            )
        if size + len(record[2]) + 32 > limit:
            paths.append(_write(folder, len(paths) + 1, part))
            part, size = [], 0
        part.append(record)
        size += len(record[2]) + 32
    paths.append(_write(folder, len(paths) + 1, part))
    index = {
        "format": FORMAT,
        "name": data_set.name,
        "class_names": data_set.class_names,
        "image_shape": list(data_set.image_shape),
        "dtype": str(examples.images.dtype),
        "encoding": encoding,
        "split_seed": data_set.split_seed,
        "sizes": {split: len(examples) for split, examples in splits.items()},
        "parts": [{"path": path.name, "sha256": _files.sha256(path.read_bytes())} for path in paths],
    }
    _files.to_json(index, folder / INDEX)
    return [folder / INDEX, *paths]


def _contents(examples, encoding):
    """Yields (label, bytes) of each image."""
    for number, label in enumerate(examples.labels):
        if encoding == "file":
            content = pathlib.Path(examples.paths[number]).read_bytes()
        elif encoding == "png":
            image = examples.images[number]
            file = io.BytesIO()
            Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]).save(file, "png", optimize=True)
            content = file.getvalue()
        else:
            content = examples.images[number].tobytes()
        yield int(label), content


def _write(folder, number, records):
    path = folder / f"part-{number}.npz"
    np.savez(
        path,
        contents=np.frombuffer(b"".join(content for *_, content in records), "uint8"),
        ends=np.cumsum([len(content) for *_, content in records]),
        labels=np.array([label for _, label, _ in records], "int32"),
        validation=np.array([split == "validation" for split, *_ in records]),
    )
    return path


def load(path):
    """Reads a packed data set; raises ValueError if a part is missing, damaged, or from another data set."""
    what = f"'{path / INDEX}' does not describe the parts of a data set: "
    with explained(what, ValueError, KeyError, TypeError, end="."):
        index = json.loads((path / INDEX).read_text())
        if index["format"] != FORMAT:
            raise ValueError(f"its format must be {FORMAT}, but is {index['format']}")
        shape, dtype, encoding = tuple(index["image_shape"]), np.dtype(index["dtype"]), index["encoding"]
        parts = [(path / part["path"], part["sha256"]) for part in index["parts"]]
        name, class_names, sizes, seed = (index[key] for key in ("name", "class_names", "sizes", "split_seed"))
    images, labels, validation = [], [], []

    def decode(content):
        if encoding == "raw":
            return np.frombuffer(content, dtype).reshape(shape)
        return crops.to_array(crops.decode(content, "an image of a part", shape[-1]))

    with concurrent.futures.ThreadPoolExecutor(processors()) as pool:
        for part, sha256 in parts:
            content = part.read_bytes() if part.is_file() else b""
            if _files.sha256(content) != sha256:
                raise ValueError(f"'{part}' is missing or damaged: its hash is not the one in {INDEX}. Copy it again.")
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                whole, ends = arrays["contents"].tobytes(), arrays["ends"].tolist()
                labels.append(arrays["labels"])
                validation.append(arrays["validation"])
            files = (whole[begin:end] for begin, end in zip([0, *ends], ends))
            images.append(np.stack(list(pool.map(decode, files, chunksize=64))))
    images, labels, validation = map(np.concatenate, (images, labels, validation))
    splits = {"train": ~validation, "validation": validation}
    splits = {split: ArrayExamples(images[rows], labels[rows]) for split, rows in splits.items() if split in sizes}
    return Source(name, splits, class_names, split_seed=seed)
