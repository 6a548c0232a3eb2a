"""Files that are complete or absent: the cache's folder, atomic writes, locks and hashes."""

import contextlib
import hashlib
import json
import os
import pathlib
import secrets
import tempfile
from collections.abc import Iterator
from typing import Any

from anytime_keras import _errors

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def cache_folder() -> pathlib.Path:
    """Returns the user's cache: `ANYTIME_KERAS_CACHE`, or `anytime_keras` in `XDG_CACHE_HOME` or ~/.cache."""
    remedy = "Set ANYTIME_KERAS_CACHE to a folder in which downloads are kept."
    own = os.environ.get("ANYTIME_KERAS_CACHE")
    if own:
        return _errors.expanded(own, remedy)
    return _errors.expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache", remedy) / "anytime_keras"


def sha256(content: bytes) -> str:
    """Returns the SHA-256 of bytes, as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def digest(content: Any, **options: Any) -> str:
    """Returns the SHA-256 of plain data as JSON text; `options` are those of `json.dumps`."""
    return sha256(json.dumps(content, **options).encode())


def with_hash(content: bytes) -> bytes:
    """Prepends the hash of a file that has no known one, for `without_hash`."""
    return sha256(content).encode() + b"\n" + content


def without_hash(content: bytes | None) -> bytes | None:
    """Returns what `with_hash` was given, or None if it was changed or truncated."""
    own, _, rest = (content or b"").partition(b"\n")
    return rest if sha256(rest).encode() == own else None


def read(path: str | os.PathLike, most: int | None = None) -> bytes | None:
    """Returns a file's content, up to `most` bytes, or None if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(-1 if most is None else most)
    except OSError:
        return None


def read_json(path: str | os.PathLike, expected: str) -> Any:
    """Returns the content of a JSON file; `expected` describes it in the ValueError if the file is not JSON."""
    with _errors.explained(f"'{path}' must be {expected}. Received: ", ValueError, end="."):
        return json.loads(pathlib.Path(path).read_text())


def to_json(content: Any, path: str | os.PathLike | None = None) -> str:
    """Returns plain data as JSON text, and writes it to a file if `path` is given."""
    text = json.dumps(content, indent=1)
    if path is not None:
        pathlib.Path(path).write_text(text + "\n")
    return text


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Locks an entry of the cache for writing and removes partial files of killed processes."""
    remedy = ". Set ANYTIME_KERAS_CACHE to a writable directory."
    with _errors.explained(f"The cache '{cache_folder()}' is not writable: ", OSError, end=remedy, raised=OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        locks = cache_folder() / "locks"
        locks.mkdir(exist_ok=True)
        lock = open(locks / path.name, "w")
    with lock:
        with contextlib.suppress(OSError, AttributeError):  # a file system without locks; a system without fcntl
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in path.parent.glob(f"{path.name}.*.part"):
                left.unlink(missing_ok=True)
        yield


def lock_folder(folder: pathlib.Path) -> int | None:
    """Locks a folder until the returned descriptor is closed; returns None on systems without locks.

    Raises BlockingIOError if another process holds the lock.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # a file system without locks
        pass
    return descriptor


def write(path: pathlib.Path, content: bytes) -> None:
    """Writes a file atomically."""
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(unfinished, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def put(path: pathlib.Path, content: bytes | str) -> None:
    """Writes a file atomically, creates its folder, and removes partial files of killed processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f"{path.name}.*.part"):
        left.unlink(missing_ok=True)
    write(path, content.encode() if isinstance(content, str) else content)


def check_folder(path: str | os.PathLike, mark: str, kind: str, overwrite: bool) -> pathlib.Path:
    """Returns the path of a folder that `writing_folder` may fill, with `~` expanded.

    It may be missing or empty, or contain the file `mark` if `overwrite`. `kind` names such a folder.

    Raises:
        FileExistsError: otherwise.
    """
    path = pathlib.Path(os.path.expanduser(path))
    real = pathlib.Path(os.path.realpath(path))
    if os.path.lexists(real) and not (real.is_dir() and not any(real.iterdir())):
        if not overwrite:
            raise FileExistsError(f"'{path}' already exists. Pass `overwrite=True` to replace {kind}.")
        if not (real / mark).is_file():
            raise FileExistsError(f"'{path}' is not {kind}, so it is not replaced. Choose another folder.")
    return path


@contextlib.contextmanager
def writing_folder(path: str | os.PathLike, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """Yields an empty folder to fill. Its content then becomes that of `path`; after an error, `path` is as it was.

    An existing folder is kept, because it may be the working directory or a mounted volume. If it is not empty, its
    content is replaced if `overwrite`; otherwise FileExistsError is raised. Links are followed.
    """
    path = pathlib.Path(os.path.realpath(path))
    exists = path.is_dir()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=path if exists else path.parent) as scratch:
        new, old = pathlib.Path(scratch, "new"), pathlib.Path(scratch, "old")
        new.mkdir()
        old.mkdir()
        yield new
        if not exists:
            os.rename(new, path)
            return
        present = [entry for entry in path.iterdir() if entry != pathlib.Path(scratch)]
        if present and not overwrite:
            raise FileExistsError(f"'{present[0]}' was written meanwhile and is kept. Choose another folder.")
        moves = [(entry, old / entry.name) for entry in present]
        moves += [(entry, path / entry.name) for entry in new.iterdir()]
        try:
            for source, target in moves:
                os.rename(source, target)
        except BaseException:
            for source, target in reversed(moves):
                if os.path.lexists(target) and not os.path.lexists(source):
                    os.rename(target, source)
            raise
