"""Damaged files, failing servers, read-only caches, and several processes at once."""

import errno
import json
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

import anytime_keras as ak
from anytime_keras.zoo import cache, places
from tests import checks
from tests.zoo.conftest import NAME

WEIGHTS = f"{NAME}_digits.npz"
ROOT = pathlib.Path(ak.__file__).parent


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a bit flipped": flip,
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "swapped for the golden pair": lambda path: shutil.copy(path.with_name(f"{NAME}_digits-golden.npz"), path),
}


def kept():
    """Returns the names of the cache's files except locks."""
    return sorted(path.name for path in cache.folder().rglob("*") if path.is_file() and path.parent.name != "locks")


def cached_weights():
    sha256 = ak.zoo.show(NAME).pick().files[0].sha256
    return cache.folder() / "files" / sha256


def test_the_example_of_adding_a_zoo_runs(zoo, monkeypatch):
    monkeypatch.chdir(zoo.parent)
    zoo.rename(zoo.parent / "our_zoo")
    left = checks.run_example(ak.zoo.add)
    assert left["names"] == [NAME] and isinstance(left["model"], ak.AnytimeModel)


def test_errors_without_a_home_directory_name_the_variable_to_set(monkeypatch):
    def nobody(number):
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for variable in ("HOME", "XDG_CACHE_HOME", "ANYTIME_KERAS_CACHE", "TFDS_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(OSError, match="'~/.cache' lies in a home directory.* Set ANYTIME_KERAS_CACHE to a folder"):
        cache.content("https://example.com/file", "0" * 64, 1)
    for name in ("tiny_imagenet", "cifar10"):
        with pytest.raises(OSError, match="home directory.*Pass the `data_dir`.*or set TFDS_DATA_DIR"):
            ak.data.load(name, download=False)
    with pytest.raises(OSError, match="'~/zoo' lies in a home directory.* Pass the zoo's absolute path"):
        ak.zoo.add("~/zoo")
    monkeypatch.setenv("ANYTIME_KERAS_CACHE", "/tmp/cache")
    assert cache.folder() == pathlib.Path("/tmp/cache")


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_in_a_folder_is_refused_and_named(zoo, damage):
    ak.zoo.add(zoo)
    damage(zoo / "weights" / WEIGHTS)
    with pytest.raises(ValueError, match=f"{WEIGHTS}' is damaged"):
        ak.zoo.load(NAME)


@pytest.mark.parametrize("damage", list(DAMAGE.values())[:4], ids=list(DAMAGE)[:4])
def test_a_damaged_file_in_the_cache_is_downloaded_again(site, tiny, damage):
    ak.zoo.load(NAME)
    good = cached_weights().read_bytes()
    damage(cached_weights())
    model = ak.zoo.load(NAME)
    assert cached_weights().read_bytes() == good
    assert (model.get_weights()[0] == tiny.get_weights()[0]).all()
    damage(cached_weights())
    site.stop()
    with pytest.raises(OSError, match="cannot be downloaded"):
        ak.zoo.load(NAME)
    assert WEIGHTS not in kept() and not cached_weights().exists(), "a damaged file is not left behind"


def test_a_network_that_was_loaded_before_loads_offline(site, tiny):
    ak.zoo.load(NAME)
    asked = len(site.asked)
    ak.zoo.load(NAME)
    assert len(site.asked) == asked, "what is in the cache is not asked for again"
    site.stop()
    places.site.cache_clear()  # another process
    assert NAME in ak.zoo.list()
    assert (ak.zoo.load(NAME).get_weights()[0] == tiny.get_weights()[0]).all()


def test_offline_and_never_loaded_is_a_clear_error(site):
    site.stop()
    with pytest.raises(OSError, match="index.json' cannot be downloaded.*network"):
        ak.zoo.load(NAME)


@pytest.mark.long
@pytest.mark.parametrize("end", ["index.json", f"{NAME}.json", WEIGHTS])
@pytest.mark.parametrize("how", ["stall", "drip", "cut", "empty", "other", "longer", 404, 500])
def test_a_failed_download_leaves_nothing_and_is_retried(site, zoo, end, how, monkeypatch):
    content = next(zoo.rglob(end)).read_bytes()
    site.bad[end] = {
        "stall": ("stall", content),
        "drip": ("drip", content),
        "cut": ("cut", content),
        "empty": ("send", b""),
        "other": ("send", b"<html>Please log in</html>"),
        "longer": ("send", content + b"\0"),
    }.get(how, ("status", how))
    with monkeypatch.context() as patch, pytest.raises((ValueError, OSError), match=end):
        if how in ("stall", "drip"):
            patch.setattr(cache, "TIMEOUT", 1.5)
        ak.zoo.load(NAME)
    good = {path.read_bytes() for path in zoo.rglob("*") if path.is_file()}
    for path in (cache.folder() / "files").glob("*"):
        assert path.read_bytes() in good, "a wrong file stayed"
    assert not list(cache.folder().rglob("*.part"))
    site.bad.clear()
    places.site.cache_clear()
    ak.zoo.load(NAME)


def test_an_index_that_was_damaged_in_the_cache_is_not_used_offline(site):
    ak.zoo.load(NAME)
    for page in (cache.folder() / "pages").iterdir():
        flip(page)
    site.stop()
    places.site.cache_clear()
    with pytest.raises(OSError, match="cannot be downloaded"):
        ak.zoo.list()


def test_a_manifest_that_differs_from_the_index_is_refused(site, zoo):
    path = zoo / "manifests" / f"{NAME}.json"
    path.write_text(path.read_text().replace('"epochs": 3', '"epochs": 4'))
    with pytest.raises(ValueError, match="does not match its manifest"):
        ak.zoo.show(NAME)


def test_redirections_are_followed_but_never_to_a_file(site, zoo):
    site.bad[f"weights/{WEIGHTS}"] = ("redirect", f"{site.url}/elsewhere/{WEIGHTS}")
    (zoo / "elsewhere").mkdir()
    shutil.copy(zoo / "weights" / WEIGHTS, zoo / "elsewhere")
    ak.zoo.load(NAME)
    shutil.rmtree(cache.folder())
    site.bad[f"weights/{WEIGHTS}"] = ("redirect", (zoo / "weights" / WEIGHTS).as_uri())
    with pytest.raises(OSError, match="cannot be downloaded"):
        ak.zoo.load(NAME)


def test_https_is_never_redirected_to_http():
    import urllib.error
    import urllib.request

    request = urllib.request.Request("https://example.org/a")
    for url in ("http://example.org/a", "ftp://example.org/a", "http://127.0.0.1/a"):
        with pytest.raises(urllib.error.URLError, match="not safe"):
            cache._SameSafety().redirect_request(request, None, 302, "", {}, url)
    assert cache._SameSafety().redirect_request(request, None, 302, "", {}, "https://other.org/a") is not None


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/zoo",
        "ftp://example.org/zoo",
        "https://me:pw@example.org/zoo",
        "https:///zoo",
        "http://10.0.0.1/",
    ],
)
def test_zoos_are_loaded_over_https_only(url, monkeypatch):
    with pytest.raises(ValueError, match="must begin with https"):
        ak.zoo.add(url)
    monkeypatch.setenv("ANYTIME_KERAS_ZOO", url)
    with pytest.raises(ValueError, match="must begin with https"):
        ak.zoo.list()


