"""Files from the network: downloaded once, kept under the hash of their content, and checked whenever they are read."""

import contextlib
import hashlib
import http.client
import os
import pathlib
import tempfile
import time
import urllib.error
import urllib.request

from anytime_keras import _errors
from anytime_keras.version import __version__

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# A server counts as stalled after so many seconds without a byte, or if it sends a file at fewer bytes a second.
TIMEOUT = 20.0
SLOWEST = 2**14
MAX_PAGE_BYTES = 10_000_000


def folder():
    """Returns where downloads are kept: `ANYTIME_KERAS_CACHE`, or `anytime_keras` in `XDG_CACHE_HOME` or ~/.cache.

    Raises:
        OSError: if that lies in a home directory and there is none.
    """
    remedy = "Set ANYTIME_KERAS_CACHE to a folder in which downloads are kept."
    own = os.environ.get("ANYTIME_KERAS_CACHE")
    if own:
        return _errors.expanded(own, remedy)
    return _errors.expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache", remedy) / "anytime_keras"


def is_content(content, sha256, size):
    return len(content) == size and hashlib.sha256(content).hexdigest() == sha256


def content(url, sha256, size):
    """Returns the content of a file of known hash, from the cache or the network.

    A file is written beside its place and moved there when it is whole, on the disk, and has the right hash. Several
    processes wait for the one that downloads. What a killed process left is removed when the file is next asked for.

    Args:
        url: str.
        sha256: str, the hash that the content must have, in the cache too.
        size: int, its length in bytes; a download stops beyond.

    Raises:
        OSError: if the file can be had from neither, or the cache cannot be written to.
        ValueError: if the network gives another file.
    """
    place = folder() / "files" / sha256
    found = _read(place, size)
    if found is not None and is_content(found, sha256, size):
        return found  # a cache that cannot be written to does
    with _writing(place):
        found = _read(place, size)
        if found is not None:
            if is_content(found, sha256, size):
                return found  # another process was faster
            place.unlink()
        found = _download(url, size)
        if not is_content(found, sha256, size):
            raise ValueError(
                f"'{url}' is not the file that its manifest names. Expected: {size} bytes, sha256 {sha256}. Received: "
                f"{_amount(found, size)}, sha256 {hashlib.sha256(found).hexdigest()}. It has not been kept."
            )
        _keep(place, found)
    return found


def page(url):
    """Returns a file that changes, from the network or, offline, as it was last seen.

    Raises:
        OSError: if neither has it.
    """
    place = folder() / "pages" / hashlib.sha256(url.encode()).hexdigest()
    try:
        found = _download(url, MAX_PAGE_BYTES)
    except FileNotFoundError:
        raise
    except OSError:
        found = _read(place, MAX_PAGE_BYTES)
        # The first line is the hash of the rest: of a page nobody else knows it.
        own, _, text = (found or b"").partition(b"\n")
        if hashlib.sha256(text).hexdigest().encode() != own:
            raise
        return text
    with contextlib.suppress(OSError):  # it serves without being kept
        with _writing(place):
            _keep(place, hashlib.sha256(found).hexdigest().encode() + b"\n" + found)
    return found


def _read(place, size):
    """Returns a file's content up to one byte more than `size`, or None."""
    try:
        with open(place, "rb") as file:
            return file.read(size + 100)
    except OSError:
        return None


@contextlib.contextmanager
def _writing(place):
    """Keeps other processes from writing to the same place, and removes what a killed one left."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        locks = folder() / "locks"
        locks.mkdir(exist_ok=True)
        lock = open(locks / place.name, "w")
    except OSError as error:
        raise OSError(
            f"The cache '{folder()}' cannot be written to: {error}. Set ANYTIME_KERAS_CACHE to a folder that can."
        ) from error
    with lock:
        if _locked(lock):
            for left in place.parent.glob(f"{place.name}.*.part"):
                left.unlink(missing_ok=True)
        yield


def _locked(file):
    """Waits for a lock; False where there are none, so that each process downloads for itself."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        return True
    except (OSError, AttributeError):  # a file system without locks; a system without fcntl
        return False


def _keep(place, found):
    try:
        write(place, found)
    except OSError as error:
        raise OSError(
            f"The cache '{folder()}' has no room or cannot be written to: {error}. Set ANYTIME_KERAS_CACHE to another "
            f"folder."
        ) from error


def write(path, content):
    """Writes a file so that it is there as a whole or not at all."""
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".part")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(unfinished, 0o644)  # it was the user's alone
        os.replace(unfinished, path)
    except BaseException:
        pathlib.Path(unfinished).unlink(missing_ok=True)
        raise


class _SameSafety(urllib.request.HTTPRedirectHandler):
    """Follows no redirection from https: to anything else."""

    def redirect_request(self, request, response, code, message, headers, url):
        if not url.startswith("https://") and request.full_url.startswith("https://"):
            raise urllib.error.URLError(f"it leads to '{url}', which is not safe")
        return super().redirect_request(request, response, code, message, headers, url)


def _download(url, most):
    """Returns what a server sends: at most one byte more than `most`, so that too much is seen."""
    request = urllib.request.Request(url, headers={"User-Agent": f"anytime-keras/{__version__}"})
    try:
        with urllib.request.build_opener(_SameSafety).open(request, timeout=TIMEOUT) as response:
            expected = int(response.headers.get("Content-Length") or -1)
            found = _read_in_time(response, most + 1, most if expected < 0 else min(expected, most))
        if len(found) < min(expected, most):
            raise ConnectionError(f"the connection ended after {len(found)} of {expected} bytes")
        return found
    except urllib.error.HTTPError as error:
        error.close()
        kind = FileNotFoundError if error.code in (404, 410) else ConnectionError
        raise kind(f"'{url}' cannot be had: the server says {error.code} {error.reason}.") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ConnectionError(f"'{url}' cannot be had: {error}. Is the network there?") from error


def _read_in_time(response, most, expected):
    """Returns up to `most` bytes; a server that sends them one by one would keep us for ever."""
    found, seconds = bytearray(), TIMEOUT + expected / SLOWEST
    end = time.monotonic() + seconds
    while len(found) < most and (part := response.read1(min(most - len(found), 2**16))):
        found += part
        if time.monotonic() > end and len(found) < expected:
            raise TimeoutError(f"only {len(found)} bytes came in {seconds:.0f} s")
    return bytes(found)


def _amount(found, size):
    return f"more than {size} bytes" if len(found) > size else f"{len(found)} bytes"
