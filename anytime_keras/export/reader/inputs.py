"""The inputs of an exported network."""

import numpy as np


def by_name(x, specs, batch_size=None):
    """Validates inputs (an array, a list, or a dict by key) and returns them as a dict from name to array.

    `specs` are the `"inputs"` of the description. A `batch_size` of None accepts any.
    """
    keys = [spec["key"] for spec in specs]
    if isinstance(x, dict):
        if set(x) != set(keys):
            raise ValueError(f"The network's inputs are {keys}. Received: {list(x)}.")
        arrays = [x[key] for key in keys]
    elif len(keys) > 1:
        arrays = list(x) if isinstance(x, (list, tuple)) else [x]
    else:  # nested lists of numbers are valid arrays too, so recognize `[x]` by the rank of `x`
        in_list = isinstance(x, (list, tuple)) and len(x) == 1 and np.ndim(x[0]) == len(specs[0]["shape"])
        arrays = x if in_list else [x]
    if len(arrays) != len(keys):
        raise ValueError(f"The network takes {len(keys)} inputs, {keys}. Received: {len(arrays)}.")
    tensors = {}
    for array, spec in zip(arrays, specs):
        array = np.asarray(array)
        expected = [batch_size, *spec["shape"][1:]]
        fits = array.ndim == len(expected) and all(want in (None, got) for want, got in zip(expected, array.shape))
        if not fits or (tensors and len(array) != batch_size_of(tensors)):
            raise ValueError(
                f"Input '{spec['key']}' must have shape {_shape(expected)}, with one batch size for all inputs. "
                f"Received: shape {array.shape}."
            )
        if not len(array):
            raise ValueError(f"Input '{spec['key']}' must have at least one sample. Received: shape {array.shape}.")
        tensors[spec["name"]] = _cast(array, spec["dtype"])
        if tensors[spec["name"]] is None:
            raise ValueError(
                f"Input '{spec['key']}' must be of type {spec['dtype']}. Received: {array.dtype} with values that this "
                "type cannot represent. Convert them first."
            )
    return tensors


def _cast(array, dtype):
    """Casts an array to another dtype, or returns None if that would change values by more than rounding."""
    if dtype == "string":
        return array.astype(object) if array.dtype.kind in "USO" else None
    dtype = np.dtype(dtype)
    if array.dtype.kind in "biu" and dtype.kind in "biu":
        cast = array.astype(dtype)
        return cast if (cast == array).all() else None
    return array.astype(dtype, copy=False) if np.can_cast(array.dtype, dtype, "same_kind") else None


def batch_size_of(tensors):
    return len(next(iter(tensors.values())))


def _shape(sizes):
    return "(" + ", ".join("any" if size is None else str(size) for size in sizes) + ")"
