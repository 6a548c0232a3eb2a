"""Converts parts to the formats of the runtimes: `write` for an export, `convert` for the engines of a `Predictor`."""

import contextlib
import importlib
import io
import logging
import pathlib
import tempfile
import warnings
import zipfile

import keras
import numpy as np

from anytime_keras import graph
from anytime_keras._errors import explained
from anytime_keras._lazy import tf


def write(parts, folder, format, batch_size=None, dtype="float32", calibration=None, preprocessor=None):
    """Writes the files of an export and returns a list of dicts, the `file` and the `signature` of each part.

    LiteRT, ONNX and OpenVINO get one model per part. A SavedModel has all parts as signatures and a single copy of the
    weights; with a `Preprocessor`, it also has the signature `serving_raw`. Other arguments are those of `convert`;
    `dtype` may also be `"dynamic"` for LiteRT: 8-bit weights and float activations.
    """
    if format == "saved_model":
        return _write_saved_model(parts, folder, batch_size, preprocessor)
    suffix = {"litert": "tflite", "onnx": "onnx", "openvino": "xml"}[format]
    for part, samples in zip(parts, calibration or [None] * len(parts)):
        path = folder / f"{part.name}.{suffix}"
        if format == "openvino":
            _save_openvino(_openvino(part, batch_size), path, dtype)
        else:
            path.write_bytes(_converted(part, format, batch_size, dtype, samples, named=True))
    signature = "serving_default" if format == "litert" else None
    return [{"file": f"{part.name}.{suffix}", "signature": signature} for part in parts]


def _write_saved_model(parts, folder, batch_size, preprocessor):
    """Writes a SavedModel. The whole network is also `serving_default`, which SavedModel servers run by default."""
    module = tf.Module()
    weights = {id(variable): variable for part in parts for variable in part.model.variables}
    module.weights = [variable.value for variable in weights.values()]
    module.held = [value for part in parts for values in held_by_layers(part.model).values() for value in values]
    signatures = {part.name: part.function(batch_size).get_concrete_function() for part in parts}
    if "whole" in signatures:
        signatures["serving_default"] = signatures["whole"]
        if preprocessor is not None:
            signatures["serving_raw"] = _of_raw_images(parts[0], preprocessor, batch_size)
    with _quietly():
        tf.saved_model.save(module, str(folder / "saved_model"), signatures)
    return [{"file": "saved_model", "signature": part.name} for part in parts]


def _of_raw_images(whole, preprocessor, batch_size):
    """Returns the whole network as a concrete function of uint8 images of any size."""
    forward, channels = whole.function(batch_size), preprocessor.image_shape[-1]
    spec = tf.TensorSpec((batch_size, None, None, channels), tf.uint8, "images")
    return tf.function(lambda images: forward(preprocessor(images)), [spec], autograph=False).get_concrete_function()


LARGEST = 1e18  # sample or weight for 8-bit integers: the product of two must not overflow float32
# The dtypes of each format's parts. Inputs and outputs keep their own.
DTYPES = {"litert": ("float32", "float16", "int8"), "onnx": ("float32", "int8")}
DTYPES["openvino"] = ("float32", "float16", "bfloat16")
# Dtypes in which a format does not support convolutions.
UNKNOWN_TYPES: dict[str, tuple] = {"saved_model": (), "onnx": ("bfloat16",)}
UNKNOWN_TYPES |= dict.fromkeys(("litert", "openvino"), ("float16", "bfloat16"))


def check_dtype(format, dtype):
    """Raises a ValueError unless parts of a format can have a dtype."""
    if dtype not in DTYPES[format]:
        having = [other for other, dtypes in DTYPES.items() if dtype in dtypes]
        remedy = f"It is supported by {', '.join(having)}."
        raise ValueError(
            f"`dtype` must be one of {DTYPES[format]} for the runtime '{format}'. Received: dtype={dtype!r}. "
            + (remedy if having else "Other dtypes need a network built with a Keras dtype policy.")
        )


def check_representative(argument, dtype, representative):
    """Raises a ValueError unless samples for 8-bit integers are given exactly if `argument` asks for these."""
    if (dtype == "int8") != (representative is not None):
        raise ValueError(
            f"`representative`, samples of typical inputs, is needed for `{argument}='int8'` and for no other. "
            f"Received: {argument}={dtype!r}, representative of type {type(representative).__name__}."
        )


