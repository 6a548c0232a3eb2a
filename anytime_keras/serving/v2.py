"""The Open Inference Protocol, version 2: requests and answers as JSON, or with tensors in binary as Triton has them.

Reference: [protocol](https://github.com/kserve/open-inference-protocol), [binary tensor
data](https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md).
"""

import itertools
import json
import math
import numbers

import numpy as np

DTYPES = {"BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64"}
DTYPES.update((f"{kind.upper()}{bits}", f"{kind}{bits}") for kind in ("uint", "int") for bits in (8, 16, 32, 64))
OUTPUTS = ("logits", "probabilities", "exit")
MOST_ROWS = 4096  # samples in a request
MOST_AXES = 8  # of a tensor; products of long shapes take hours


class InferRequest:
    """A parsed request.

    Attributes:
        inputs: dict from an input's name to an array, shape `(samples, ...)`.
        outputs: dict from the name of each wanted output to whether it is wanted in binary.
        timeout: float or None, seconds.
        priority: int.
        min_exit: str or None.
        min_accuracy: float or None.
        id: str or None.

    Example:
    >>> body = b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.5, 2]}]}'
    >>> InferRequest(body, None).inputs["x"].tolist()
    [[1.5, 2.0]]
    """

    def __init__(self, body, header_length):
        head, rest = body, b""
        if header_length is not None:
            if not header_length.isdecimal() or int(header_length) > len(body):
                raise ValueError(
                    "`Inference-Header-Content-Length` must be the length of the JSON in the body. "
                    f"Received: {header_length!r:.50} for a body of {len(body)} bytes."
                )
            head, rest = body[: int(header_length)], memoryview(body)[int(header_length) :]
        content = _object(head)
        parameters = _field(content, "parameters", dict, {})
        self.id = _field(content, "id", str, None)
        self.timeout, self.priority = _timeout(parameters), _field(parameters, "priority", int, 0)
        self.min_exit = _field(parameters, "min_exit", str, None)
        self.min_accuracy = parameters.get("min_accuracy")  # checked by `Server`
        self.inputs = _inputs(content, rest)
        self.outputs = _outputs(content, parameters)


def _object(text):
    try:
        content = json.loads(bytes(text))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The request must be JSON. {error}"[:300]) from error
    if not isinstance(content, dict):
        raise ValueError(f"The request must be a JSON object. Received: {type(content).__name__}.")
    return content


def _field(content, name, kind, default=...):
    value = content.get(name)
    if value is None and default is ...:
        raise ValueError(f"`{name}` is missing.")
    if value is None:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"`{name}` must be of type {kind.__name__}. Received: {value!r:.100}.")
    return value


def _timeout(parameters):
    """Returns Triton's `timeout`, in microseconds, as seconds; 0 is none."""
    value = 0 if parameters.get("timeout") is None else parameters["timeout"]
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not value >= 0:
        raise ValueError(f"`timeout` must be a number of microseconds, at least 0. Received: {value!r:.100}.")
    return min(value, 1e15) / 1e6 or None


def _inputs(content, rest):
    found = {}
    for spec in _field(content, "inputs", list):
        if not isinstance(spec, dict):
            raise ValueError(f"Each of `inputs` must be an object. Received: {spec!r:.100}.")
        name, datatype = _field(spec, "name", str), _field(spec, "datatype", str)
        if datatype not in DTYPES:
            raise ValueError(f"`datatype` must be one of {list(DTYPES)}. Received: {datatype!r:.50}.")
        shape = _field(spec, "shape", list)
        whole = all(type(side) is int and 0 < side < 2**31 for side in shape)
        if not whole or not 0 < len(shape) <= MOST_AXES or shape[0] > MOST_ROWS:
            raise ValueError(
                f"`shape` of {name!r:.50} must be up to {MOST_AXES} positive ints, with at most {MOST_ROWS} samples. "
                f"Received: {shape!r:.100}."
            )
        if name in found:
            raise ValueError(f"Each input must be given once. Received: {name!r:.50} twice.")
        size = _field(_field(spec, "parameters", dict, {}), "binary_data_size", int, None)
        if size is None:
            found[name] = _from_json(name, spec, shape, DTYPES[datatype])
        else:
            found[name], rest = _from_binary(name, rest, size, shape, DTYPES[datatype])
    if len(rest):
        raise ValueError(f"The body must end with the last input. Received: {len(rest)} bytes more.")
    if len({len(array) for array in found.values()}) != 1:
        raise ValueError("`inputs` must have the same number of samples, at least one input.")
    return found


