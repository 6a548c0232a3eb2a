"""EANNs of the zoo: published by their members' names, loaded, measured again, refused after members changed."""

import json
import shutil

import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras import commands, runtime
from anytime_keras.zoo import catalog, places
from tests.checks import run_example, scramble
from tests.zoo.conftest import NAME

ENSEMBLE, LARGE = "eann_tiny_adaloss", "small_adaloss"


@pytest.fixture(scope="module")
def both(published, digits, tmp_path_factory):
    """A zoo of two networks and their ensemble."""
    folder = tmp_path_factory.mktemp("both") / "zoo"
    shutil.copytree(published, folder)
    model = ak.models.build("resann", num_units=2, channels=4, input_shape=(8, 8, 1), num_classes=10)
    model.compile("adam", loss="sparse_categorical_crossentropy")
    scramble(model, seed=1)
    ak.zoo.publish(model, LARGE, digits, folder=folder, weighting={"name": "adaloss"}, epochs=3, images=9, minutes=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANYTIME_KERAS_ZOO", str(folder))
        ak.zoo.publish_ensemble(ENSEMBLE, [NAME, LARGE], digits, folder=folder)
    return folder


@pytest.fixture
def zoo(both, tmp_path, monkeypatch):
    folder = shutil.copytree(both, tmp_path / "zoo")
    monkeypatch.setenv("ANYTIME_KERAS_ZOO", str(folder))
    return folder


def test_an_ensemble_loads_by_name_and_predicts_like_its_members(zoo, digits):
    eann = ak.zoo.load(ENSEMBLE)
    members = [ak.zoo.load(name) for name in (NAME, LARGE)]
    assert isinstance(eann, ak.EANN) and eann.errors == ak.EANN(members, digits.validation).errors
    image = digits.examples["test"].images[:1]
    for member, expected in zip(eann.members, members):
        for name, logits in runtime.finish(expected(image, training=False)).items():
            np.testing.assert_array_equal(runtime.finish(member(image, training=False))[name], logits)


def test_the_manifest_holds_the_used_exits_as_measured(zoo, digits):
    entry, eann = ak.zoo.show(ENSEMBLE).pick(), ak.zoo.load(ENSEMBLE)
    assert [exit["name"] for exit in entry.content["exits"]] == eann.exit_names
    assert entry.members == [(NAME, "digits"), (LARGE, "digits")]
    assert ak.zoo.evaluate(ENSEMBLE, data=digits).errors == pytest.approx([1 - a for a in entry.accuracies], abs=1e-6)
    assert entry.macs == [exit.macs for exit in eann.exits if exit.used]
    assert f"member     {LARGE}, weights 'digits'" in str(ak.zoo.show(ENSEMBLE))
    assert ENSEMBLE in ak.zoo.list(architecture="eann", loads=True)


def test_the_example_of_publishing_an_ensemble_runs(zoo, monkeypatch):
    monkeypatch.chdir(zoo.parent)
    monkeypatch.setenv("ANYTIME_KERAS_ZOO", str(zoo.rename("our_zoo").resolve()))
    run_example(ak.zoo.publish_ensemble)
    assert ak.zoo.load("eann_adaloss").exit_names == ak.zoo.load(ENSEMBLE).exit_names


def test_the_classifier_takes_an_ensembles_name(zoo, digits):
    classifier = ak.Classifier.from_preset(ENSEMBLE, engine="tensorflow")
    image = digits.examples["test"].images[0]
    assert classifier(image).exit == ak.zoo.load(ENSEMBLE).exit_names[-1]


def test_a_retrained_member_is_detected_and_the_ensemble_can_be_measured_again(zoo, digits, capsys):
    model = ak.zoo.load(NAME)
    scramble(model, seed=2)
    ak.zoo.publish(model, NAME, digits, folder=zoo, weighting={"name": "adaloss"}, epochs=1, replace="a test")
    with pytest.raises(ValueError, match=f"some were replaced since. `anytime-keras zoo ensemble {ENSEMBLE}"):
        ak.zoo.load(ENSEMBLE)
    commands.main(["anytime-keras", "zoo", "ensemble", ENSEMBLE, f"--zoo={zoo}"])
    assert ENSEMBLE in capsys.readouterr().out
    assert ak.zoo.load(ENSEMBLE).exit_names == [exit["name"] for exit in ak.zoo.show(ENSEMBLE).pick().content["exits"]]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(num_classes=3), "is an ensemble, whose used exits were chosen for its trained members"),
        (dict(weights=None), "is an ensemble"),
    ],
)
def test_parts_of_an_ensemble_cannot_be_loaded(zoo, arguments, message):
    with pytest.raises(ValueError, match=message):
        ak.zoo.load(ENSEMBLE, **arguments)


@pytest.mark.parametrize(
    "name, members, message",
    [
        (NAME, [NAME, LARGE], "must be the name of an ensemble"),
        ("eann_other", NAME, "must be a list of names"),
        ("eann_other", [NAME], "two members or more"),
        ("eann_other", [NAME, "nothing"], "must be a network of the zoo"),
        ("eann_other", [ENSEMBLE, LARGE], "must not be ensembles themselves"),
        ("eann_other", [LARGE, NAME], "order of increasing cost"),
    ],
)
def test_members_that_cannot_be_combined_are_refused(zoo, digits, name, members, message):
    before = sorted((path, path.stat().st_size) for path in zoo.rglob("*"))
    with pytest.raises(ValueError, match=message):
        ak.zoo.publish_ensemble(name, members, digits, folder=zoo)
    assert sorted((path, path.stat().st_size) for path in zoo.rglob("*")) == before


