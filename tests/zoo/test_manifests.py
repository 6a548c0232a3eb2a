"""Recomputes everything in the zoo's manifests that can be recomputed."""

import json
import pathlib

import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras import runtime
from anytime_keras.cost import exit_costs
from anytime_keras.zoo import catalog, loading, manifest, places, publishing, readme

ROOT = pathlib.Path(__file__).parents[2]
ALL = [(name, label) for name in places.own().names() for label in catalog.find(name)[0].weights]
ENSEMBLES = [(name, label) for name, label in ALL if catalog.find(name)[0].weights[label].members]
ENTRIES = [each for each in ALL if each not in ENSEMBLES]
DEFAULTS_FIRST = [  # another number of classes changes the costs only a little
    pytest.param(name, label, marks=[] if label == catalog.find(name)[0].default else pytest.mark.slow)
    for name, label in ENTRIES
]
TRAINED = [(name, label) for name, label in ENTRIES if catalog.find(name)[0].weights[label].trained]


def test_the_zoo_of_the_checkout_comes_first():
    assert places.own().path == ROOT / "zoo"
    assert ("resann2x16_adaloss_digits", "digits") in TRAINED


@pytest.mark.long
@pytest.mark.tensorflow  # does not depend on the backend, so one is enough
@pytest.mark.parametrize("name, label", DEFAULTS_FIRST)
def test_parameters_and_costs_equal_those_of_the_network(name, label):
    manifest, _ = catalog.find(name)
    entry = manifest.pick(label)
    model = ak.models.build(manifest.architecture, **entry.config)
    assert model.count_params() == entry.content["params"]
    stated = [
        {key: value for key, value in exit.items() if key not in ("accuracy", "loss")}
        for exit in entry.content["exits"]
    ]
    counted = [
        {
            "name": cost.exit,
            "backbone": cost.backbone,
            "with_head": cost.with_head,
            "with_all_heads": cost.with_all_heads,
            "params": cost.params,
        }
        for cost in exit_costs(model)
    ]
    assert stated == counted
    config = json.loads(json.dumps(model.get_config()))
    assert {key: config[key] for key in entry.config} == entry.config


@pytest.mark.parametrize("name, label", ENTRIES)
def test_the_recipe_trains_the_manifests_network(name, label):
    entry = catalog.find(name)[0].pick(label)
    recipe = ak.training.Recipe.from_dict(entry.content["recipe"])
    assert recipe.weighting == entry.content["weighting"]
    assert recipe.data["data"] == entry.content["data"]["name"] and recipe.init is None
    known = {key: value for key, value in recipe.model.items() if key not in ("name", "preset")}
    assert {key: entry.config[key] for key in known} == json.loads(json.dumps(known))
    assert bool(entry.content["lineage"]) == entry.trained


@pytest.mark.parametrize("name, label", TRAINED)
def test_every_cycle_of_a_lineage_was_better_on_validation_images(name, label):
    entry = catalog.find(name)[0].pick(label)
    for cycle in entry.content["lineage"]:
        recipe = ak.training.Recipe.from_dict(cycle["recipe"])
        assert recipe.seed == cycle["seed"] and cycle["minutes"] > 0 and cycle["images"] > 0
        assert cycle["machine"]["versions"]["keras"] and len(cycle["commit"]) >= 40
        if cycle["before"] is not None:
            assert publishing.better(cycle["before"], cycle["after"])
            assert len(cycle["before"]) == len(cycle["after"]) == len(entry.accuracies)