def _from_json(name, spec, shape, dtype):
    data = leaves = _field(spec, "data", list)
    for _ in shape[1:]:  # `data` may be nested like the tensor
        if set(map(type, leaves)) != {list}:
            break
        leaves = list(itertools.chain.from_iterable(leaves))
    kinds = sorted({type(leaf).__name__ for leaf in leaves})
    if len(leaves) != math.prod(shape) or not {"int", "float", "bool"}.issuperset(kinds):
        raise ValueError(
            f"`data` of {name!r:.50} must be numbers of shape {shape}. Received: {len(leaves)} elements of type "
            f"{' and '.join(kinds)}."
        )
    try:
        given = np.asarray(data)
        with np.errstate(over="ignore"):  # `Server` refuses infinity
            array = given.reshape(shape).astype(dtype, copy=False)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"`data` of {name!r:.50} must be numbers of shape {shape}. {error}"[:300]) from error
    whole = np.dtype(dtype).kind in "iu"
    kinds = "iub" if whole else "iufb"
    if given.dtype.kind not in kinds or whole and not np.array_equal(array.ravel(), given.ravel()):
        kind = f"whole numbers that fit {dtype}" if whole else "numbers"
        raise ValueError(f"`data` of {name!r:.50} must be {kind}. Received: {given.ravel()[:3].tolist()!r:.100}, ...")
    return array


def _from_binary(name, rest, size, shape, dtype):
    wanted = math.prod(shape) * np.dtype(dtype).itemsize
    if size != wanted or len(rest) < size:
        raise ValueError(
            f"Binary data of {name!r:.50} must have {wanted} bytes. Received: `binary_data_size` {size}, and "
            f"{len(rest)} bytes in the body."
        )
    return np.frombuffer(rest[:size], np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(shape), rest[size:]


def _outputs(content, parameters):
    binary = bool(parameters.get("binary_data_output", False))
    wanted = _field(content, "outputs", list, None)
    if not wanted:
        return dict.fromkeys(OUTPUTS, binary)
    found = {}
    for spec in wanted:
        name = _field(spec, "name", str) if isinstance(spec, dict) else None
        if name not in OUTPUTS:
            raise ValueError(f"`outputs` must name some of {list(OUTPUTS)}. Received: {spec!r:.100}.")
        own = _field(spec, "parameters", dict, {})
        if "classification" in own:
            raise ValueError("The output parameter `classification` is not supported. POST an image to /v1/classify.")
        found[name] = bool(own.get("binary_data", binary))
    return found


def metadata(name, inputs, classes):
    """Returns a model's metadata.

    Args:
        name: str.
        inputs: dict from an input's name to a pair of datatype and shape.
        classes: int.
    """
    tensors = [{"name": key, "datatype": datatype, "shape": shape} for key, (datatype, shape) in inputs.items()]
    outputs = [{"name": key, "datatype": "FP32", "shape": [-1, classes]} for key in OUTPUTS[:2]]
    outputs.append({"name": "exit", "datatype": "INT32", "shape": [-1]})
    return {"name": name, "versions": ["1"], "platform": "anytime_keras", "inputs": tensors, "outputs": outputs}


def encode(name, request, answers):
    """Encodes the answers to a request.

    Args:
        name: str, the model's name.
        request: `InferRequest`.
        answers: list of `Answer`, one per sample.

    Returns:
        A tuple of the body and the length of its JSON, or None if all is JSON.
    """
    outputs, binary = [], []
    for key, in_binary in request.outputs.items():
        if key == "exit":
            datatype, array = "INT32", np.array([answer.position for answer in answers], "<i4")
        else:
            datatype, array = "FP32", np.concatenate([getattr(answer, key) for answer in answers]).astype("<f4")
        output = {"name": key, "datatype": datatype, "shape": list(array.shape)}
        if in_binary:
            binary.append(array.tobytes())
            output["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            output["data"] = array.ravel().tolist()
        outputs.append(output)
    about = {"exits": ",".join(answer.exit for answer in answers), "late": any(answer.late for answer in answers)}
    content = {"model_name": name, "model_version": "1", "parameters": about, "outputs": outputs}
    if request.id is not None:
        content["id"] = request.id
    head = json.dumps(content).encode()
    return b"".join([head, *binary]), len(head) if binary else None
