"""The description of an exported network, `exported.json`, and its checks."""

import hashlib
import json
import math
import pathlib

from anytime_keras.conversion.runtimes import RUNTIMES
from anytime_keras.preprocessing.host import HostPreprocessor

DESCRIPTION = "exported.json"
VERSION = 2

# The schema of `exported.json`. Ints are non-negative, a tuple lists two alternatives, and {str: ...} allows any key.
_TENSOR = {"name": str, "shape": [(int, None)], "dtype": str}
_PART = {
    "file": str,
    "signature": (str, None),
    "inputs": [_TENSOR],
    "outputs": [{**_TENSOR, "exit": (str, None)}],
}
_FORM = {
    "version": int,
    "model": str,
    "format": str,
    "precision": str,
    "batch_size": (int, None),
    "inputs": [{**_TENSOR, "key": str}],
    "exits": [{"exit": str, "backbone": int, "with_head": int, "with_all_heads": int, "params": int}],
    "sigmoid": [str],
    "inference": ({}, None),
    "preprocessing": ({}, None),
    "class_names": ([str], None),
    "whole": (_PART, None),
    "stages": ([{**_PART, "exit": str, "macs": int}], None),
    "files": {str: {"bytes": int, "sha256": str}},
}
# Files, besides hidden ones, that Python and file managers create in folders. They are ignored.
_LEFTOVERS = ("__pycache__", "__macosx", "@eadir", "thumbs.db", "desktop.ini")
# All optional.
_INFERENCE = {
    "temperatures": {str: float},
    "exits": [str],
    "thresholds": [list],
    "risk_thresholds": [{"threshold": float, "exits": [str], "temperatures": [float]}],
}
_TYPES = "string bool float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64".split()


def read_description(folder):
    """Reads an export's description, and verifies its hash, its consistency and its files."""
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        version = description["version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"'{folder}' holds no exported network: {DESCRIPTION} cannot be read ({error!r}). Expected a folder that "
            "`anytime_keras.export` wrote."
        ) from error
    if version != VERSION:
        raise ValueError(
            f"'{folder}' is an exported set of version {version}. Expected: {VERSION}. Use its own run_exported.py."
        )
    try:
        _expect(description.get("sha256") == fingerprint(description), "its own hash is another.")
        description = {"preprocessing": None, "class_names": None, **description}  # earlier sets have none
        _match(description, _FORM, "it")
        _check_description(description)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"'{folder / DESCRIPTION}' is not what was exported: {error} Copy or export it again."
        ) from error
    _check_files(folder, description["files"])
    return description


def _match(value, form, where):
    """Validates JSON data against a schema such as `_FORM`."""
    if isinstance(form, tuple):
        if value is not form[1]:
            _match(value, form[0], where)
        return
    kind = form if isinstance(form, type) else type(form)
    accepted = (int, float) if kind is float else kind
    fits = isinstance(value, accepted) and not isinstance(value, bool) and not (kind is int and value < 0)
    _expect(fits, f"{where} must be {kind.__name__}{' of 0 or more' if kind is int else ''}, and is {value!r:.80}.")
    if isinstance(form, list):
        for position, each in enumerate(value):
            _match(each, form[0], f"{where}[{position}]")
    if isinstance(form, dict):
        for key in value if str in form else form:
            _expect(key in value, f"{where} has no '{key}'.")
            _match(value[key], form[str] if str in form else form[key], f"{where}['{key}']")


def _check_description(description):
    """Checks that a description's inputs, exits, stages and files are consistent."""
    inputs, exits, files = (description[key] for key in ("inputs", "exits", "files"))
    known, names = {tensor["name"]: tensor for tensor in inputs}, [cost["exit"] for cost in exits]
    keys = {tensor["key"] for tensor in inputs}
    _expect(description["format"] in RUNTIMES, f"format {description['format']!r} is not of {list(RUNTIMES)}.")
    _expect(description["batch_size"] != 0, "its batch size is 0.")
    _expect(inputs and len(known) == len(keys) == len(inputs), "its inputs need different names.")
    _expect(names and len(set(names)) == len(names), "its exits need different names.")
    for tensor in inputs:
        _check_tensor(tensor, description["batch_size"])
    check_inference(description["inference"])
    _check_preprocessing(description)
    whole, stages = description["whole"], description["stages"]
    _expect(whole is not None or stages is not None, "it has neither the whole network nor stages.")
    if whole is not None:
        _check_part(whole, "the whole", known, names, description)
    if stages is not None:
        _expect([stage["exit"] for stage in stages] == names, f"its stages are not those of the exits {names}.")
        paid = 0
        for stage, cost in zip(stages, exits):
            where = f"the stage of '{stage['exit']}'"
            _check_part(stage, where, known, [stage["exit"]], description)
            _expect(stage["macs"] == cost["with_all_heads"] - paid, f"{where} and its exit disagree on MACs.")
            paid = cost["with_all_heads"]
            known = {**known, **{tensor["name"]: tensor for tensor in stage["outputs"]}}


