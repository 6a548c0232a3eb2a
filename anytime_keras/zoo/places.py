"""Zoos, which are directories or sites with manifests and the files that the manifests refer to."""

import functools
import json
import os
import pathlib
import urllib.parse
import urllib.request

import anytime_keras
from anytime_keras import _errors, _files
from anytime_keras.zoo import cache, schema
from anytime_keras.zoo.manifest import FORMAT, File, Manifest

VARIABLE = "ANYTIME_KERAS_ZOO"


class Folder:
    """A zoo in a directory with `manifests/NAME.json` and `weights/`, or a single manifest with the path `lone`."""

    def __init__(self, path, lone=None):
        self.path, self.lone = pathlib.Path(path), lone

    def __str__(self):
        return str(self.path)

    def names(self):
        """Lists the names of the zoo's manifests."""
        if self.lone:
            return [self.manifest(None).name]
        return sorted(file.stem for file in self.path.glob("manifests/*.json") if schema.NAME.fullmatch(file.stem))

    def manifest(self, name):
        """Reads the manifest of a name."""
        path = self.lone or self.path / "manifests" / f"{name}.json"
        with open(path, "rb") as file:
            manifest = Manifest.parse(file.read(cache.MAX_PAGE_BYTES), path)
        return manifest if self.lone else _named(manifest, name)

    def holds(self, file):
        return (self.path / file.path).exists()

    def read(self, file):
        """Returns a file's content, or raises ValueError if it does not match the manifest or is outside the zoo."""
        path = self.path / file.path
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise ValueError(f"Weights must be inside their zoo. Received: '{path}', a link to '{path.resolve()}'.")
        if path.exists() and not path.is_file():
            raise ValueError(f"'{path}' must be a file with weights. Received: not a file.")
        with open(path, "rb") as opened:
            content = opened.read(file.bytes + 1)
        if not cache.is_content(content, file.sha256, file.bytes):
            raise ValueError(
                f"'{path}' is damaged or does not match its manifest. Expected: {file.bytes} bytes, sha256 "
                f"{file.sha256}. Received: {path.stat().st_size} bytes, sha256 {_files.sha256(content)}. "
                f"Restore it, for example with `git checkout`."
            )
        return content


class Site:
    """A zoo at an https: address, with `index.json` beside a directory's files; or a single manifest, `lone`."""

    def __init__(self, url, lone=None):
        self.url = check_url(url.rstrip("/") + "/")
        self.lone = lone

    def __str__(self):
        return self.url

    @functools.cached_property
    def _index(self):
        """Dict from a name to its manifest's `File`, read once per process."""
        where = f"{self.url}index.json"
        with _errors.explained(f"'{where}' is not a valid index of a zoo: ", ValueError, RecursionError):
            content = json.loads(cache.page(where))
            schema.check(content, schema.INDEX, "index")
            for name, entry in content["manifests"].items():
                schema.check_name(name, "index.manifests")
                schema.check(entry, schema.FILE, f"index.manifests.{name}")
                if schema.is_url(entry["path"]):
                    raise ValueError(f"index.manifests.{name}.path must be inside the zoo.")
        if content["format"] != FORMAT:
            raise ValueError(f"'{where}' must have format {FORMAT}. Received: {content['format']}.")
        return {name: File(**entry) for name, entry in content["manifests"].items()}

    @functools.cached_property
    def _lone_manifest(self):
        return Manifest.parse(cache.page(self.lone), self.lone)

    def names(self):
        return [self._lone_manifest.name] if self.lone else sorted(self._index)

    def manifest(self, name):
        if self.lone:
            return self._lone_manifest
        return _named(Manifest.parse(self.read(self._index[name]), f"{self.url}{self._index[name].path}"), name)

    def holds(self, file):
        return True

    def read(self, file):
        return cache.content(self.url + file.path, file.sha256, file.bytes)


site = functools.cache(Site)


def place(where):
    """Returns the zoo at the path, or file: or https: address, of a directory or manifest."""
    text = os.fspath(where)
    if schema.is_url(text) and not text.startswith("file://"):
        if not text.endswith(".json"):
            return site(text)
        return site(text.rsplit("/", 1)[0].removesuffix("/manifests"), lone=check_url(text))
    if text.startswith("file:"):
        text = urllib.request.url2pathname(urllib.parse.urlsplit(text).path)
    path = _errors.expanded(text, "Pass the zoo's absolute path.")
    if path.is_file() and path.suffix == ".json":  # its files are in the zoo or, outside `manifests/`, beside it
        return Folder(path.parents[1] if path.parent.name == "manifests" else path.parent, lone=path)
    if (path / "manifests").is_dir():
        return Folder(path)
    raise ValueError(f"'{where}' must be a directory with `manifests/`, a manifest (.json), or the address of one.")


def check_url(url):
    """Returns an address, or raises ValueError unless it is https:, or http: on this machine."""
    parts = urllib.parse.urlsplit(url)
    safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in schema.LOOPBACK)
    if not safe or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError(
            f"A zoo's address must begin with https:// and lead to a directory or a manifest. Received: '{url}'."
        )
    return url


def own():
    """Returns the checkout's `zoo/`, or the one in the installed package."""
    package = pathlib.Path(anytime_keras.__file__).parent
    checkout = package.parent / "zoo"
    return Folder(checkout if (package.parent / "setup.cfg").is_file() and checkout.is_dir() else package / "_zoo")


def from_environment():
    """Returns the zoo at `ANYTIME_KERAS_ZOO`, or None."""
    where = os.environ.get(VARIABLE)
    return place(where) if where else None


def read_file(file, home):
    """Returns the verified content of a manifest's `File`; `ANYTIME_KERAS_ZOO` provides what the zoo `home` lacks."""
    if schema.is_url(file.path):
        if not file.path.startswith("https://") and _origin(file.path) != _origin(str(home)):
            raise ValueError(f"A manifest's files must be in its zoo or at https: addresses. Received: '{file.path}'.")
        return cache.content(file.path, file.sha256, file.bytes)
    if home.holds(file):
        return home.read(file)
    other = from_environment()
    if other is None or not other.holds(file):
        raise FileNotFoundError(
            f"'{home}' does not contain '{file.path}'. Set {VARIABLE} to the directory `zoo` of a checkout, or to its "
            "https: address."
        )
    return other.read(file)


def has_file(file, home):
    """Returns whether a file in a manifest of the zoo `home` is here or can be downloaded; see `read_file`."""
    if schema.is_url(file.path) or home.holds(file):
        return True
    other = from_environment()
    return other is not None and other.holds(file)


def _origin(url):
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _named(manifest, name):
    if manifest.name != name:
        raise ValueError(f"The manifest of '{name}' must have this name. Received: '{manifest.name}'.")
    return manifest