def test_a_network_is_not_published_under_the_name_of_an_ensemble(zoo, tiny, digits):
    with pytest.raises(ValueError, match="must have the architecture 'eann'. Received: 'resann'"):
        ak.zoo.publish(tiny, ENSEMBLE, digits, label="other", folder=zoo, weighting={"name": "adaloss"})


def test_images_that_a_member_was_trained_on_are_refused(zoo):
    other = ak.data.load("digits", augment=None, split_seed=1)
    with pytest.raises(ValueError, match="must be those that the training of 'tiny_adaloss' held out"):
        ak.zoo.publish_ensemble("eann_other", [NAME, LARGE], other, folder=zoo)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda config: config["members"].append("../x:digits"), "a network and its weights, as 'name:label'"),
        (lambda config: config["errors"][0].append(2), "from 0 to 1"),
        (lambda config: config.pop("errors"), "must contain all arguments. Missing: \\['errors'\\]"),
        (lambda config: config["errors"][0].pop(), "one number for each exit"),
    ],
)
def test_a_damaged_manifest_is_refused(zoo, change, message):
    path = zoo / "manifests" / f"{ENSEMBLE}.json"
    content = json.loads(path.read_text())
    change(content["weights"]["digits"]["config"])
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        ak.zoo.load(ENSEMBLE)


def test_an_ensemble_of_itself_is_refused(zoo):
    path = zoo / "manifests" / f"{ENSEMBLE}.json"
    content = json.loads(path.read_text())
    content["weights"]["digits"]["config"]["members"] = [f"{ENSEMBLE}:digits"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"must be single networks. Received: ensemble '{ENSEMBLE}'"):
        ak.zoo.load(ENSEMBLE)


def test_measuring_again_keeps_the_description_and_the_reference(zoo, digits):
    assert ak.zoo.show(ENSEMBLE).content["description"] == f"EANN of {NAME}, {LARGE}."
    shutil.copy(zoo / "manifests" / f"{NAME}.json", zoo / "manifests" / "other_adaloss.json")
    path = zoo / "manifests" / "other_adaloss.json"
    path.write_text(path.read_text().replace(f'"name": "{NAME}"', '"name": "other_adaloss"'))
    again = ak.zoo.publish_ensemble(ENSEMBLE, ["other_adaloss", LARGE], digits, folder=zoo)
    assert again.content["description"] == f"EANN of other_adaloss, {LARGE}."
    facts = {"description": "Ours.", "reference": "https://example.org"}
    ak.zoo.publish_ensemble(ENSEMBLE, [NAME, LARGE], digits, folder=zoo, **facts)
    again = ak.zoo.publish_ensemble(ENSEMBLE, [NAME, LARGE], digits, folder=zoo)
    assert {key: again.content[key] for key in facts} == facts


def test_the_files_of_members_may_be_larger_than_the_part_that_is_used(zoo):
    content = json.loads((zoo / "manifests" / f"{ENSEMBLE}.json").read_text())
    content["weights"]["digits"]["files"][1]["bytes"] = 40_000_000
    assert ak.zoo.Manifest(content).pick().files[1].bytes == 40_000_000


def test_the_command_needs_members(zoo, capsys):
    with pytest.raises(SystemExit, match="needs --members"):
        commands.main(["anytime-keras", "zoo", "ensemble", "eann_other", "--members="])


def test_a_classifier_reads_no_other_manifest(zoo):
    (zoo / "manifests" / "broken.json").write_text("{")
    assert ak.Classifier.from_preset("resann2x16_adaloss_digits", engine="tensorflow").class_names[-1] == "9"


def test_an_ensemble_cannot_be_trained(zoo):
    expected = f"An ensemble cannot be trained. Received: '{ENSEMBLE}'. Train its members and combine them: {NAME}:"
    with pytest.raises(ValueError, match=expected):
        ak.training.train_cycle(ENSEMBLE)
    with pytest.raises(ValueError, match=expected):
        ak.training.finetune(ENSEMBLE, "photos", minutes=1)
    recipe = ak.training.Recipe({"name": "resann", "num_units": 1, "channels": 4}, {"data": "digits"}, init=ENSEMBLE)
    with pytest.raises(ValueError, match=expected):
        ak.training.train(recipe)


def test_files_of_an_ensemble_are_its_members(zoo):
    files = ak.zoo.show(ENSEMBLE).pick().files
    assert files == [file for name in (NAME, LARGE) for file in ak.zoo.show(name).pick().files]
    assert all(places.has_file(file, catalog.find(ENSEMBLE)[1]) for file in files)


def test_an_ensemble_is_listed_as_loading_if_its_members_are_in_another_zoo(both, tmp_path, monkeypatch):
    monkeypatch.delenv("ANYTIME_KERAS_ZOO", raising=False)
    monkeypatch.setattr(catalog, "_added", [])
    alone, members = tmp_path / "alone", shutil.copytree(both, tmp_path / "members")
    (alone / "manifests").mkdir(parents=True)
    (members / "manifests" / f"{ENSEMBLE}.json").rename(alone / "manifests" / f"{ENSEMBLE}.json")
    ak.zoo.add(alone)
    assert ak.zoo.list(architecture="eann", loads=False) == [ENSEMBLE]
    ak.zoo.add(members)
    assert ENSEMBLE in ak.zoo.list(architecture="eann", loads=True)
    assert len(ak.zoo.load(ENSEMBLE).members) == 2