def test_a_zoo_may_be_a_folder_a_manifest_or_an_address_of_one(zoo, server, monkeypatch):
    manifest = f"manifests/{NAME}.json"
    for where in (zoo, zoo / manifest, zoo.as_uri(), (zoo / manifest).as_uri(), server.url, f"{server.url}/{manifest}"):
        monkeypatch.setattr("anytime_keras.zoo.catalog._added", [])
        assert ak.zoo.add(where) == [NAME]
        ak.zoo.load(NAME)
    lone = zoo / "lone"
    shutil.copytree(zoo / "weights", lone / "weights")
    shutil.copy(zoo / manifest, lone / "any.json")
    monkeypatch.setattr("anytime_keras.zoo.catalog._added", [])
    assert ak.zoo.add(lone / "any.json") == [NAME]
    ak.zoo.load(NAME)


def test_missing_files_come_from_the_zoo_in_the_environment_variable(zoo, tmp_path, monkeypatch):
    """Like the large weights of an installed package."""
    bare = tmp_path / "bare"
    shutil.copytree(zoo / "manifests", bare / "manifests")
    ak.zoo.add(bare)
    with pytest.raises(FileNotFoundError, match="Set ANYTIME_KERAS_ZOO"):
        ak.zoo.load(NAME)
    monkeypatch.setenv("ANYTIME_KERAS_ZOO", str(zoo))
    ak.zoo.load(NAME)
    flip(zoo / "weights" / WEIGHTS)
    with pytest.raises(ValueError, match="damaged"):
        ak.zoo.load(NAME)


