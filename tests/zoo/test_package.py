"""The wheel contains the manifests and the small weights."""

import configparser
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import anytime_keras as ak

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = [pytest.mark.tensorflow, pytest.mark.long]  # one backend is enough


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy, because files of earlier builds in the checkout would be included."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("anytime_keras", "zoo"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "zoo" / "weights" / "large").mkdir(exist_ok=True)
    (source / "zoo" / "weights" / "large" / "large.npz").write_bytes(b"not in the wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = out.glob("*.whl")
    return file


def test_the_wheel_carries_the_small_zoo(wheel):
    with zipfile.ZipFile(wheel) as archive:
        carried = {name.split("_zoo/")[1]: archive.getinfo(name) for name in archive.namelist() if "_zoo/" in name}
    expected = {
        str(path.relative_to(ROOT / "zoo"))
        for pattern in ("index.json", "manifests/*.json", "weights/*.npz")
        for path in (ROOT / "zoo").glob(pattern)
    }
    assert set(carried) == expected
    assert sum(info.file_size for info in carried.values()) <= 10_000_000


def test_every_package_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        carried = {name for name in archive.namelist() if name.endswith(".py") and "_zoo/" not in name}
    assert carried == {str(path.relative_to(ROOT)) for path in (ROOT / "anytime_keras").rglob("*.py")}


def test_packages_are_listed_once():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    packages = config["options"]["packages"].split()
    assert len(packages) == len(set(packages)) and "anytime_keras._zoo" in packages


def test_an_installed_package_loads_its_networks_offline(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = """
import anytime_keras as ak
assert ak.__file__.startswith(__import__("os").getcwd()), ak.__file__
print(ak.zoo.evaluate("resann2x16_adaloss_digits")[-1].error, len(ak.zoo.list()))
for name in ak.zoo.list(trained=False)[:1]:
    try:
        ak.zoo.load(name)
    except ValueError as error:
        assert f"`anytime-keras zoo train {name} " in str(error), error
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "ANYTIME_KERAS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    error, count = done.stdout.split()
    stated = ak.zoo.show("resann2x16_adaloss_digits").pick().accuracies[-1]
    assert float(error) == pytest.approx(1 - stated, abs=1e-6) and stated > 0.98
    assert int(count) == len(list((ROOT / "zoo" / "manifests").glob("*.json")))
    assert not (tmp_path / "cache").exists(), "nothing was downloaded"
