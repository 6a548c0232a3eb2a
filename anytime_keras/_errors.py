"""Helpers for error messages, shared across the package."""

import difflib
import os
import pathlib
from collections.abc import Iterable


def nearest(name: object, known: Iterable, most: int = 60) -> str:
    """Returns a hint with the known names closest to `name`, and all known names if there are at most `most`.

    >>> nearest("resan", ["resann", "msdnet33"])
    "Did you mean 'resann'? Known: 'msdnet33', 'resann'."
    """
    names = sorted(set(map(str, known)))
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    if len(names) <= most:
        return f"{hint}Known: {', '.join(map(repr, names))}."
    return hint.strip() or f"Known: {', '.join(map(repr, names[:most]))} and {len(names) - most} more."


def expanded(path: str | os.PathLike, remedy: str) -> pathlib.Path:
    """Expands `~` in a path to the home directory.

    Raises:
        OSError: if there is no home directory, as in some containers. The message ends with `remedy`.
    """
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise OSError(f"'{path}' lies in a home directory, which this process does not have. {remedy}") from error
