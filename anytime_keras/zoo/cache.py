"""Downloads files into a cache, where they are named by their SHA-256 and verified on every read."""

import contextlib
import http.client
import time
import urllib.error
import urllib.request

from anytime_keras import _files
from anytime_keras._errors import explained
from anytime_keras._files import cache_folder as folder
from anytime_keras.version import __version__

# A server is considered stalled after TIMEOUT seconds without data, or below SLOWEST bytes per second.
TIMEOUT = 20.0
SLOWEST = 2**14
MAX_PAGE_BYTES = 10_000_000


def is_content(content, sha256, size):
    return content is not None and len(content) == size and _files.sha256(content) == sha256


def content(url, sha256, size):
    """Returns the content of a file with a known hash, from the cache or the network.

    A file is moved into the cache only after it is complete, flushed to disk and verified. If several processes need
    it, one downloads and the others wait. A download that is longer than `size` bytes is aborted.
    """
    place = folder() / "files" / sha256
    if is_content(found := _read(place, size), sha256, size):
        return found  # works with a read-only cache
    with _files.writing(place):
        if is_content(found := _read(place, size), sha256, size):
            return found  # downloaded by another process meanwhile
        place.unlink(missing_ok=True)
        found = _download(url, size)
        if not is_content(found, sha256, size):
            received = f"more than {size}" if len(found) > size else str(len(found))
            raise ValueError(
                f"'{url}' does not match its manifest. Expected: {size} bytes, sha256 {sha256}. Received: {received} "
                f"bytes, sha256 {_files.sha256(found)}. The download was discarded."
            )
        _keep(place, found)
    return found


def page(url):
    """Returns a file that may change, from the network or, when offline, from the cache."""
    place = folder() / "pages" / _files.sha256(url.encode())
    try:
        found = _download(url, MAX_PAGE_BYTES)
    except FileNotFoundError:
        raise
    except OSError:
        text = _files.without_hash(_read(place, MAX_PAGE_BYTES))
        if text is None:
            raise
        return text
    with contextlib.suppress(OSError), _files.writing(place):  # caching is optional
        _keep(place, _files.with_hash(found))
    return found


def _read(place, size):
    """Returns a file's content, or None. Reads slightly more than `size` bytes, so that a longer file is noticed."""
    return _files.read(place, size + 100)


def _keep(place, found):
    remedy = ". Set ANYTIME_KERAS_CACHE to another directory."
    with explained(f"The cache '{folder()}' is full or not writable: ", OSError, end=remedy, raised=OSError):
        _files.write(place, found)


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
