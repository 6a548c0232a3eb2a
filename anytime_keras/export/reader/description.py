"""The description of an exported network, `exported.json`, and its checks."""

import hashlib
import json
import pathlib

from anytime_keras._errors import explained

DESCRIPTION = "exported.json"
VERSION = 2

# Files, besides hidden ones, that Python and file managers create in folders. They are ignored.
_LEFTOVERS = ("__pycache__", "__macosx", "@eadir", "thumbs.db", "desktop.ini")


def read_description(folder):
    """Reads an export's description and verifies its hash and those of the files."""
    what = f"'{folder}' is not an export: {DESCRIPTION} cannot be read ("
    end = "). Expected a folder that `anytime_keras.export` wrote."
    with explained(what, OSError, ValueError, KeyError, TypeError, RecursionError, end=end, form=repr):
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        version = description["version"]
    if version != VERSION:
        raise ValueError(
            f"'{folder}' must be an export of version {VERSION}. Received: version {version}. Use the run_exported.py "
            "in that folder."
        )
    if description.get("sha256") != fingerprint(description):
        raise ValueError(
            f"'{folder / DESCRIPTION}' is not what was exported: its hash differs. Copy or export it again."
        )
    _check_files(folder, description)
    return {"preprocessing": None, "class_names": None, **description}  # older exports lack these fields


def _check_files(folder, description):
    """Checks that the export's folder contains exactly the exported files, unchanged."""
    files, parts = description["files"], [description["whole"], *(description["stages"] or ())]
    for name in [*files, *(part["file"] for part in parts if part is not None)]:
        path = pathlib.PureWindowsPath(name)  # parses both kinds of slashes, and drives
        if path.anchor or ".." in path.parts:
            raise ValueError(
                f"{DESCRIPTION} in '{folder}' names a file outside this folder: {name!r}. Do not use this export."
            )
    for name, expected in files.items():
        try:
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"'{folder / name}' is a link to a file outside the export. Copy the file itself.")
            same = (folder / name).stat().st_size == expected["bytes"] and sha256(folder / name) == expected["sha256"]
        except (OSError, RuntimeError):  # RuntimeError: a link to itself
            same = False
        if not same:
            raise ValueError(f"'{folder / name}' is missing or was changed. Copy or export it again.")
    known = {DESCRIPTION, *files}
    for file in folder.rglob("*"):
        name = file.relative_to(folder)
        leftover = any(part.startswith(".") or part.lower() in _LEFTOVERS for part in name.parts)
        if (file.is_symlink() or not file.is_dir()) and name.as_posix() not in known and not leftover:
            raise ValueError(f"'{file}' is not part of the export. Remove it, or export the model again.")


def fingerprint(description):
    """Returns the SHA-256 of a description without its own hash, independent of JSON formatting."""
    rest = {key: value for key, value in description.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def sha256(path):
    """Returns the SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()  # the reader also runs on Python 3.10, which lacks `hashlib.file_digest`
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