def _check_preprocessing(description):
    """Checks that the preprocessing of raw images gives the network's input."""
    if description["preprocessing"] is None:
        return
    shape = list(HostPreprocessor.from_config(description["preprocessing"]).image_shape)
    shapes = [tensor["shape"][1:] for tensor in description["inputs"]]
    fits = len(shapes) == 1 and len(shapes[0]) == 3 and all(a in (None, b) for a, b in zip(shapes[0], shape))
    _expect(fits, f"its preprocessing gives images of shape {shape}, and the network takes {shapes}.")


def _check_part(part, where, known, exits, description):
    """Checks one part; `known` is a dict by name of the tensors that it may take."""
    single = description["format"] == "saved_model"
    file = "saved_model/saved_model.pb" if single else part["file"]
    _expect(file in description["files"] and (not single or part["file"] == "saved_model"), f"{where} has no file.")
    named = part["signature"] is not None or description["format"] in ("onnx", "openvino")
    _expect(named, f"{where} has no signature.")
    for tensor in part["inputs"]:
        given = known.get(tensor["name"], {})
        same = all(tensor[key] == given.get(key) for key in _TENSOR)
        _expect(same, f"{where} takes '{tensor['name']}', which nothing before gives in that shape and type.")
    names = [tensor["name"] for tensor in part["outputs"]]
    for tensor in part["outputs"]:
        _check_tensor(tensor, description["batch_size"])
    _expect(len({*names, *known}) == len(names) + len(known), f"{where} gives a tensor that is there already.")
    answered = [tensor["exit"] for tensor in part["outputs"] if tensor["exit"] is not None]
    _expect(answered == exits, f"{where} must answer for {exits}, and does for {answered}.")


def _check_tensor(tensor, batch_size):
    _expect(tensor["dtype"] in _TYPES, f"'{tensor['name']}' has the unknown type {tensor['dtype']!r}.")
    _expect(tensor["shape"][:1] == [batch_size], f"'{tensor['name']}' is not for batches of {batch_size}.")


def check_inference(found):
    """Validates a model's `inference`, which contains the exits' temperatures, or None.

    Raises:
        ValueError: if it does not have the form that `Predictor` stores.
    """
    _match(found, ({}, None), "inference")
    for key, form in _INFERENCE.items():
        if found and key in found:
            _match(found[key], form, f"inference['{key}']")
    for name, temperature in (found or {}).get("temperatures", {}).items():
        _expect(0 < temperature < math.inf, f"the temperature of '{name}' must be above 0, and is {temperature}.")


def _check_files(folder, files):
    """Checks that the export's folder contains exactly the exported files, unchanged."""
    for name, expected in files.items():
        path = pathlib.PureWindowsPath(name)  # parses both kinds of slashes, and drives
        if path.anchor or ".." in path.parts:
            raise ValueError(f"{DESCRIPTION} of '{folder}' names a file outside of it: {name!r}. Do not use this set.")
        try:
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"'{folder / name}' is a link to a file outside of the set. Copy the file itself.")
            same = (folder / name).stat().st_size == expected["bytes"] and sha256(folder / name) == expected["sha256"]
        except (OSError, RuntimeError):  # RuntimeError: a link to itself
            same = False
        if not same:
            raise ValueError(
                f"'{folder / name}' is missing or is not the file that was exported. Copy or export it again."
            )
    known = {DESCRIPTION, *files}
    for file in folder.rglob("*"):
        name = file.relative_to(folder)
        leftover = any(part.startswith(".") or part.lower() in _LEFTOVERS for part in name.parts)
        if (file.is_symlink() or not file.is_dir()) and name.as_posix() not in known and not leftover:
            raise ValueError(f"'{file}' is not part of the exported set. Remove it, or export the set again.")


def _expect(fits, otherwise):
    if not fits:
        raise ValueError(otherwise)


def fingerprint(description):
    """Returns the SHA-256 of a description without its own hash, independent of JSON formatting."""
    rest = {key: value for key, value in description.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def sha256(path):
    """Returns the SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
