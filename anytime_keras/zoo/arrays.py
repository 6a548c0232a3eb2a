"""Reads and writes weights as named arrays, in files that contain only numbers.

A file is an uncompressed NumPy .npz without pickles. The name, shape and type of each array are checked before it is
read, so that a file can neither run code nor exhaust the memory.
"""

import io
import zipfile

import keras
import numpy as np

from anytime_keras._checks import check_choice

SHARD_BYTES = 49_000_000  # below the schema's limit for files
PRECISIONS = ("float32", "float16")


def of_model(model):
    """Returns a dict from the path of each model variable, such as 'unit_1_conv_1/kernel', to an array."""
    return {variable.path: np.asarray(keras.ops.convert_to_numpy(variable)) for variable in model.weights}


def shards(arrays: dict[str, np.ndarray], precision: str = "float32", shard_bytes: int = SHARD_BYTES) -> list[bytes]:
    """Packs arrays, by name, into the contents of one or more files of up to `shard_bytes`.

    With `precision="float16"`, only kernels are stored in float16, because vectors are small and may exceed its range.
    """
    check_choice("precision", precision, PRECISIONS)
    groups: list[dict[str, np.ndarray]] = []
    room = 0
    for name, array in arrays.items():
        with np.errstate(over="ignore"):
            array = array.astype(precision if array.ndim > 1 else "float32")
        if not np.isfinite(array).all():
            raise ValueError(f"'{name}' contains values that are not finite in {array.dtype}. Received: {precision=}.")
        size = array.nbytes + 1024  # with headers
        if size > shard_bytes:
            raise ValueError(f"'{name}' must fit in a file of {shard_bytes} bytes. Received: {size}. Try 'float16'.")
        if size > room:
            groups.append({})
            room = shard_bytes
        groups[-1][name] = array
        room -= size
    return [pack(group) for group in groups]


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """Returns the content of an .npz file, which is the same for equal arrays."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # NumPy's stubs mistake arrays for its option
    return file.getvalue()


def unpack(content: bytes, shapes: dict[str, tuple | None], where: str) -> dict[str, np.ndarray]:
    """Reads the float32 arrays of an .npz file by name, or raises ValueError if it contains anything else.

    `shapes` maps each allowed name to the array's shape, or None for any shape; `where` is the file's name for errors.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name not in shapes or name in arrays:
                    raise ValueError(f"it contains an unexpected array, '{name:.100}'")
                if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(content):
                    raise ValueError(f"'{name}' is compressed")
                arrays[name] = _array(archive.read(member), shapes[name], name)
    except (ValueError, OSError, EOFError, KeyError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ValueError(f"'{where}' is not a weight file for this network: {error}.") from error
    return arrays


def _array(content, shape, name):
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"'{name}' has an unsupported .npy version")
    found, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.str not in ("<f4", "<f2"):
        raise ValueError(f"'{name}' has dtype {dtype}, expected float32 or float16")
    if shape is not None and found != tuple(shape):
        raise ValueError(f"'{name}' has shape {found}, expected {tuple(shape)}")
    if len(content) - file.tell() != dtype.itemsize * int(np.prod(found, dtype=object)):
        raise ValueError(f"'{name}' does not contain an array of shape {found}")
    return np.load(io.BytesIO(content), allow_pickle=False).astype("float32")


def assign(model, arrays, leave_out=()):
    """Assigns arrays, by path, to a model's variables, except those whose paths are in `leave_out`.

    Raises ValueError, and assigns nothing, if a variable has no array.
    """
    variables = [variable for variable in model.weights if variable.path not in leave_out]
    missing = [variable.path for variable in variables if variable.path not in arrays]
    if missing:
        raise ValueError(f"The weights lack {len(missing)} of the network's variables, such as '{missing[0]}'.")
    for variable in variables:
        variable.assign(arrays[variable.path])
