import dataclasses
import json

import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras import _files, runtime
from anytime_keras.zoo import arrays, loading, publishing
from tests.checks import answers, scramble, some_input
from tests.zoo.conftest import NAME

ABOUT = dict(weighting={"name": "adaloss"})


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_publish_writes_a_whole_zoo(published):
    assert files(published) == [
        "index.json",
        f"manifests/{NAME}.json",
        f"weights/{NAME}_digits-golden.npz",
        f"weights/{NAME}_digits.npz",
    ]


def test_the_index_lists_no_leftovers_of_the_file_system(zoo):
    expected = (zoo / "index.json").read_bytes()
    (zoo / "manifests" / f"._{NAME}.json").write_bytes(b"of macOS")
    publishing.write_index(zoo)
    assert (zoo / "index.json").read_bytes() == expected


def test_the_manifest_contains_what_can_be_measured(published, tiny, digits):
    entry = json.loads((published / "manifests" / f"{NAME}.json").read_text())["weights"]["digits"]
    curve = ak.evaluate(tiny, digits.test)
    assert entry["params"] == tiny.count_params()
    for exit, point in zip(entry["exits"], curve, strict=True):
        assert exit["accuracy"] == pytest.approx(1 - point.error) and exit["loss"] == pytest.approx(
            point.loss, rel=1e-5
        )
        for key in ("backbone", "with_head", "with_all_heads", "params"):
            assert exit[key] == getattr(point, key)
    assert entry["measured"]["images"] == digits.sizes["test"] and entry["measured"]["split"] == "test"
    (cycle,) = entry["lineage"]
    assert cycle["epochs"] == 3 and cycle["images"] == 3882 and cycle["minutes"] == 0.5
    assert cycle["machine"]["versions"]["keras"] == keras.__version__ and cycle["before"] is None
    assert entry["data"]["class_names"] == digits.class_names and entry["data"]["licence"] == "CC BY 4.0"


@pytest.mark.long
def test_float16_halves_the_kernels_and_is_used_for_measuring(tiny, digits, tmp_path):
    manifest = ak.zoo.publish(tiny, "half_adaloss", digits, folder=tmp_path, precision="float16", **ABOUT)
    ak.zoo.add(tmp_path)
    model = ak.zoo.load("half_adaloss")
    changed = 0
    for name, array in arrays.of_model(tiny).items():
        expected = array.astype("float16").astype("float32") if array.ndim > 1 else array
        np.testing.assert_array_equal(arrays.of_model(model)[name], expected)
        changed += (expected != array).any()
    assert changed > 5
    curve = ak.zoo.evaluate("half_adaloss")
    np.testing.assert_allclose([1 - error for error in curve.errors], manifest.pick().accuracies, atol=1e-6)
    image, logits = loading.golden(manifest.pick(), publishing.places.Folder(tmp_path))
    for exit, found in answers(model, image).items():
        np.testing.assert_allclose(found, logits[exit], rtol=1e-4, atol=1e-4)


def test_large_weights_are_sharded_and_stay_out_of_the_wheel(tiny, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "SMALL_BYTES", 10_000)
    whole = arrays.shards
    monkeypatch.setattr(arrays, "shards", lambda values, precision: whole(values, precision, shard_bytes=20_000))
    manifest = ak.zoo.publish(tiny, "parts_adaloss", digits, folder=tmp_path, **ABOUT)
    paths = [file.path for file in manifest.pick().files]
    assert len(paths) > 2 and all(file.bytes <= 20_000 for file in manifest.pick().files)
    assert paths[0] == f"weights/large/parts_adaloss_digits-1of{len(paths)}.npz"
    ak.zoo.add(tmp_path)
    x = some_input(tiny)
    for exit, found in answers(ak.zoo.load("parts_adaloss"), x).items():
        np.testing.assert_array_equal(found, answers(tiny, x)[exit])


