"""Files of killed publications, and manifests that describe a huge network."""

import json

import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.zoo import cache, manifest, publishing
from tests.checks import scramble

pytestmark = pytest.mark.long

ABOUT = dict(weighting={"name": "constant"}, source="random", data_licence="none")


@pytest.fixture(scope="module")
def data():
    images = np.random.default_rng(0).random((24, 8, 8, 1), dtype="float32")
    return ak.data.load((images, np.arange(24) % 3), validation=0, test=8, augment=None)


@pytest.fixture(scope="module")
def tiny():
    model = ak.models.build("resann", num_units=1, channels=4, exit_every=2, input_shape=(8, 8, 1), num_classes=3)
    scramble(model)
    return model


def index_is_right(zoo):
    entries = json.loads((zoo / "index.json").read_text())["manifests"]
    assert sorted(entries) == sorted(path.stem for path in zoo.glob("manifests/*.json"))
    for entry in entries.values():
        assert cache.is_content((zoo / entry["path"]).read_bytes(), entry["sha256"], entry["bytes"])


@pytest.mark.parametrize("first", [True, False])
def test_the_next_try_rewrites_an_index_that_a_killed_publication_left_outdated(
    tiny, data, tmp_path, monkeypatch, first
):
    if not first:
        ak.zoo.publish(tiny, "net", data, folder=tmp_path, label="one", **ABOUT)

    def power_cut(folder):
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "write_index", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            ak.zoo.publish(tiny, "net", data, folder=tmp_path, label="two", **ABOUT)
    with pytest.raises(ValueError, match="already has weights 'two'"):
        ak.zoo.publish(tiny, "net", data, folder=tmp_path, label="two", **ABOUT)
    index_is_right(tmp_path)


def test_the_next_try_removes_files_that_a_killed_publication_left(tiny, data, tmp_path):
    ak.zoo.publish(tiny, "other", data, folder=tmp_path, label="one", **ABOUT)
    for place in ("index.json", "manifests/net.json", "weights/net_one.npz"):
        (tmp_path / f"{place}.abc.part").write_bytes(b"half")
    ak.zoo.publish(tiny, "net", data, folder=tmp_path, label="one", **ABOUT)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("key, value", [("num_units", 10**9), ("num_units", 300), ("channels", 1e300)])
def test_a_configuration_larger_than_its_parameters_is_refused_before_it_is_built(tiny, data, tmp_path, key, value):
    content = ak.zoo.publish(tiny, "net", data, folder=tmp_path, label="one", **ABOUT).content
    content["weights"]["one"]["config"][key] = value
    with pytest.raises(ValueError, match=f"config.{key} must not exceed"):
        manifest.Manifest(content)
