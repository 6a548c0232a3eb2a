"""A cache of converted parts, keyed by their content.

Entries lie in the folder `parts` of the user's cache, see `ANYTIME_KERAS_CACHE`. They are written atomically and their
hash is verified on every read, so an entry that was truncated or changed is made again. If several processes need the
same entry, one makes it and the others wait. A cache that is not writable is not an error. The entries take at most
`MOST_BYTES`: each new one removes the least recently used ones.
"""

import contextlib
import functools
import hashlib
import importlib
import inspect
import json
import os

import keras
import numpy as np

from anytime_keras import _files, graph, runtime
from anytime_keras.version import __version__

MOST_BYTES = 2 * 2**30
# Packages whose versions decide what a conversion returns, in addition to Keras and this library.
_PACKAGES = {"litert": ("tensorflow",), "openvino": ("tensorflow", "openvino")}
_PACKAGES["onnx"] = ("tensorflow", "tf2onnx", "onnx", "onnxruntime")
_KNOWN_MODULES = ("keras.", "anytime_keras.", "builtins")


def key(part, format, batch_size, dtype="float32", calibration=None, memory=None):
    """Returns the key of a converted part, a str, or None if the part cannot be described completely.

    The key covers the weights, the structure, the arguments of `converters.convert`, the versions of the packages and
    the source of this library's own layers. Layers and functions defined elsewhere cannot be described, because their
    code may change. `memory` is a dict that keeps the descriptions of layers and the hashes of weights, for further
    parts of the same network while its weights stay the same.
    """
    memory = {} if memory is None else memory
    try:
        structure = _structure(part, memory)
    except _Unknown:
        return None
    versions = {package: runtime.version_of(package) for package in ("keras", *_PACKAGES[format])}
    text = json.dumps([structure, part.describe(batch_size), format, batch_size, dtype, __version__, versions])
    digest = hashlib.sha256(text.encode())
    digest.update(_code("anytime_keras.conversion.converters").encode())
    digest.update(weights(part, memory).encode())
    for array in calibration or []:
        digest.update(_digest(array).encode())
    return digest.hexdigest()


def weights(part, memory=None):
    """Returns a hash of a part's weights, a str; see `key` for `memory`."""
    memory, digest = {} if memory is None else memory, hashlib.sha256()
    for variable in _variables(part):
        if id(variable) not in memory:
            memory[id(variable)] = _digest(variable)
        digest.update(memory[id(variable)].encode())
    return digest.hexdigest()


def cached(key, make):
    """Returns an entry of the cache, bytes; a missing or damaged one is made. A key of None stores nothing."""
    if key is None:
        return make()
    if (found := read(key)) is not None:
        return found
    try:
        with _files.writing(_path(key)):
            if (found := read(key)) is None:  # no other process has made it meanwhile
                found = make()
                _store(key, found)
            return found
    except OSError:  # not writable or full
        return make() if found is None else found


def read(key):
    """Returns an entry of the cache, bytes, or None if it is missing or damaged."""
    try:
        content = _files.without_hash(_files.read(_path(key)))
        if content is not None:
            with contextlib.suppress(OSError):  # a cache that only others may write
                os.utime(_path(key))  # notes the use
        return content
    except OSError:  # there is no home directory
        return None


def write(key, content):
    """Stores bytes in the cache; does nothing if the cache is not writable."""
    with contextlib.suppress(OSError), _files.writing(_path(key)):
        _store(key, content)


def _store(key, content):
    """Writes an entry, then removes the least recently used ones if all take too much space."""
    _files.write(_path(key), _files.with_hash(content))
    entries = []
    for path in _path(key).parent.iterdir():
        with contextlib.suppress(OSError):  # removed by another process
            about = path.stat()
            entries.append((about.st_mtime, about.st_size, path))
    over = sum(size for _, size, _ in entries) - MOST_BYTES
    for _, size, path in sorted(entries):
        if over <= 0 or path.name == key:
            break
        path.unlink(missing_ok=True)
        over -= size


def _path(key):
    return _files.cache_folder() / "parts" / key


class _Unknown(Exception):
    """Raised for a model with code that is neither Keras's nor this library's."""


def _structure(part, memory):
    """Describes the calls of a part as JSON data, without names, which differ between processes."""
    inputs = list(part.inputs.values())
    values = {id(tensor): f"tensor {number}" for number, tensor in enumerate(inputs)}
    numbers, described = {}, []  # the numbers of the operations
    for call in graph.calls(part.outputs, inputs):
        operation = call.operation
        if id(operation) not in numbers:
            numbers[id(operation)] = len(numbers)
            if id(operation) not in memory:
                memory[id(operation)] = _operation(operation)
            described.append(memory[id(operation)])
        args, kwargs = call.arguments.fill_in(values)
        described.append([numbers[id(operation)], _plain(args), _plain(kwargs)])
        for tensor in call.output_tensors:
            values[id(tensor)] = f"tensor {len(values)}"
    outputs = [values[id(tensor)] for tensor in part.outputs.values()]
    return [[[list(tensor.shape), str(tensor.dtype)] for tensor in inputs], described, outputs]


def _operation(operation):
    kind = type(operation)
    layers = [operation, *graph.sublayers(operation)] if isinstance(operation, keras.Layer) else [operation]
    held = [value for layer in layers for value in vars(layer).values() if callable(value)]
    functions = [value if inspect.isroutine(value) else type(value) for value in held]
    known = all(each.__module__.startswith(_KNOWN_MODULES) for each in [*map(type, layers), *functions])
    if not known or isinstance(operation, keras.layers.Lambda):
        raise _Unknown
    own = _code(kind.__module__) if kind.__module__.startswith("anytime_keras.") else ""
    try:
        config = operation.get_config()
    except NotImplementedError as error:
        raise _Unknown from error
    config.pop("name", None)
    return [kind.__module__, kind.__qualname__, _files.sha256(own.encode()), _plain(config)]


def _plain(value):
    """Converts a config or the arguments of a call to JSON data."""
    if isinstance(value, dict):
        module = value.get("module")
        if "class_name" in value and module is not None and not f"{module}.".startswith(_KNOWN_MODULES):
            raise _Unknown
        unnamed = {key: each for key, each in value.items() if not (key == "name" and "trainable" in value)}
        return {str(key): _plain(each) for key, each in unnamed.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (slice, type(Ellipsis), np.dtype)):
        return repr(value)
    if isinstance(value, (np.ndarray, np.generic)) or keras.ops.is_tensor(value) or isinstance(value, keras.Variable):
        return _digest(value)
    raise _Unknown


def _variables(part):
    """Returns the variables in the order of the calls; `model.variables` is in the order of the layers' creation."""
    found = {}
    for call in graph.calls(part.outputs, list(part.inputs.values())):
        for variable in getattr(call.operation, "variables", ()):
            found.setdefault(id(variable), variable)
    return list(found.values())


def _digest(array):
    array = np.ascontiguousarray(keras.ops.convert_to_numpy(array))
    return f"{array.dtype}{array.shape}{hashlib.sha256(array.view(np.uint8).data if array.size else b'').hexdigest()}"


@functools.cache
def _code(module):
    return inspect.getsource(importlib.import_module(module))
