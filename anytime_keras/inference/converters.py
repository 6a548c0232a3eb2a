"""Converters to the export formats. Each returns the file and signature of every part."""

import contextlib
import importlib
import logging
import warnings

import keras
import numpy as np


def saved_model(parts, folder, batch_size):
    """Writes one TensorFlow SavedModel with a signature per part and a single copy of the weights.

    The whole network is also the signature `serving_default`, which SavedModel servers run by default.
    """
    import tensorflow as tf

    module = tf.Module()
    weights = {id(variable): variable for part in parts for variable in part.model.variables}
    module.weights = [variable.value for variable in weights.values()]
    module.held = [value for part in parts for values in held_by_layers(part.model).values() for value in values]
    signatures = {part.name: part.function(batch_size).get_concrete_function() for part in parts}
    if "whole" in signatures:
        signatures["serving_default"] = signatures["whole"]
    with _quietly():
        tf.saved_model.save(module, str(folder / "saved_model"), signatures)
    return [{"file": "saved_model", "signature": part.name} for part in parts]


def onnx(parts, folder, batch_size):
    """Writes one ONNX file per part."""
    onnx, tf2onnx = importlib.import_module("onnx"), importlib.import_module("tf2onnx")
    for part in parts:
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
        onnx.save(proto, str(folder / f"{part.name}.onnx"))
    return [{"file": f"{part.name}.onnx", "signature": None} for part in parts]


def litert(parts, folder, batch_size, precision, representative):
    """Writes one LiteRT file per part.

    Args:
        precision: str, see `anytime_keras.export`.
        representative: dict from the name of each input of the network to an array of samples; for `"int8"`.
    """
    import tensorflow as tf

    known = representative
    for position, part in enumerate(parts):
        module = tf.Module()
        module.weights = [variable.value for variable in part.model.variables]
        function = part.function(batch_size).get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "int8":
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.representative_dataset = _samples(part, known, batch_size)
        with _naming(part, "LiteRT"), warnings.catch_warnings(), _quietly():
            # The converter itself calibrates with TensorFlow's deprecated interpreter.
            warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
            content = converter.convert()
        (folder / f"{part.name}.tflite").write_bytes(content)
        if precision == "int8":
            known = _after(
                part, known, batch_size, needed={name for later in parts[position + 1 :] for name in later.inputs}
            )
    return [{"file": f"{part.name}.tflite", "signature": "serving_default"} for part in parts]


def held_by_layers(model):
    """Returns the resources of layers other than Keras variables: lookup tables, TensorFlow's variables and modules.

    Returns:
        A dict from pairs (layer name, attribute name) to lists of the resources.
    """
    import tensorflow as tf

    kinds = (tf.saved_model.experimental.TrackableResource, tf.Variable, tf.Module)
    held = {}
    for layer in model._flatten_layers(include_self=False):
        for name, value in vars(layer).items():
            values = keras.tree.flatten(value) if isinstance(value, (dict, list, tuple)) else [value]
            if resources := [each for each in values if isinstance(each, kinds)]:
                held[layer.name, name] = resources
    return held


def _samples(part, known, batch_size):
    """Returns a generator function that yields batches of a part's inputs."""

    def batches():
        for inputs in _batches(part, known, batch_size):
            yield dict(zip(part.inputs, inputs))

    return batches


def _after(part, known, batch_size, needed):
    """Runs a part on the known tensors and returns the tensors that later parts need, a dict of arrays."""
    made = {name: [] for name in part.outputs if name in needed}
    if made:
        for inputs in _batches(part, known, batch_size):
            outputs = part.model(inputs, training=False)
            for name, arrays in made.items():
                arrays.append(keras.ops.convert_to_numpy(outputs[name]))
    made = {name: np.concatenate(arrays) for name, arrays in made.items()}
    return {name: array for name, array in {**known, **made}.items() if name in needed}


def _batches(part, known, batch_size):
    arrays = [known[name] for name in part.inputs]
    for start in range(0, len(arrays[0]) - batch_size + 1, batch_size):
        yield [array[start : start + batch_size] for array in arrays]


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


def convert(parts, format, batch_size, **options):
    """STAND-IN"""
    import pathlib
    import tempfile

    made = []
    for part in parts:
        with tempfile.TemporaryDirectory() as d:
            if format == "onnx":
                onnx([part], pathlib.Path(d), batch_size)
            else:
                litert([part], pathlib.Path(d), batch_size, "float32", None)
            made.append(next(pathlib.Path(d).iterdir()).read_bytes())
    return made