def test_shards_keep_all_arrays_in_order():
    values = {f"layer_{number}/kernel": np.full((10, 100), number, "float32") for number in range(9)}
    packed = arrays.shards(values, shard_bytes=12_000)
    assert len(packed) == 5 and all(len(shard) <= 12_000 for shard in packed)
    assert packed == arrays.shards(values, shard_bytes=12_000), "equal arrays give equal bytes"
    found = {}
    for shard in packed:
        found.update(arrays.unpack(shard, {name: (10, 100) for name in values}, "shard"))
    assert list(found) == list(values)
    assert all((found[name] == values[name]).all() for name in values)


@pytest.mark.parametrize(
    "value, precision, message",
    [
        (1e5, "float16", "not finite in float16"),
        (np.nan, "float32", "not finite in float32"),
        (1.0, "bfloat16", "must be one of"),
    ],
)
def test_weights_that_cannot_be_stored_are_refused(value, precision, message):
    with pytest.raises(ValueError, match=message):
        arrays.shards({"kernel": np.full((2, 2), value, "float32")}, precision)
    with pytest.raises(ValueError, match="must fit in a file"):
        arrays.shards({"kernel": np.zeros((100, 100), "float32")}, shard_bytes=10_000)


def test_only_better_weights_replace_existing_ones(zoo, tiny, digits):
    before = {path: (zoo / path).read_bytes() for path in files(zoo)}
    for errors, message in (
        ({}, "pass their errors on validation images"),
        ({"before": [0.5, 0.4, 0.3], "after": [0.5, 0.4, 0.3]}, "must have a lower mean error"),
        ({"before": [0.5, 0.4, 0.3], "after": [0.1, 0.1, 0.4]}, "no higher error at the last exit"),
    ):
        with pytest.raises(ValueError, match=message):
            ak.zoo.publish(tiny, NAME, digits, folder=zoo, **ABOUT, **errors)
    with pytest.raises(ValueError, match="already has trained weights 'digits'"):
        ak.zoo.announce(recipe(), NAME, "digits", folder=zoo)
    (zoo / "weights" / "other_adaloss_digits.npz").write_bytes(b"of somebody else")
    with pytest.raises(ValueError, match="exists already"):
        ak.zoo.publish(tiny, "other_adaloss", digits, folder=zoo, **ABOUT)
    (zoo / "weights" / "other_adaloss_digits.npz").unlink()
    assert {path: (zoo / path).read_bytes() for path in files(zoo)} == before


@pytest.mark.long
def test_replacing_weights_adds_a_cycle_and_removes_the_old_files(zoo, tiny, digits):
    other = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    scramble(other, seed=1)
    cycle = dataclasses.replace(recipe(), init=NAME)
    facts = {"before": [0.5, 0.4, 0.3], "after": [0.4, 0.4, 0.3]}
    manifest = ak.zoo.publish(other, NAME, digits, cycle, folder=zoo, **facts)
    first, second = manifest.pick().content["lineage"]
    assert first["epochs"] == 3 and second["epochs"] == 1 and second["after"] == facts["after"]
    (weights,), golden = manifest.pick().files, manifest.pick().golden
    assert weights.path != f"weights/{NAME}_digits.npz"
    assert files(zoo / "weights") == sorted(file.path.removeprefix("weights/") for file in (weights, golden))
    ak.zoo.add(zoo)
    x = some_input(other)
    for exit, found in answers(ak.zoo.load(NAME), x).items():
        np.testing.assert_array_equal(found, answers(other, x)[exit])

    fresh = ak.zoo.publish(tiny, NAME, digits, recipe(), folder=zoo, **facts)
    assert len(fresh.pick().content["lineage"]) == 1, "trained from random weights"


def recipe(**changes):
    model = {"name": "resann", "num_units": 1, "channels": 4, "input_shape": [8, 8, 1], "num_classes": 10}
    return ak.training.Recipe(model={**model, **changes}, data={"data": "digits", "augment": []}, epochs=1)


