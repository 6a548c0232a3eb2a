"""The schema of manifests, which allows only known fields of plain JSON and no files outside the zoo."""

import math
import re
import urllib.parse

from anytime_keras._errors import check_known

NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")
# No part starts with a dot, which excludes `..`; no backslash, colon, percent sign or blank.
PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*(/[A-Za-z0-9_][A-Za-z0-9_.\-]*)*")
# No colon, because tensorflow-datasets downloads and runs code for names that contain one.
DATA_NAME = re.compile(r"[a-z][a-z0-9_]*(/[a-z0-9_]+)?")
MAX_FILE_BYTES = 50_000_000
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check(value, kind, where):
    """Raises ValueError unless a part of a manifest is of a kind; `where` is its location for error messages.

    A kind is a type; a dict from each field's name to its kind (all fields are required and no others are allowed); a
    list with the kind of all its elements; or a function that raises or returns nothing.
    """
    if isinstance(kind, dict):
        check(value, dict, where)
        check_known(value, kind, f"{where} has an unknown field '{{}}'.")
        for key in kind:
            if key not in value:
                raise ValueError(f"{where} has no field '{key}'. Received: {sorted(value)}.")
            check(value[key], kind[key], f"{where}.{key}")
    elif isinstance(kind, list):
        check(value, list, where)
        for number, element in enumerate(value):
            check(element, kind[0], f"{where}[{number}]")
    elif isinstance(kind, type):
        allowed = (int, float) if kind is float else kind
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{where} must be of type {kind.__name__}. Received: {value!r:.100}.")
    else:
        kind(value, where)


def _optional(kind):
    """Returns the kind of a field that may be null."""
    return lambda value, where: None if value is None else check(value, kind, where)


def _matches(pattern, what):
    def check_text(value, where):
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(f"{where} must be {what}. Received: {value!r:.100}.")

    return check_text


def _in_range(kind, low, high, what):
    def check_number(value, where):
        check(value, kind, where)
        if not low <= value <= high:
            raise ValueError(f"{where} must be {what}. Received: {value!r}.")

    return check_number


def is_url(path):
    return isinstance(path, str) and "://" in path


def _file_path(value, where):
    """Checks that a value is a path inside the zoo or an https: address; `places.read_file` restricts addresses."""
    if not is_url(value):
        return _matches(PATH, "a path inside the zoo, such as 'weights/a.npz', or an https: address")(value, where)
    url = urllib.parse.urlsplit(value)
    if url.scheme not in ("https", "http") or not url.hostname or url.username or url.password:
        raise ValueError(f"{where} must be a path inside the zoo or an https: address. Received: {value!r:.200}.")


def _plain(value, where, depth=0):
    """Checks that a value is a number, a string or a list of these, so that Keras does not deserialize an object."""
    if isinstance(value, list) and depth < 3:
        for element in value:
            _plain(element, where, depth + 1)
    elif not (value is None or isinstance(value, (bool, int, float, str))):
        raise ValueError(f"{where} must be a number, a string or a list of these. Received: {value!r:.100}.")


def _config(value, where):
    check(value, dict, where)
    for key, argument in value.items():
        if key in ("name", "dtype", "trainable", "kwargs"):
            raise ValueError(f"{where} must not contain '{key}', which is not an argument of the architecture.")
        _plain(argument, f"{where}.{key}")


def _statistics(value, where):
    """Checks that all values are finite numbers."""
    check(value, [float], where)
    if not all(map(math.isfinite, value)):
        raise ValueError(f"{where} must contain finite numbers only. Received: {value}.")


def _named(value, where):
    check(value, dict, where)
    check(value.get("name"), str, f"{where}.name")


_count = _in_range(int, 0, 2**53, "0 or more")
check_share = _in_range(float, 0, 1, "from 0 to 1")
_positive = _in_range(float, 0, 1e12, "a number of 0 or more")
check_name = _matches(NAME, "a name of lowercase letters, digits and underscores")
check_member = _matches(re.compile(f"{NAME.pattern}:{NAME.pattern}"), "a network and its weights, as 'name:label'")

FILE = {
    "path": _file_path,
    "sha256": _matches(re.compile("[0-9a-f]{64}"), "64 hexadecimal digits"),
    "bytes": _in_range(int, 1, MAX_FILE_BYTES, f"from 1 to {MAX_FILE_BYTES}"),
}
EXIT = {
    "name": str,
    **dict.fromkeys(("backbone", "with_head", "with_all_heads", "params"), _count),
    "accuracy": _optional(check_share),
    "loss": _optional(_positive),
}
DATA = {
    "name": _matches(DATA_NAME, "a data set's name"),
    "source": str,
    "licence": str,
    "class_names": _optional([str]),
    "mean": _optional(_statistics),
    "std": _optional(_statistics),
    "sizes": _optional(dict),
    "split_seed": _count,
}
MEASURED = {"split": str, "images": _in_range(int, 1, 2**53, "1 or more"), "split_seed": _count, "machine": dict}
CYCLE = {
    "recipe": dict,
    "seed": _count,
    "epochs": _positive,
    "images": _optional(_count),
    "minutes": _optional(_positive),
    "machine": dict,
    **dict.fromkeys(("commit", "note"), _optional(str)),
    **dict.fromkeys(("before", "after"), _optional([check_share])),
}
ENTRY = {
    "config": _config,
    "data": DATA,
    "params": _count,
    "exits": [EXIT],
    "weighting": _named,
    "recipe": _optional(dict),
    "licence": str,
    "files": [FILE],
    "precision": _optional(_matches(re.compile("float32|float16"), "float32 or float16")),
    "golden": _optional(FILE),
    "measured": _optional(MEASURED),
    "lineage": [CYCLE],
    "inference": _optional(dict),
}
MANIFEST = {
    "format": int,
    **dict.fromkeys(("name", "default"), check_name),
    **dict.fromkeys(("description", "reference", "architecture"), str),
    "weights": dict,
}
INDEX = {"format": int, "manifests": dict}
