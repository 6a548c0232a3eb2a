"""Downloads files into a cache, where they are named by their SHA-256 and verified on every read."""

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

# A server is considered stalled after TIMEOUT seconds without data, or below SLOWEST bytes per second.
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
    """Returns the content of a file with a known hash, from the cache or the network.

    A file is moved into the cache only after it is complete, flushed to disk and verified. If several processes need
    it, one downloads and the others wait. Partial files of killed processes are removed at the next request.

    Args:
        url: str.
        sha256: str, the expected hash, also of a cached file.
        size: int, the expected length in bytes; a longer download is aborted.

    Raises:
        OSError: if the file is neither cached nor downloadable, or the cache is not writable.
        ValueError: if the downloaded file does not match.
    """
    place = folder() / "files" / sha256
    found = _read(place, size)
    if found is not None and is_content(found, sha256, size):
        return found  # works with a read-only cache
    with _writing(place):
        found = _read(place, size)
        if found is not None:
            if is_content(found, sha256, size):
                return found  # downloaded by another process meanwhile
            place.unlink()
        found = _download(url, size)
        if not is_content(found, sha256, size):
            raise ValueError(
                f"'{url}' does not match its manifest. Expected: {size} bytes, sha256 {sha256}. Received: "
                f"{_amount(found, size)}, sha256 {hashlib.sha256(found).hexdigest()}. The download was discarded."
            )
        _keep(place, found)
    return found


def page(url):
    """Returns a file that may change, from the network or, when offline, from the cache.

    Raises:
        OSError: if the file is neither downloadable nor cached.
    """
    place = folder() / "pages" / hashlib.sha256(url.encode()).hexdigest()
    try:
        found = _download(url, MAX_PAGE_BYTES)
    except FileNotFoundError:
        raise
    except OSError:
        found = _read(place, MAX_PAGE_BYTES)
        # The first line is the hash of the rest, because a page has no known hash.
        own, _, text = (found or b"").partition(b"\n")
        if hashlib.sha256(text).hexdigest().encode() != own:
            raise
        return text
    with contextlib.suppress(OSError):  # caching is optional
        with _writing(place):
            _keep(place, hashlib.sha256(found).hexdigest().encode() + b"\n" + found)
    return found


def _read(place, size):
    """Returns a file's content, or None. Reads slightly more than `size` bytes, so that a longer file is noticed."""
    try:
        with open(place, "rb") as file:
            return file.read(size + 100)
    except OSError:
        return None


@contextlib.contextmanager
def _writing(place):
    """Locks a cache entry for writing and removes partial files of killed processes."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        locks = folder() / "locks"
        locks.mkdir(exist_ok=True)
        lock = open(locks / place.name, "w")
    except OSError as error:
        raise OSError(
            f"The cache '{folder()}' is not writable: {error}. Set ANYTIME_KERAS_CACHE to a writable directory."
        ) from error
    with lock:
        if _locked(lock):
            for left in place.parent.glob(f"{place.name}.*.part"):
                left.unlink(missing_ok=True)
        yield


def _locked(file):
    """Waits for a lock and returns True, or returns False where locks are not supported."""
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
            f"The cache '{folder()}' is full or not writable: {error}. Set ANYTIME_KERAS_CACHE to another directory."
        ) from error


def write(path, content):
    """Writes a file atomically."""
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".part")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(unfinished, 0o644)  # `mkstemp` sets 0o600
        os.replace(unfinished, path)
    except BaseException:
        pathlib.Path(unfinished).unlink(missing_ok=True)
        raise


class _SameSafety(urllib.request.HTTPRedirectHandler):
    """Refuses redirects from https: to any other scheme."""

    def redirect_request(self, request, response, code, message, headers, url):
        if not url.startswith("https://") and request.full_url.startswith("https://"):
            raise urllib.error.URLError(f"it redirects to '{url}', which is not safe")
        return super().redirect_request(request, response, code, message, headers, url)


def _download(url, most):
    """Downloads a file, up to one byte more than `most` so that a longer file is noticed."""
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
        raise kind(f"'{url}' cannot be downloaded: the server returned {error.code} {error.reason}.") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ConnectionError(f"'{url}' cannot be downloaded: {error}. Check the network connection.") from error


def _read_in_time(response, most, expected):
    """Returns up to `most` bytes, with a time limit in case the server sends them very slowly."""
    found, seconds = bytearray(), TIMEOUT + expected / SLOWEST
    end = time.monotonic() + seconds
    while len(found) < most and (part := response.read1(min(most - len(found), 2**16))):
        found += part
        if time.monotonic() > end and len(found) < expected:
            raise TimeoutError(f"only {len(found)} bytes arrived in {seconds:.0f} s")
    return bytes(found)


def _amount(found, size):
    return f"more than {size} bytes" if len(found) > size else f"{len(found)} bytes"