@pytest.mark.parametrize(
    "name, label",  # an MSDNet takes some seconds to build
    [pytest.param(*each, marks=pytest.mark.long if each[0].startswith("msdnet") else ()) for each in TRAINED],
)
def test_the_network_reproduces_its_golden_output(name, label):
    manifest, home = catalog.find(name)
    image, expected = loading.golden(manifest.pick(label), home)
    model = ak.zoo.load(name, label)
    found = runtime.finish(model(image, training=False))
    assert list(expected) == model.exit_names
    for exit, logits in expected.items():
        np.testing.assert_allclose(found[exit], logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name, label", ENSEMBLES)
def test_an_ensembles_members_and_costs_are_those_of_its_manifest(name, label):
    entry, eann = catalog.find(name)[0].pick(label), ak.zoo.load(name, label)
    assert entry.trained and len(eann.members) == len(entry.members)
    assert eann.exit_names == [exit["name"] for exit in entry.content["exits"]]
    assert [exit.macs for exit in eann.exits if exit.used] == entry.macs


@pytest.mark.parametrize("name, label", [(name, label) for name, label in TRAINED if label == "digits"])
def test_the_accuracy_is_measured_again(name, label):
    """To 0.1 point. Data sets that must be downloaded: `anytime-keras zoo evaluate NAME`."""
    curve, entry = ak.zoo.evaluate(name, label), ak.zoo.show(name).pick(label)
    np.testing.assert_allclose([1 - error for error in curve.errors], entry.accuracies, atol=1e-3)
    assert curve.about["images"] == entry.content["measured"]["images"]


@pytest.mark.parametrize("name, label", TRAINED)
def test_the_golden_image_is_a_normalised_test_image(name, label):
    if label != "digits":
        pytest.skip("its data set must be downloaded")
    manifest, home = catalog.find(name)
    images = ak.data.load("digits").examples["test"].images[:1]
    entry = manifest.pick(label)
    np.testing.assert_allclose(entry.preprocessor(images), loading.golden(entry, home)[0], atol=1e-5)


@pytest.mark.parametrize("name, label", TRAINED)
def test_files_are_complete_and_named_after_their_network(name, label):
    manifest, home = catalog.find(name)
    entry = manifest.pick(label)
    for file in [*entry.files, entry.golden]:
        places.read_file(file, home)  # checks the hash
        assert publishing.stem(name, label) in file.path and file.bytes <= 45_000_000


def test_weights_of_the_zoo_are_150_mb_at_most():
    assert sum(path.stat().st_size for path in (ROOT / "zoo" / "weights").rglob("*.npz")) <= 150_000_000


def test_every_file_of_the_zoo_belongs_to_a_manifest():
    named = set()
    for name, label in ALL:
        entry = catalog.find(name)[0].pick(label)
        golden = [entry.golden.path] if entry.golden else []
        named.update([*[file.path for file in entry.files], *golden, f"manifests/{name}.json"])
    found = {
        str(path.relative_to(ROOT / "zoo"))
        for place in ("manifests", "weights")
        for path in (ROOT / "zoo" / place).rglob("*")
        if path.is_file()
    }
    assert found == named


def test_the_index_is_that_of_the_manifests(tmp_path):
    (tmp_path / "manifests").symlink_to(ROOT / "zoo" / "manifests")
    publishing.write_index(tmp_path)
    assert (tmp_path / "index.json").read_text() == (ROOT / "zoo" / "index.json").read_text()


def test_the_readmes_table_equals_the_manifests():
    text = (ROOT / "README.md").read_text()
    assert readme.put_into(text) == text, "run `anytime-keras zoo table --readme=README.md`"
    rows, recipes = readme.table().split("\n\n")
    for name, label in ALL:
        loads = (name, label) in TRAINED + ENSEMBLES
        assert (f"| `{name}` | {label} |" in rows) == loads
        assert (f"`{name}` ({label})" in " ".join(recipes.split())) == (not loads)


@pytest.mark.parametrize("default", ["cifar10", "cifar100"])
def test_the_default_is_the_first_trained_row_of_a_name(default, tmp_path, monkeypatch):
    name = "resann5x16_adaloss"
    own = manifest.Manifest({**ak.zoo.show(name).content, "default": default})
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / f"{name}.json").write_text(own.to_json())
    monkeypatch.setattr(catalog.places, "own", lambda: places.Folder(tmp_path))
    _, _, *rows = readme.table().splitlines()
    assert [row.split(" | ")[1] for row in rows] == sorted(["cifar10", "cifar100"], key=lambda label: label != default)


@pytest.mark.parametrize("name, label", TRAINED)
def test_the_lineage_and_its_notes_are_shown(name, label):
    shown = ak.zoo.show(name)
    for number, cycle in enumerate(shown.pick(label).content["lineage"], 1):
        assert f"cycle {number}" in str(shown)
        assert cycle["note"] is None or cycle["note"] in str(shown)


def test_a_network_without_weights_names_the_command_that_trains_it():
    for name, label in set(ENTRIES) - set(TRAINED):
        with pytest.raises(ValueError, match=f"anytime-keras zoo train {name} --weights={label}"):
            ak.zoo.load(name, label)


def test_a_readme_without_markers_is_refused():
    with pytest.raises(ValueError, match="must contain two lines"):
        readme.put_into("# Title")
