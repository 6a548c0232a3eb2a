"""`export`: writes an anytime network as files that other runtimes can run stage by stage."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import keras

from anytime_keras import _files, graph, runtime
from anytime_keras._checks import check_choice, check_int
from anytime_keras._errors import explained
from anytime_keras.conversion import converters
from anytime_keras.conversion.parts import Parts
from anytime_keras.conversion.runtimes import installed
from anytime_keras.export.reader.assemble import assemble
from anytime_keras.export.reader.description import DESCRIPTION, VERSION, fingerprint, sha256
from anytime_keras.export.reader.inputs import by_name
from anytime_keras.inference.ensemble import EANN
from anytime_keras.inference.stages import Stages
from anytime_keras.models import AnytimeModel

FORMATS = ("saved_model", "litert", "onnx", "openvino")
PRECISIONS = {"saved_model": ("float32",), **converters.DTYPES, "litert": ("float32", "float16", "dynamic", "int8")}
PACKAGES = {"onnx": ("onnx", "tf2onnx"), "openvino": ("openvino",)}
PARTS = ("whole", "stages")


def export(
    model: Any,
    path: str | os.PathLike,
    format: str = "saved_model",
    exits: Sequence[str] | None = None,
    parts: str | Sequence[str] = PARTS,
    precision: str = "float32",
    representative: Any = None,
    batch_size: int | None = None,
    overwrite: bool = False,
) -> pathlib.Path:
    """Exports a network, whole and as stages, for a runtime other than Keras. Requires the TensorFlow backend.

    The folder contains the parts, `exported.json` and `run_exported.py`. The JSON file describes how stages connect:
    each takes named tensors, from the network's inputs or earlier stages, and returns an exit's logits and new tensors
    for later stages. It lists all names, shapes and dtypes in order, the costs, file hashes, and the model's
    `inference`, which is the result of `Predictor.calibrate` and `Predictor.fit_thresholds`. If the model has a
    `preprocessor`, it and the class names are part of the export: the reader takes raw images (uint8 arrays, files),
    and a SavedModel has a signature `serving_raw`, from uint8 `images` of any size to the logits. `run_exported.py`
    defines `ExportedModel`, which runs the export until a deadline and requires only NumPy and the format's runtime.
    Stages duplicate weights only if they share a layer. The whole network has a second copy of all weights, except in
    a SavedModel, where it is the default signature.

    Args:
        model: functional Keras model whose outputs are its exits, or an `EANN`.
        path: folder to write, new or empty. It is written atomically: completely or not at all.
        format: `"saved_model"`, `"litert"`, `"onnx"` or `"openvino"`, run by the packages `tensorflow`,
            `ai-edge-litert`, `onnxruntime` and `openvino`.
        exits: names of the exits to keep, earliest first; None keeps all. Fewer stages have less call overhead.
        parts: which of `"whole"` and `"stages"` to write.
        precision: `"float32"`; `"float16"` for LiteRT and OpenVINO (weights of half the size, computed in float32);
            `"int8"` for LiteRT and ONNX (8-bit weights, integer arithmetic); `"dynamic"` for LiteRT (8-bit weights,
            float activations); `"bfloat16"` for OpenVINO, on processors that have it. Inputs and outputs keep their
            dtype.
        representative: for `"int8"`, typical inputs to calibrate activation ranges, an array of shape `(samples, ...)`;
            for several inputs a list or a dict of arrays. A hundred training samples are enough.
        batch_size: int, the fixed batch size of the export; None leaves it dynamic, except for LiteRT, where it is 1.
        overwrite: bool, whether to replace an existing export at `path`. Nothing else is ever replaced.

    Returns:
        The path, a `pathlib.Path`.

    Raises:
        ValueError: if the model is not anytime, or an argument is invalid.
        FileExistsError: if `path` exists, unless it is an empty folder or an export to overwrite.
        ImportError: if a package required by the format is missing.
        RuntimeError: if Keras runs on another backend, or the format cannot represent a layer.

    Example:
    >>> import pathlib, tempfile, anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = ak.export(model, pathlib.Path(folder.name, "digits"), format="saved_model")
    >>> sorted(file.name for file in path.iterdir())
    ['exported.json', 'run_exported.py', 'saved_model']
    >>> folder.cleanup()
    """
    parts = (parts,) if isinstance(parts, str) else tuple(parts)
    if format == "litert" and batch_size is None:
        batch_size = 1
    batch_size = None if batch_size is None else check_int("batch_size", batch_size)
    _check(model, format, parts, precision, representative, batch_size)
    path = _files.check_folder(path, DESCRIPTION, "an export", overwrite)
    if isinstance(model, EANN):
        stages = model.stages() if exits is None else model.stages().at(exits)
    else:
        stages = Stages(model, exits)
    named = Parts(stages)
    chosen = [named.whole] * ("whole" in parts) + named.stages * ("stages" in parts)
    description = _describe(stages, named, model, format, precision, batch_size)
    preprocessor = _preprocessor(model, named)
    if preprocessor is not None:
        description.update(preprocessing=preprocessor.get_config(), class_names=model.class_names)
    calibration = None
    if precision == "int8":
        with explained("`representative` does not fit the network. ", ValueError):
            samples = by_name(representative, description["inputs"])
        converters.check_values(samples.values(), stages)
        calibration = converters.samples_of(chosen, samples, batch_size)
    with _files.writing_folder(path, overwrite) as folder:
        files = converters.write(chosen, folder, format, batch_size, precision, calibration, preprocessor)
        described = [{**part.describe(batch_size), **file} for part, file in zip(chosen, files)]
        description["whole"] = described.pop(0) if "whole" in parts else None
        paid = [0] + [cost["with_all_heads"] for cost in description["exits"]]  # before each stage
        costs = zip(described, description["exits"], paid)
        staged = [{**stage, "exit": own["exit"], "macs": own["with_all_heads"] - spent} for stage, own, spent in costs]
        description["stages"] = staged if "stages" in parts else None
        (folder / "run_exported.py").write_text(assemble(), encoding="utf-8")
        description["files"] = {
            file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256(file)}
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        description["sha256"] = fingerprint(description)
        _files.to_json(description, folder / DESCRIPTION)
    return path


def _describe(stages, named, model, format, precision, batch_size):
    """Returns the general fields of the description, without parts, files and hash."""
    return {
        "version": VERSION,
        "model": getattr(model, "name", "eann"),
        "format": format,
        "precision": precision,
        "batch_size": batch_size,
        "inputs": [
            {**tensor, "key": named.inputs[tensor["name"]]} for tensor in named.whole.describe(batch_size)["inputs"]
        ],
        "exits": [dataclasses.asdict(cost) for cost in stages.costs(stages.inputs)],
        "sigmoid": [name for position, name in enumerate(stages.exit_names) if stages.ends_in_sigmoid(position)],
        "inference": getattr(model, "inference", None),
        "made_with": runtime.machine()["versions"],
    }


def _preprocessor(model, named):
    """Returns a model's preprocessor of raw images if it gives the model's only input, or None."""
    preprocessor = getattr(model, "preprocessor", None)
    if preprocessor is None or len(named.inputs) != 1:
        return None
    (tensor,) = named.whole.inputs.values()
    fits = len(tensor.shape) == 4 and all(a in (None, b) for a, b in zip(tensor.shape[1:], preprocessor.image_shape))
    return preprocessor if fits else None


def _check(model, format, parts, precision, representative, batch_size):
    check_choice("format", format, FORMATS)
    if precision not in PRECISIONS[format]:
        raise ValueError(
            f"`precision` must be one of {PRECISIONS[format]} for format '{format}'. Received: precision={precision!r}."
        )
    if not parts or not set(parts) <= set(PARTS):
        raise ValueError(f"`parts` must name one or both of {PARTS}. Received: {parts}.")
    several = graph.is_functional(model) and len(graph.functional(model).outputs) > 1
    if not several and not isinstance(model, (AnytimeModel, EANN)):
        raise ValueError(
            "`model` must be a functional model whose outputs are its exits, or an `EANN`. "
            f"Received: {type(model).__name__}, with a single output or no graph. For example, build "
            "`anytime_keras.AnytimeModel(inputs, {'early': early, 'late': late})`."
        )
    converters.check_representative("precision", precision, representative)
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"Exports need Keras's TensorFlow backend. Received: backend '{keras.backend.backend()}'. Save the model "
            "with `model.save('model.keras')`. Then load and export it with TensorFlow installed and the environment "
            "variable KERAS_BACKEND=tensorflow."
        )
    for network in model.members if isinstance(model, EANN) else [model]:
        _check_layers(graph.opened(network), format)
    for package in PACKAGES.get(format, ()):
        installed(package, package)


def _check_layers(functional, format):
    if format != "saved_model" and (held := converters.held_by_layers(functional)):
        raise ValueError(
            f"Format '{format}' cannot represent state other than Keras variables, such as lookup tables. "
            f"Received: such state in layers {sorted({layer for layer, _ in held})}. Export the model as "
            "'saved_model', or apply these layers before the model."
        )
    if unknown := converters.unknown_types(graph.calls(functional.outputs, functional.inputs), format):
        raise ValueError(
            f"Format '{format}' needs a network that computes in float32. Received: model '{functional.name}' with "
            f"{unknown[0]}. Export it as 'saved_model', or build a float32 network and copy the weights: "
            "`set_weights(model.get_weights())`."
        )
