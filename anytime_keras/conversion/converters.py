"""Converters of parts to the formats of the runtimes.

The functions that are named like a format write the files of an export, and return the file and signature of every
part. Their arguments are those of `convert`.
"""

import contextlib
import importlib
import io
import logging
import tempfile
import warnings
import zipfile

import keras
import numpy as np

from anytime_keras import graph
from anytime_keras.conversion import quantization


def saved_model(parts, folder, batch_size, precision="float32", calibration=None, preprocessor=None):
    """Writes one TensorFlow SavedModel with a signature per part and a single copy of the weights.

    The whole network is also the signature `serving_default`, which SavedModel servers run by default, and with a
    `Preprocessor` `serving_raw`, which takes uint8 images of shape `(batch, height, width, channels)`.
    """
    import tensorflow as tf

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
    import tensorflow as tf

    forward, channels = whole.function(batch_size), preprocessor.image_shape[-1]
    spec = tf.TensorSpec((batch_size, None, None, channels), tf.uint8, "images")
    return tf.function(lambda images: forward(preprocessor(images)), [spec], autograph=False).get_concrete_function()


def onnx(parts, folder, batch_size, precision="float32", calibration=None):
    """Writes one ONNX file per part."""
    for part, content in zip(parts, convert(parts, "onnx", batch_size, precision, calibration)):
        (folder / f"{part.name}.onnx").write_bytes(content)
    return [{"file": f"{part.name}.onnx", "signature": None} for part in parts]


def openvino(parts, folder, batch_size, precision="float32", calibration=None):
    """Writes two OpenVINO files per part, an `.xml` file with the graph and a `.bin` file with the weights."""
    for part in parts:
        _save_openvino(_openvino(part, batch_size), folder / f"{part.name}.xml", precision)
    return [{"file": f"{part.name}.xml", "signature": None} for part in parts]


def litert(parts, folder, batch_size, precision="float32", calibration=None):
    """Writes one LiteRT file per part."""
    for part, samples in zip(parts, calibration or [None] * len(parts)):
        (folder / f"{part.name}.tflite").write_bytes(_litert(part, batch_size, precision, samples, named=True))
    return [{"file": f"{part.name}.tflite", "signature": "serving_default"} for part in parts]


# The dtypes of each format's parts. Inputs and outputs keep their own.
DTYPES = {
    "litert": ("float32", "float16", "int8"),
    "onnx": ("float32", "int8"),
    "openvino": ("float32", "float16", "bfloat16"),
}


def check_dtype(format, dtype):
    """Checks that a format has a dtype.

    Raises:
        ValueError: if it does not.
    """
    if dtype not in DTYPES[format]:
        having = [other for other, dtypes in DTYPES.items() if dtype in dtypes]
        remedy = f"{' and '.join(having)} have it." if having else "Backends have Keras's other dtype policies."
        raise ValueError(
            f"`dtype` must be one of {DTYPES[format]} on the runtime '{format}'. Received: {dtype!r}. {remedy}"
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

    Raises:
        ValueError: if the format does not have the dtype, or `calibration` is missing or too small.
        ImportError: if a package required by the format is missing.
        RuntimeError: if the format cannot represent a layer.
    """
    check_dtype(format, dtype)
    if (dtype == "int8") != (calibration is not None):
        raise ValueError(
            "`calibration`, samples of typical inputs, is needed for `dtype='int8'` and for no other. Received: "
            f"dtype={dtype!r}, calibration of type {type(calibration).__name__}."
        )
    contents = []
    for part, samples in zip(parts, calibration or [None] * len(parts), strict=True):
        if samples is not None and len(samples[0]) < (batch_size or 1):
            raise ValueError(
                f"`calibration` needs at least {batch_size} samples, one batch. Received: {len(samples[0])}."
            )
        if format == "litert":
            contents.append(_litert(part, batch_size, dtype, samples, named=False))
        elif format == "onnx":
            content = _onnx(part, batch_size)
            if samples is not None:
                content = quantization.of_onnx(content, part, batches(samples, batch_size))
            contents.append(content)
        else:
            contents.append(_packed(_openvino(part, batch_size), dtype))
    return contents


def _litert(part, batch_size, precision, samples, named):
    """Converts a part to LiteRT.

    Args:
        samples: list of arrays for the part's inputs; for `"int8"`.
        named: bool, whether the file gets a signature with the names of inputs and outputs. This goes through a
            SavedModel, which takes longer.
    """
    import tensorflow as tf

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
    """Converts a part to ONNX."""
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


def _openvino(part, batch_size):
    """Converts a part to an OpenVINO model."""
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
        model.set_rt_info("bf16", "anytime_keras_precision")  # read by `runtimes.openvino`
    importlib.import_module("openvino").save_model(model, path, compress_to_fp16=dtype == "float16")


def _packed(model, dtype):
    """Returns an OpenVINO model as the bytes of a zip file."""
    content = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(content, "w") as files:
        _save_openvino(model, f"{folder}/model.xml", dtype)
        for name in ("model.xml", "model.bin"):
            files.write(f"{folder}/{name}", name)
    return content.getvalue()


def held_by_layers(model):
    """Returns the resources of layers other than Keras variables: lookup tables, TensorFlow's variables and modules.

    Returns:
        A dict from pairs (layer name, attribute name) to lists of the resources.
    """
    import tensorflow as tf

    kinds = (tf.saved_model.experimental.TrackableResource, tf.Variable, tf.Module)
    held = {}
    for layer in graph.sublayers(model):
        for name, value in vars(layer).items():
            values = keras.tree.flatten(value) if isinstance(value, (dict, list, tuple)) else [value]
            if resources := [each for each in values if isinstance(each, kinds)]:
                held[layer.name, name] = resources
    return held


def samples_of(parts, known, batch_size):
    """Computes samples of the inputs of parts that run one after the other, for `calibration`.

    Args:
        parts: list of `Part`, in order.
        known: dict from the name of each input of the network to an array of samples.
        batch_size: int, or None.

    Returns:
        A list with one entry per part: a list of arrays, one for each input.
    """
    found = []
    for position, part in enumerate(parts):
        found.append([known[name] for name in part.inputs])
        needed = {name for later in parts[position + 1 :] for name in later.inputs}
        made = {name: [] for name in part.outputs if name in needed and name not in known}
        for inputs in batches(found[-1], batch_size) if made else ():
            outputs = part.model(inputs, training=False)
            for name, arrays in made.items():
                arrays.append(keras.ops.convert_to_numpy(outputs[name]))
        known = {**known, **{name: np.concatenate(arrays) for name, arrays in made.items()}}
        known = {name: array for name, array in known.items() if name in needed}
    return found


def batches(samples, batch_size):
    """Cuts a list of arrays into full batches, a list of lists of arrays. Without a size, a batch has up to 64 rows."""
    batch_size = batch_size or min(len(samples[0]), 64)
    starts = range(0, len(samples[0]) - batch_size + 1, batch_size)
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


@contextlib.contextmanager
def _naming(part, format):
    """Adds the part's name to conversion errors, which otherwise describe the converter's internal form."""
    try:
        yield
    except Exception as error:
        calls = sorted({type(layer).__name__ for layer in part.model.layers})
        raise RuntimeError(
            f"{format} has no form for the part '{part.name}', made of {calls}. Another format or precision may "
            f"have one; 'saved_model' takes any network. The converter says: {error}"
        ) from error
