"""Manifests and weights that contain false claims, point outside the zoo, or would run code."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.zoo import arrays, manifest
from tests.zoo.conftest import NAME

WEIGHTS = f"weights/{NAME}_digits.npz"


def set_at(place, value):
    """Sets a part of a manifest, named as in 'weights.digits.params'."""

    def change(content):
        *way, last = [int(key) if key.isdigit() else key for key in place.split(".")]
        for key in way:
            content = content[key]
        content[last] = value

    return change


@pytest.fixture
def content(published):
    return json.loads((published / "manifests" / f"{NAME}.json").read_text())


E = "weights.digits."
FAULTS = {
    "later format": (set_at("format", 2), "format must be 1"),
    "no architecture": (set_at("architecture", "resnan"), "Did you mean 'resann'"),
    "a class of Keras": (set_at("architecture", "keras>Lambda"), "architecture` must be"),
    "unknown field": (set_at("code", "print()"), "unknown field 'code'"),
    "missing field": (lambda content: content["weights"]["digits"].pop("licence"), "no field 'licence'"),
    "name": (set_at("name", "../evil"), "lowercase letters"),
    "label": (lambda content: content["weights"].update({"../x": content["weights"]["digits"]}), "lowercase letters"),
    "default": (set_at("default", "cifar10"), "default` must be one of"),
    "config with an object": (
        set_at(E + "config.num_units", {"class_name": "Lambda", "config": {"function": "os.system"}}),
        "config.num_units must be a number",
    ),
    "config with dtype": (set_at(E + "config.dtype", {"class_name": "DTypePolicy"}), "must not contain 'dtype'"),
    "config unknown": (set_at(E + "config.units", 3), "'resann' has no argument 'units'. Did you mean 'num_units'"),
    "config not whole": (lambda content: content["weights"]["digits"]["config"].pop("channels"), "contain all arg"),
    "huge image": (set_at(E + "config.input_shape", [10**9, 8, 1]), "input_shape"),
    "classes": (set_at(E + "data.class_names", ["0"]), "must have 10 names"),
    "std": (set_at(E + "data.std", [0.0]), "std above 0"),
    "mean": (set_at(E + "data.mean", [0.1, 0.2]), "mean must have 1 numbers"),
    "accuracy": (set_at(E + "exits.0.accuracy", 1.5), "from 0 to 1"),
    "bool for a number": (set_at(E + "params", True), "params must be of type int"),
    "untrained passed off as trained": (set_at(E + "lineage", []), "all fields of a trained network, or none"),
    "accuracy without weights": (
        lambda content: content["weights"]["digits"].update(files=[], golden=None, precision=None, measured=None),
        "all fields of a trained network, or none",
    ),
    "params of the last exit": (set_at(E + "exits.2.params", 3), "must end with"),
    "up": (set_at(E + "files.0.path", "../secret.npz"), "must be a path inside the zoo"),
    "up later": (set_at(E + "files.0.path", "weights/../../secret.npz"), "must be a path inside the zoo"),
    "absolute": (set_at(E + "files.0.path", "/etc/passwd"), "must be a path inside the zoo"),
    "Windows": (set_at(E + "files.0.path", "C:\\secret.npz"), "must be a path inside the zoo"),
    "escaped": (set_at(E + "files.0.path", "weights/%2e%2e/secret.npz"), "must be a path inside the zoo"),
    "home": (set_at(E + "golden.path", "~/secret.npz"), "must be a path inside the zoo"),
    "file address": (set_at(E + "files.0.path", "file:///etc/passwd"), "an https: address"),
    "ftp address": (set_at(E + "files.0.path", "ftp://example.org/a.npz"), "an https: address"),
    "password": (set_at(E + "files.0.path", "https://me:pw@example.org/a.npz"), "an https: address"),
    "recipe is a path": (set_at(E + "recipe", "../../run.py"), "must be of type dict"),
    "hash": (set_at(E + "files.0.sha256", "0" * 63), "64 hexadecimal digits"),
    "too large a file": (set_at(E + "files.0.bytes", 10**12), "from 1 to 50000000"),
    "larger than its network": (set_at(E + "files.0.bytes", 4 * 10**7), "files must fit"),
    "data from a stranger": (set_at(E + "data.name", "stranger:data"), "a data set's name"),
    "data from a folder": (set_at(E + "data.name", "/etc"), "a data set's name"),
}


@pytest.mark.parametrize("change, message", FAULTS.values(), ids=FAULTS)
def test_a_manifest_that_is_not_valid_is_refused(content, change, message):
    manifest.checked(content)
    change(content)
    with pytest.raises(ValueError, match=message):
        manifest.Manifest(content)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": NaN}', "[" * 10**5, "\ud800", b"\xff\xfe\x00"], ids=repr
)
def test_files_that_are_not_json_are_refused(zoo, text):
    text = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
    (zoo / "manifests" / f"{NAME}.json").write_bytes(text)
    with pytest.raises(ValueError, match=f"{NAME}.json"):
        ak.zoo.add(zoo)


def rewrite(zoo, change):
    path = zoo / "manifests" / f"{NAME}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_manifest_under_another_name_is_refused(zoo):
    (zoo / "manifests" / f"{NAME}.json").rename(zoo / "manifests" / "better.json")
    with pytest.raises(ValueError, match=f"must have this name. Received: '{NAME}'"):
        ak.zoo.add(zoo)


@pytest.mark.parametrize("part", ["weights", WEIGHTS])
def test_links_out_of_the_zoo_are_refused(zoo, tmp_path, part):
    ak.zoo.add(zoo)
    (zoo / part).rename(tmp_path / "elsewhere")
    (zoo / part).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="must be inside their zoo"):
        ak.zoo.load(NAME)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_special_files_are_refused_without_waiting(zoo, make):
    ak.zoo.add(zoo)
    (zoo / WEIGHTS).unlink()
    make(zoo / WEIGHTS)
    with pytest.raises(ValueError, match=f"{WEIGHTS}' must be a file"):
        ak.zoo.load(NAME)


def test_a_manifest_in_a_folder_names_no_server_of_this_machine(zoo, server):
    rewrite(zoo, lambda content: set_at(E + "files.0.path", f"{server.url}/{WEIGHTS}")(content))
    ak.zoo.add(zoo)
    with pytest.raises(ValueError, match="in its zoo or at https"):
        ak.zoo.load(NAME)
    assert not server.asked


def put_weights(zoo, file):
    """Replaces weights in a zoo and updates their hash."""
    from anytime_keras.zoo.publishing import _file

    (zoo / WEIGHTS).write_bytes(file)
    rewrite(zoo, lambda content: content["weights"]["digits"].update(files=[_file(WEIGHTS, file)]))


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code was run')",))


def an_npz(compression=zipfile.ZIP_STORED, **members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name.replace('__', '/')}.npy", content)
    return file.getvalue()


def an_npy(array, **kwargs):
    file = io.BytesIO()
    np.save(file, array, **kwargs)
    return file.getvalue()


def lying_header(shape):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


KERNEL = np.zeros((3, 3, 1, 4), "float32")
FILES = {
    "a pickle": (lambda: pickle.dumps(Evil()), "not a weight file"),
    "a pickle within": (
        lambda: an_npz(stem__kernel=an_npy(np.array([Evil()], object), allow_pickle=True)),
        "has dtype object",
    ),
    "a stranger": (lambda: an_npz(evil=an_npy(KERNEL)), "unexpected array, 'evil'"),
    "a path": (lambda: an_npz(**{"../../evil": an_npy(KERNEL)}), "unexpected array"),
    "a zip bomb": (lambda: an_npz(zipfile.ZIP_DEFLATED, stem__kernel=bytes(10**6)), "compressed"),
    "another shape": (
        lambda: an_npz(stem__kernel=an_npy(np.zeros((3, 3, 1, 5), "float32"))),
        r"expected \(3, 3, 1, 4\)",
    ),
    "a header that lies": (lambda: an_npz(stem__kernel=lying_header((3, 3, 1, 4))), "does not contain an array"),
    "whole numbers": (lambda: an_npz(stem__kernel=an_npy(KERNEL.astype("int64"))), "has dtype int64"),
    "other bytes order": (lambda: an_npz(stem__kernel=an_npy(KERNEL.astype(">f4"))), "expected float32"),
    "no magic": (lambda: an_npz(stem__kernel=b"nothing"), "not a weight file"),
    "too few": (lambda: an_npz(stem__kernel=an_npy(KERNEL)), "The weights lack"),
    "no zip": (lambda: b"PK\x03\x04 but not really", "not a weight file"),
}


@pytest.mark.parametrize("make, message", FILES.values(), ids=FILES)
def test_a_weights_file_contains_only_the_networks_numbers(zoo, make, message):
    put_weights(zoo, make())
    ak.zoo.add(zoo)
    with pytest.raises(ValueError, match=message):
        ak.zoo.load(NAME)


@pytest.mark.parametrize("shape", [(10**6, 10**6), (10**30,), (2**62, 4)])
def test_a_header_cannot_exhaust_memory(shape):
    with pytest.raises(ValueError, match="does not contain an array|not a weight file"):
        arrays.unpack(an_npz(input=lying_header(shape)), {"input": None}, "golden.npz")


def test_a_duplicate_array_is_refused(zoo, tiny):
    whole = arrays.shards(arrays.of_model(tiny))[0]
    put_weights(zoo, whole)
    rewrite(zoo, lambda content: content["weights"]["digits"]["files"].append(content["weights"]["digits"]["files"][0]))
    ak.zoo.add(zoo)
    with pytest.raises(ValueError, match="an earlier file contains already"):
        ak.zoo.load(NAME)


def test_a_configuration_that_is_not_the_described_network_is_refused(zoo):
    rewrite(zoo, set_at(E + "config.num_units", 2))
    ak.zoo.add(zoo)
    with pytest.raises(ValueError, match="must describe its configuration"):
        ak.zoo.load(NAME)
