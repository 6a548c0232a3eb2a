"""Weights as arrays by name, in files that hold numbers and nothing else.

A file is NumPy's .npz without compression and without pickles: what it holds is checked by name, shape and type before
a number is read, so a file can neither run code nor fill the memory.
"""

import io
import zipfile

import keras
import numpy as np

# Of the shards that are written; the schema allows no larger file.
SHARD_BYTES = 49_000_000
PRECISIONS = ("float32", "float16")


def of_model(model):
    """Returns a model's variables as a dict from their paths, such as 'unit_1_conv_1/kernel', to arrays."""
    return {variable.path: np.asarray(keras.ops.convert_to_numpy(variable)) for variable in model.weights}


def shards(arrays, precision="float32", shard_bytes=SHARD_BYTES):
    """Packs arrays into the contents of one file or more.

    Args:
        arrays: dict from names to arrays of floats.
        precision: `"float32"`, or `"float16"` for the kernels; vectors (biases, normalisation) are few, reach beyond
            float16's range, and stay float32.
        shard_bytes: int, the most that a file may hold.

    Returns:
        A list of bytes.

    Raises:
        ValueError: if an array does not fit into a file, or is not finite in this precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {PRECISIONS}. Received: precision={precision!r}.")
    groups, room = [], 0
    for name, array in arrays.items():
        with np.errstate(over="ignore"):
            array = array.astype(precision if array.ndim > 1 else "float32")
        if not np.isfinite(array).all():
            raise ValueError(f"'{name}' holds values that are not finite in {array.dtype}. Received: {precision=}.")
        size = array.nbytes + 1024  # with its headers
        if size > shard_bytes:
            raise ValueError(f"'{name}' takes {size} bytes, more than a file may hold ({shard_bytes}). Try 'float16'.")
        if size > room:
            groups.append({})
            room = shard_bytes
        groups[-1][name] = array
        room -= size
    return [pack(group) for group in groups]


def pack(arrays):
    """Returns the content of an .npz file; equal arrays give equal bytes."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def unpack(content, shapes, where):
    """Reads the arrays of an .npz file.

    Args:
        content: bytes.
        shapes: dict from each name that the file may hold to the array's shape, None for any up to the file's size.
        where: str, the file's name for errors.

    Returns:
        A dict from names to float32 arrays.

    Raises:
        ValueError: if the file is not such an .npz, or holds anything else.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name not in shapes or name in arrays:
                    raise ValueError(f"it holds an array that does not belong there, '{name:.100}'")
                if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(content):
                    raise ValueError(f"'{name}' is compressed")
                arrays[name] = _array(archive.read(member), shapes[name], name)
    except (ValueError, OSError, EOFError, KeyError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ValueError(f"'{where}' is no file of weights for this network: {error}.") from error
    return arrays


def _array(content, shape, name):
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"'{name}' is of another format")
    found, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.str not in ("<f4", "<f2"):
        raise ValueError(f"'{name}' holds {dtype}, expected float32 or float16")
    if shape is not None and found != tuple(shape):
        raise ValueError(f"'{name}' has shape {found}, expected {tuple(shape)}")
    if len(content) - file.tell() != dtype.itemsize * int(np.prod(found, dtype=object)):
        raise ValueError(f"'{name}' does not hold an array of shape {found}")
    return np.load(io.BytesIO(content), allow_pickle=False).astype("float32")


def assign(model, arrays, leave_out=()):
    """Gives a model's variables the arrays' values, by name.

    Args:
        model: built model.
        arrays: dict from the variables' paths to arrays.
        leave_out: collection of paths of variables that keep their values.

    Raises:
        ValueError: if a variable has no array; nothing has been assigned then.
    """
    variables = [variable for variable in model.weights if variable.path not in leave_out]
    missing = [variable.path for variable in variables if variable.path not in arrays]
    if missing:
        raise ValueError(f"The weights lack {len(missing)} of the network's variables, such as '{missing[0]}'.")
    for variable in variables:
        variable.assign(arrays[variable.path])
