"""Helpers for error messages, shared across the package."""

import contextlib
import difflib
import os
import pathlib
from collections.abc import Callable, Collection, Iterable, Iterator


def guess(name: object, known: Iterable) -> str:
    """Returns a hint with the known names closest to `name`, or an empty string if none is close."""
    names = {str(other).lower(): str(other) for other in sorted(map(str, known), reverse=True)}
    near = [names[other] for other in difflib.get_close_matches(str(name).lower(), sorted(names), n=3, cutoff=0.5)]
    return f"Did you mean {' or '.join(map(repr, near))}?" if near else ""


def nearest(name: object, known: Iterable, most: int = 60) -> str:
    """Returns a hint with the known names closest to `name`, and all known names if there are at most `most`.

    >>> nearest("resan", ["resann", "msdnet33"])
    "Did you mean 'resann'? Known: 'msdnet33', 'resann'."
    """
    names = sorted(set(map(str, known)))
    hint = guess(name, names)
    if len(names) <= most:
        return f"{hint} Known: {', '.join(map(repr, names))}.".lstrip()
    return hint or f"Known: {', '.join(map(repr, names[:most]))} and {len(names) - most} more."


def check_known(names: Iterable, known: Collection, message: str) -> None:
    """Raises ValueError if one of `names` is not known. `{}` in the message stands for the name; a hint follows it."""
    for name in names:
        if name not in known:
            raise ValueError(f"{message.replace('{}', str(name))} {nearest(name, known)}")


@contextlib.contextmanager
def explained(
    message: str,
    *kinds: type[Exception],
    end: str = "",
    raised: type[Exception] = ValueError,
    form: Callable[[Exception], str] = str,
) -> Iterator[None]:
    """Raises an error in place of errors of some kinds: the message, the original error as text, and `end`."""
    try:
        yield
    except kinds as error:
        raise raised(f"{message}{form(error)}{end}") from error


def expanded(path: str | os.PathLike, remedy: str) -> pathlib.Path:
    """Expands `~` in a path. Raises an OSError that ends with `remedy` if there is no home directory."""
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise OSError(f"'{path}' lies in a home directory, which this process does not have. {remedy}") from error