def check_values(samples, stages):
    """Raises a ValueError if the samples for 8-bit integers, or the weights of `Stages`, are not finite or too large.

    TensorFlow's converter ends the process if a range of values in the network overflows float32.
    """
    weights = [keras.ops.convert_to_numpy(weight) for model, _ in stages.members() for weight in model.weights]
    for what, arrays in (("`representative`", samples), ("The network's weights", weights)):
        for array in arrays:
            if array.dtype.kind == "f" and not (np.abs(array) <= LARGEST).all():
                raise ValueError(
                    f"{what} must lie between -{LARGEST:g} and {LARGEST:g} for 8-bit integers. "
                    f"Received: values from {array.min():g} to {array.max():g}."
                )


def convert(parts, format, batch_size=None, dtype="float32", calibration=None):
    """Converts parts for a runtime. Requires TensorFlow, and Keras's TensorFlow backend.

    Args:
        parts: list of `Part`.
        format: str, `"litert"`, `"onnx"` or `"openvino"`.
        batch_size: int, the fixed batch size; None leaves it dynamic, except for LiteRT.
        dtype: str. `"float16"` stores the weights in half precision and computes in float32, `"bfloat16"` computes in
            bfloat16 and `"int8"` in 8-bit integers. Inputs and outputs are float32 in any case.
        calibration: for `"int8"`, a list with one entry per part: a list of arrays, samples of each of its inputs.

    Returns:
        A list of bytes, one file per part, for `runtimes`. Those of LiteRT have no signature.
    """
    check_dtype(format, dtype)
    samples = calibration or [None] * len(parts)
    return [_converted(part, format, batch_size, dtype, own) for part, own in zip(parts, samples)]


def _converted(part, format, batch_size, dtype, samples, named=False):
    if format == "litert":
        return _litert(part, batch_size, dtype, samples, named)
    if format == "openvino":
        return _packed(_openvino(part, batch_size), dtype)
    content = _onnx(part, batch_size)
    return content if samples is None else _quantized(content, part, batches(samples, batch_size))


def _litert(part, batch_size, precision, samples, named):
    """Converts a part to LiteRT. A signature, with names of inputs and outputs, takes longer: it needs a SavedModel."""
    module = tf.Module()
    module.weights = [variable.value for variable in part.model.variables]
    function = part.function(batch_size, named).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    converter.experimental_lower_to_saved_model = named
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        given = batches(samples, batch_size)
        converter.representative_dataset = lambda: (dict(zip(part.inputs, x)) if named else x for x in given)
    with _naming(part, "LiteRT"), warnings.catch_warnings(), _quietly():
        # The converter itself calibrates with TensorFlow's deprecated interpreter.
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
        warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected")
        return converter.convert()


def _onnx(part, batch_size):
    onnx, tf2onnx = importlib.import_module("onnx"), importlib.import_module("tf2onnx")
    function = part.function(batch_size)
    # The conversion turns captured tensors other than variables into inputs; make them initializers.
    held = {inner.name: outer for outer, inner in function.get_concrete_function().graph.captures}
    with _naming(part, "ONNX"):
        proto, _ = tf2onnx.convert.from_function(function, function.input_signature)
    for tensor in [tensor for tensor in proto.graph.input if tensor.name not in part.inputs]:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(held[tensor.name].numpy(), tensor.name))
        proto.graph.input.remove(tensor)
    outputs = {tensor.name: tensor for tensor in proto.graph.output}  # TensorFlow has sorted them by name
    ordered = [outputs[name] for name in part.outputs]
    del proto.graph.output[:]
    proto.graph.output.extend(ordered)
    if batch_size is None:
        for tensor in [*proto.graph.input, *proto.graph.output]:
            tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    return proto.SerializeToString()