def test_trained_weights_replace_an_announced_recipe(tiny, digits, tmp_path):
    ak.zoo.announce(recipe(), "small_adaloss", folder=tmp_path)
    manifest = ak.zoo.publish(tiny, "small_adaloss", digits, recipe(), folder=tmp_path, epochs=1)
    assert manifest.pick().trained
    assert ak.training.Recipe.from_dict(manifest.pick().content["lineage"][0]["recipe"]) == recipe()


@pytest.mark.parametrize("stops", [1, 2, 3])
def test_a_failed_publication_leaves_nothing(tiny, digits, tmp_path, monkeypatch, stops):
    written, write = [], _files.write

    def fail(path, content):
        written.append(path)
        if len(written) == stops:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(_files, "write", fail)
    with pytest.raises(OSError, match="No space left"):
        ak.zoo.publish(tiny, NAME, digits, folder=tmp_path / "new", **ABOUT)
    assert len(written) == stops and files(tmp_path / "new") == []


def a_stranger():
    image = keras.Input((8, 8, 1))
    return ak.AnytimeModel(image, {"only": keras.layers.Dense(10)(keras.layers.Flatten()(image))})


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(name="Tiny-AdaLoss"), "lowercase letters"),
        (dict(name="../tiny"), "lowercase letters"),
        (dict(label="../digits"), "lowercase letters"),
        (dict(precision="float8"), "float8"),
        (dict(minute=3), "Unknown fact `minute`"),
        (dict(weighting=None), "pass the weighting"),
        (dict(model=a_stranger), "Only networks of"),
        (dict(label="digits", data="arrays"), "origin of 'arrays' is unknown"),
    ],
)
def test_invalid_publications_are_refused_before_writing(tiny, digits, tmp_path, changes, message):
    arguments = dict(model=tiny, name=NAME, data=digits, folder=tmp_path / "new", **ABOUT) | changes
    if callable(arguments["model"]) and not isinstance(arguments["model"], keras.Model):
        arguments["model"] = arguments["model"]()
    if arguments["data"] == "arrays":
        images = np.random.default_rng(0).random((40, 8, 8, 1)).astype("float32")
        arguments["data"] = ak.data.load((images, np.arange(40) % 10), test=0.5, validation=0)
    with pytest.raises(ValueError, match=message):
        ak.zoo.publish(**arguments)
    assert not (tmp_path / "new").exists()


def test_announce_needs_the_shapes(tmp_path):
    short = recipe()
    short.model.pop("input_shape")
    with pytest.raises(ValueError, match="must contain `input_shape`"):
        ak.zoo.announce(short, "small_adaloss", folder=tmp_path)


def test_a_part_of_a_network_is_refused(tiny, digits, tmp_path):
    part = dataclasses.replace(recipe(), last_exit="exit_2")
    with pytest.raises(ValueError, match="last_exit='exit_2'"):
        ak.zoo.announce(part, "small_adaloss", folder=tmp_path / "new")
    with pytest.raises(ValueError, match="last_exit='exit_2'"):
        ak.zoo.publish(tiny, NAME, digits, part, folder=tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.long
@pytest.mark.tensorflow  # depends only on names; JAX takes long to build networks
def test_the_architecture_is_the_closest_name():
    assert (
        publishing._architecture(ak.models.build("resann50", channels=4, input_shape=(32, 32, 3)), None) == "resann50"
    )
    assert publishing._architecture(ak.models.build("msdnet_cifar_7exits"), None) == "msdnet_cifar_7exits"
    assert publishing._architecture(ak.models.build("resann", num_units=1, channels=4), None) == "resann"


def test_the_commit_is_that_of_the_checkout(monkeypatch, tmp_path):
    commit = runtime.commit()
    assert commit is None or len(commit.split("+")[0]) == 40
    monkeypatch.setattr(runtime, "__file__", str(tmp_path / "runtime.py"))
    assert runtime.commit() is None