@pytest.fixture
def nobody(site, zoo):
    """A folder that this process cannot write to; root can write anywhere, and becomes another user.

    The server's thread becomes that user too, so that it gives out what it has in memory."""
    folder = pathlib.Path(tempfile.mkdtemp())
    files = [path for path in zoo.rglob("*") if path.is_file()]
    site.bad = {f"/{path.relative_to(zoo)}": ("send", path.read_bytes()) for path in files}
    was = os.geteuid()
    yield folder, (lambda: os.seteuid(65534) if was == 0 else None)
    os.seteuid(was)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_cache_still_serves_its_files(nobody, monkeypatch):
    folder, become = nobody
    monkeypatch.setenv("ANYTIME_KERAS_CACHE", str(folder))
    ak.zoo.load(NAME)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    become()
    ak.zoo.load(NAME)
    places.site.cache_clear()
    ak.zoo.load(NAME)


def test_a_cache_that_cannot_be_written_to_is_a_clear_error(nobody, monkeypatch):
    folder, become = nobody
    monkeypatch.setenv("ANYTIME_KERAS_CACHE", str(folder / "cache"))
    folder.chmod(0o555)
    become()
    with pytest.raises(OSError, match="not writable.*Set ANYTIME_KERAS_CACHE"):
        ak.zoo.load(NAME)


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(site, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device.*Set ANYTIME_KERAS_CACHE"):
            ak.zoo.load(NAME)
    assert kept() == []
    ak.zoo.load(NAME)


# The cache without Keras, which takes seconds to import.
CACHE_ALONE = f"""
import os, sys, time, types
for name, path in (("anytime_keras", {str(ROOT)!r}), ("anytime_keras.zoo", {str(ROOT / "zoo")!r})):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
from anytime_keras.zoo import cache
"""


def start(program, *arguments):
    command = [sys.executable, "-c", CACHE_ALONE + program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def file(zoo):
    return json.loads((zoo / "manifests" / f"{NAME}.json").read_text())["weights"]["digits"]["files"][0]


def test_several_processes_at_once_download_once(site, zoo, file):
    program = """
url, sha256, size = sys.argv[1:]
print("ready", flush=True)
while not os.path.exists(os.environ["ANYTIME_KERAS_CACHE"] + ".go"):
    time.sleep(0.001)
print(len(cache.content(url, sha256, int(size))))
"""
    processes = [start(program, f"{site.url}/{file['path']}", file["sha256"], file["bytes"]) for _ in range(8)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    pathlib.Path(f"{cache.folder()}.go").touch()
    for process in processes:
        assert process.communicate(timeout=60)[0] == f"{file['bytes']}\n" and process.returncode == 0
    assert len(site.asked) == 1 and kept() == [file["sha256"]]


def test_a_process_killed_while_it_writes_leaves_no_wrong_file(site, zoo, file):
    program = """
os.fsync = lambda descriptor: (print("writing", flush=True), time.sleep(60))
cache.content(sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""
    process = start(program, f"{site.url}/{file['path']}", file["sha256"], file["bytes"])
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [name.split(".")[-1] for name in kept()] == ["part"]
    ak.zoo.load(NAME)
    assert not [name for name in kept() if name.endswith(".part")] and cached_weights().exists()


def test_the_environment_variable_sets_the_cache(monkeypatch):
    monkeypatch.setenv("ANYTIME_KERAS_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache.folder() == pathlib.Path("/a")
    monkeypatch.delenv("ANYTIME_KERAS_CACHE")
    assert cache.folder() == pathlib.Path("/b/anytime_keras")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder() == pathlib.Path.home() / ".cache" / "anytime_keras"