def _quantized(content, part, batches):
    """Quantizes an ONNX file, with activation ranges calibrated on `batches`, lists of arrays for the part's inputs.

    Weights have one scale per channel; inputs and outputs remain floats.
    """
    tools = importlib.import_module("onnxruntime.quantization")
    left = (dict(zip(part.inputs, inputs)) for inputs in batches)
    types = {"activation_type": tools.QuantType.QUInt8, "weight_type": tools.QuantType.QInt8}

    class Reader(tools.CalibrationDataReader):
        def get_next(self):
            return next(left, None)

    with tempfile.TemporaryDirectory() as folder:
        before, ready, after = (pathlib.Path(folder, f"{name}.onnx") for name in ("before", "ready", "after"))
        before.write_bytes(content)
        tools.quant_pre_process(before, ready, skip_symbolic_shape=True)  # folds batch normalization
        tools.quantize_static(ready, after, Reader(), tools.QuantFormat.QDQ, per_channel=True, **types)
        return after.read_bytes()


def _openvino(part, batch_size):
    ov, function = importlib.import_module("openvino"), part.function(batch_size)
    function.get_concrete_function()  # errors of the network itself are raised here
    with _naming(part, "OpenVINO"), _quietly():
        model = ov.convert_model(function)
    for ports, expected in ((model.inputs, part.inputs), (model.outputs, part.outputs)):
        missing = set(expected).difference(*(port.get_names() for port in ports))
        for port in ports:
            known = port.get_names().intersection(expected)  # other names are TensorFlow's
            port.get_tensor().set_names(known or {missing.pop()})  # a single tensor has TensorFlow's name alone
    return model


def _save_openvino(model, path, dtype):
    if dtype == "bfloat16":
        model.set_rt_info("bf16", "anytime_keras_precision")  # read by `runtimes.OpenVINO`
    importlib.import_module("openvino").save_model(model, path, compress_to_fp16=dtype == "float16")


def _packed(model, dtype):
    """Returns an OpenVINO model as the bytes of a zip file."""
    content = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(content, "w") as files:
        _save_openvino(model, f"{folder}/model.xml", dtype)
        for name in ("model.xml", "model.bin"):
            files.write(f"{folder}/{name}", name)
    return content.getvalue()


def unknown_types(calls, format):
    """Lists the dtypes of a graph's tensors that a format does not support."""
    types = {tensor.dtype for call in calls for tensor in call.output_tensors}
    return sorted(types.intersection(UNKNOWN_TYPES[format]))


def held_by_layers(model):
    """Maps (layer name, attribute name) to a layer's resources other than Keras variables, such as lookup tables."""
    kinds = (tf.saved_model.experimental.TrackableResource, tf.Variable, tf.Module)
    held = {}
    for layer in graph.sublayers(model):
        for name, value in vars(layer).items():
            values = keras.tree.flatten(value) if isinstance(value, (dict, list, tuple)) else [value]
            if resources := [each for each in values if isinstance(each, kinds)]:
                held[layer.name, name] = resources
    return held


def samples_of(parts, known, batch_size):
    """Computes the `calibration` of consecutive parts from the samples of the network's inputs, a dict by name."""
    found = []
    for position, part in enumerate(parts):
        found.append([known[name] for name in part.inputs])
        needed = {name for later in parts[position + 1 :] for name in later.inputs}
        made = {name: [] for name in part.outputs if name in needed and name not in known}
        full = batches(found[-1], batch_size)
        for inputs in full if made else ():
            outputs = part.model(inputs, training=False)
            for name, arrays in made.items():
                arrays.append(keras.ops.convert_to_numpy(outputs[name]))
        known = {**known, **{name: np.concatenate(arrays) for name, arrays in made.items()}}
        known = {name: array for name, array in known.items() if name in needed}
    return found


def batches(samples, batch_size):
    """Cuts a list of arrays into full batches, a list of lists of arrays. Without a size, a batch has up to 64 rows."""
    count = len(samples[0])
    batch_size = batch_size or min(count, 64)
    if count < batch_size:
        raise ValueError(f"`representative` needs at least {batch_size} samples, one batch. Received: {count}.")
    starts = range(0, count - batch_size + 1, batch_size)
    return [[array[start : start + batch_size] for array in samples] for start in starts]


@contextlib.contextmanager
def _quietly():
    """Suppresses TensorFlow's log messages about each file that it writes."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _naming(part, format):
    """Adds the part's name to conversion errors, which otherwise describe the converter's internal form."""
    calls = sorted({type(layer).__name__ for layer in part.model.layers})
    what = f"{format} cannot represent the part '{part.name}', which consists of {calls}. Try another format or "
    what += "precision; 'saved_model' supports every network. The converter's error: "
    return explained(what, Exception, raised=RuntimeError)
