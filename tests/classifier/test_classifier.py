import json
import os
import pathlib
import pickle
import re
import shutil
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from PIL import Image

import anytime_keras as ak
from anytime_keras.classifier import card, presets
from anytime_keras.export.reader import ExportedModel
from anytime_keras.preprocessing import Preprocessor
from tests.checks import scramble

DIGITS = "resann2x16_adaloss_digits"
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def classifier():
    return ak.Classifier.from_preset(DIGITS)


@pytest.fixture(scope="module")
def images():
    from sklearn.datasets import load_digits

    return [(image * 255 / 16).astype("uint8") for image in load_digits().images[:40]]


def small(**options):
    model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 3), num_classes=3)
    scramble(model)
    return ak.Classifier(model, Preprocessor((8, 8, 3), 0.4, 0.3), ["cat", "dog", "fox"], **options)


def logits_of(classifier, image):
    outputs = classifier.model.predict(classifier.preprocessor(image), verbose=0)
    return list(outputs.values())


def test_an_answer_is_that_of_the_network_with_labels(classifier, images, tmp_path):
    path = tmp_path / "zero.png"
    Image.fromarray(images[0]).save(path)
    for form in (images[0], path, Image.fromarray(images[0])):
        answer = classifier(form)
        np.testing.assert_allclose(answer.logits, logits_of(classifier, images[0])[-1], rtol=1e-4, atol=1e-4)
        assert answer.label == "0" and answer.labels == ["0"] and answer.exit == "exit_6" and not answer.late
    top = answer.top(3)
    assert top[0] == ("0", pytest.approx(answer.confidence[0])) and len(top) == 3 and len(answer.top(50)) == 10
    assert [sure for _, sure in top] == sorted((sure for _, sure in top), reverse=True)
    assert answer.probability("0") == top[0][1]
    with pytest.raises(ValueError, match="Received: 'zero'.*Known: '0'"):
        answer.probability("zero")
    with pytest.raises(ValueError, match="k=0"):
        answer.top(0)


def test_deadlines_count_from_the_call_and_budgets_and_until_limit_an_answer(classifier, images):
    assert classifier(images[0], deadline=60).exit == "exit_6"
    late = classifier(images[0], deadline=0.0)
    assert late.exit == "exit_1" and late.late
    answer = classifier(images[0], budget=classifier.costs[2].with_head)
    assert answer.exit == "exit_3" and not answer.late
    seen = []
    assert classifier(images[0], until=lambda answer: seen.append(answer.label) or len(seen) == 2).exit == "exit_2"
    told = [answer.position for answer in classifier.stream(images[0])]
    assert told == sorted(told) and told[-1] == 5
    with pytest.raises(ValueError, match="Only one of"):
        classifier(images[0], deadline=1.0, budget=1e9)
    with pytest.raises(ValueError, match="`deadline` must be a number"):
        classifier(images[0], deadline="soon")


def test_several_images_have_several_labels(classifier, images):
    answer = classifier(images[:3])
    assert answer.labels == ["0", "1", "2"] and [top[0][0] for top in answer.top(1)] == answer.labels
    assert len(answer.probability("1")) == 3 and "0 (" in repr(answer)
    with pytest.raises(ValueError, match="3. Use `labels`"):
        answer.label
    classifier.prepare(3)
    assert len(classifier(images[:3], deadline=60).labels) == 3


def test_predict_takes_any_number_of_images(classifier, images):
    answer = classifier.predict(images, batch_size=16)
    expected = logits_of(classifier, images)[-1]
    np.testing.assert_allclose(answer.logits, expected, rtol=1e-3, atol=1e-3)
    again = classifier.predict(np.stack(images)[..., None], batch_size=64)
    np.testing.assert_allclose(again.logits, expected, rtol=1e-3, atol=1e-3)
    assert classifier.predict(images[0]).labels == ["0"] and len(classifier.predict(images[:1]).labels) == 1
    with pytest.raises(ValueError, match="at least one image"):
        classifier.predict([])


def test_a_classifier_needs_classes_and_preprocessing():
    model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 3), num_classes=3)
    with pytest.raises(ValueError, match="pass `preprocessor`"):
        ak.Classifier(model, class_names=["cat", "dog", "fox"])
    preprocessor = Preprocessor((8, 8, 3))
    with pytest.raises(ValueError, match="pass `class_names`"):
        ak.Classifier(model, preprocessor)
    with pytest.raises(ValueError, match="3 classes of 'res_ann.*2 names"):
        ak.Classifier(model, preprocessor, ["cat", "dog"])
    with pytest.raises(ValueError, match="\\(8, 8, 3\\).*for \\(8, 8, 1\\)"):
        ak.Classifier(model, Preprocessor((8, 8, 1)), ["cat", "dog", "fox"])


@pytest.mark.parametrize(
    "wrong", [{"preprocessor": "a"}, {"class_names": 3}, {"class_names": "abc"}], ids=["preprocessor", "int", "str"]
)
def test_arguments_of_other_types_are_refused(wrong):
    model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 3), num_classes=3)
    given = {"preprocessor": Preprocessor((8, 8, 3)), "class_names": ["cat", "dog", "fox"], **wrong}
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must be.*Received: {next(iter(wrong.values()))!r}"):
        ak.Classifier(model, **given)


@pytest.mark.long
def test_a_pickled_classifier_returns_the_same_answers(classifier, images):
    expected = classifier(images[0])  # makes the predictor, which cannot be pickled
    again = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_allclose(again(images[0]).logits, expected.logits, rtol=1e-5, atol=1e-5)
    assert again(images[0]).label == "0"


@pytest.mark.long
def test_options_reach_the_predictor():
    assert small(exits=["exit_1", "exit_3"]).predictor.exit_names == ["exit_1", "exit_3"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"engin": "litert"}, "`engin`. Did you mean 'engine'"),
        ({"engine": "tpu"}, "`engine` must be one of"),
        ({"exits": ["exit_1", "exit_9"]}, "names an exit that the model does not have. Received: 'exit_9'. .*'exit_1'"),
        ({"exits": "exit_1"}, "must be a list of names"),
        ({"num_threads": 0}, "num_threads"),
    ],
    ids=["name", "engine", "exit", "text", "threads"],
)
def test_options_are_checked_before_the_first_call(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        small(**options)


def test_unknown_options_are_refused_before_a_preset_is_loaded(monkeypatch):
    monkeypatch.setattr(presets, "load", lambda *_: pytest.fail("loaded"))
    with pytest.raises(TypeError, match="option `class_name`"):
        ak.Classifier.from_preset(DIGITS, class_name="a")


@pytest.fixture(scope="module")
def eann():
    shape = dict(input_shape=(8, 8, 3), num_classes=3)
    members = [ak.models.build("resann", num_units=number, channels=4, **shape) for number in (1, 2)]
    for number, member in enumerate(members):
        scramble(member, seed=number)
    x = np.random.default_rng(0).normal(size=(60, 8, 8, 3)).astype("float32")
    answers = list(members[1].predict(x, verbose=0).values())[-1].argmax(axis=1)
    return ak.EANN(members, (x, answers))


@pytest.mark.long
def test_an_ensemble_is_a_network_too(eann, tmp_path):
    preprocessor, names, image = Preprocessor((8, 8, 3), 0.4, 0.3), ["cat", "dog", "fox"], np.ones((9, 9, 3), "uint8")
    classifier = ak.Classifier(eann, preprocessor, names, engine=keras.backend.backend())
    answer = classifier(image)
    member, exit = re.fullmatch(r"member_(\d)/(.*)", answer.exit).groups()
    expected = eann.members[int(member) - 1].predict(preprocessor(image), verbose=0)[exit]
    np.testing.assert_allclose(answer.logits, expected, rtol=1e-4, atol=1e-4)
    assert answer.exit == eann.exit_names[-1] == classifier.costs[-1].exit
    assert classifier(image, budget=classifier.costs[0].with_head).exit == eann.exit_names[0]
    again = ak.Classifier.from_preset(classifier.save_to_preset(tmp_path / "ensemble"), engine=keras.backend.backend())
    assert again.class_names == names and again(image).exit == answer.exit
    np.testing.assert_allclose(again(image).logits, answer.logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="ensemble cannot be trained"):
        classifier.finetune(tmp_path)
    with pytest.raises(ValueError, match="does not contain its preprocessor"):
        ak.Classifier(eann)
    (tmp_path / "ensemble" / "member_2.keras").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="ensemble"):
        ak.Classifier.from_preset(tmp_path / "ensemble")


@pytest.mark.long
@pytest.mark.tensorflow
def test_a_set_of_open_image_size_takes_a_preprocessor(tmp_path):
    pooled = keras.layers.GlobalAveragePooling2D()(image := keras.Input((None, None, 3)))
    late = keras.layers.Dense(3, name="late")(keras.layers.Dense(4, activation="relu")(pooled))
    model = ak.AnytimeModel(image, {"early": keras.layers.Dense(3, name="early")(pooled), "late": late})
    reader, names = ExportedModel(ak.export(model, tmp_path / "set")), ["cat", "dog", "fox"]
    preprocessor, image = Preprocessor((8, 8, 3), 0.4, 0.3), np.ones((9, 9, 3), "uint8")
    classifier = ak.Classifier(reader, preprocessor, names)
    answer, times = classifier(image, deadline=60), dict(reader.times)
    np.testing.assert_allclose(answer.logits, model.predict(preprocessor(image), verbose=0)["late"], atol=1e-4)
    assert classifier(image, deadline=60).exit == "late" and reader.times == times, "measured once"
    with ak.serving.Server(classifier, max_batch=2) as server:
        assert server.submit(image, deadline=30).result(60).label == answer.label
    with pytest.raises(ValueError, match="'num_threads'.*argument of `ExportedModel`"):
        ak.Classifier(reader, preprocessor, names, num_threads=2)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["folder", pytest.param("file", marks=pytest.mark.long)])
def test_a_saved_preset_gives_the_same_answers(tmp_path, kind):
    classifier, image = small(), np.random.default_rng(0).random((30, 20, 3))
    folder = classifier.save_to_preset(tmp_path / "preset")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.keras", "preset.json"]
    again = ak.Classifier.from_preset(folder if kind == "folder" else folder / "model.keras")
    np.testing.assert_allclose(again(image).logits, classifier(image).logits, rtol=1e-5, atol=1e-5)
    assert again.class_names == ["cat", "dog", "fox"] and again(image).label == classifier(image).label


def test_presets_replace_only_presets_and_are_written_atomically(tmp_path, monkeypatch):
    classifier = small()
    folder = classifier.save_to_preset(tmp_path / "preset")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        classifier.save_to_preset(folder)
    classifier.save_to_preset(folder, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(FileExistsError, match="not a preset"):
        classifier.save_to_preset(tmp_path / "mine", overwrite=True)

    def fail(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(card, "text", fail)
    with pytest.raises(OSError, match="no space"):
        classifier.save_to_preset(tmp_path / "other")
    with pytest.raises(OSError, match="no space"):
        classifier.save_to_preset(folder, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "preset"]
    assert len(list(folder.iterdir())) == 3


def test_presets_are_saved_into_the_working_directory_but_not_at_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for overwrite in (False, True):
        small().save_to_preset(".", overwrite=overwrite)
        assert sorted(os.listdir()) == ["README.md", "model.keras", "preset.json"]
    for address in ("hf://me/animals", "HF://me/animals"):
        with pytest.raises(ValueError, match=f"Received: '{address}'. Use `upload_preset`"):
            small().save_to_preset(address)


@pytest.mark.long
def test_folders_of_runs_are_presets(tmp_path, images):
    recipe = ak.training.Recipe({"name": "resann", "num_units": 1, "channels": 4}, "digits", epochs=1)
    ak.training.train(recipe, tmp_path / "run", verbose=False, tensorboard=False)
    found = ak.Classifier.from_preset(tmp_path / "run")
    assert found.class_names == list("0123456789") and found.preprocessor.image_shape == (8, 8, 1)
    assert found.about["name"] == "run" and found.about["recipe"]["epochs"] == 1
    text = found.model_card()
    assert "| exit_3 |" in text and "not recorded" in text, "the licence"
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    model.preprocessor = model.class_names = None
    model.save(tmp_path / "run" / "model.keras")
    with pytest.raises(ValueError, match="pass `preprocessor`"):
        ak.Classifier.from_preset(tmp_path / "run")


@pytest.mark.parametrize(
    "preset, weights, message",
    [
        ("resann2x16_adaloss_digit", "default", f"no preset.*Did you mean '{DIGITS}'"),
        (DIGITS, "cifar10", "Known: 'digits'"),
        ("resann9x16_const", "default", "has no weights"),
        ("nowhere/at/all", "default", "no file or folder 'nowhere/at/all'"),
        ("model.keras", "default", "no file or folder 'model.keras'"),
        (ROOT / "tests", "default", "contains no network"),
        (__file__, "default", "must end in .keras or .h5 or .hdf5. Received: '.*test_classifier.py'"),
        ("hf://model", "default", "hf://user/model"),
        (None, "default", "Received: None"),
    ],
)
def test_unknown_presets_are_named(preset, weights, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        ak.Classifier.from_preset(preset, weights)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content, message", [("{", "JSON"), ("{}", "Received: no field 'format'"), ('{"format": 9}', "version reads 1")]
)
def test_a_damaged_preset_is_named(tmp_path, content, message):
    folder = small().save_to_preset(tmp_path / "preset")
    with pytest.raises(ValueError, match="`weights` is for names of the zoo"):
        ak.Classifier.from_preset(folder, "cifar10")
    (folder / "preset.json").write_text(content)
    with pytest.raises(ValueError, match=f"preset.json.*{message}"):
        ak.Classifier.from_preset(folder)


@pytest.mark.parametrize("left", [0, 500])
def test_a_truncated_network_is_named(tmp_path, left):
    file = small().save_to_preset(tmp_path / "preset") / "model.keras"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(ValueError, match="model.keras' cannot be loaded.*truncated"):
        ak.Classifier.from_preset(tmp_path / "preset")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for huggingface_hub, whose repositories are folders."""
    place = tmp_path / "hub"

    def create_repo(repo_id, private, exist_ok):
        (place / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, place / repo_id, dirs_exist_ok=True)

    def snapshot_download(repo_id, allow_patterns):
        if not (place / repo_id).is_dir():
            raise ConnectionError("[Errno -3] Temporary failure in name resolution\nlong trace")
        found = tmp_path / "cache" / repo_id
        found.mkdir(parents=True)
        for name in allow_patterns:
            if (place / repo_id / name).is_file():
                shutil.copy(place / repo_id / name, found)
        return str(found)

    module = types.SimpleNamespace(
        create_repo=create_repo, upload_folder=upload_folder, snapshot_download=snapshot_download, place=place
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


@pytest.mark.long
def test_presets_can_be_uploaded_and_downloaded(hub):
    classifier, image = small(), np.random.default_rng(0).random((8, 8, 3))
    assert classifier.upload_preset("hf://me/animals") == "https://huggingface.co/me/animals"
    (hub.place / "me" / "animals" / "evil.py").write_text("")
    again = ak.Classifier.from_preset("hf://me/animals")
    np.testing.assert_allclose(again(image).logits, classifier(image).logits, rtol=1e-5, atol=1e-5)
    assert 'from_preset("hf://me/animals")' in (hub.place / "me" / "animals" / "README.md").read_text()


def test_problems_with_the_hub_are_one_clear_line(hub, monkeypatch):
    with pytest.raises(OSError, match="hf://me/nothing' cannot be downloaded: .*resolution. Check the name, the net"):
        ak.Classifier.from_preset("hf://me/nothing")
    (hub.place / "me" / "text").mkdir(parents=True)
    with pytest.raises(ValueError, match="not a preset of this library. Expected: model.keras or eann.json"):
        ak.Classifier.from_preset("hf://me/text")
    with pytest.raises(ValueError, match="hf://user/model"):
        small().upload_preset("me/animals")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        ak.Classifier.from_preset("hf://me/animals")


def test_the_model_card_reports_the_manifest(classifier):
    text, entry = classifier.model_card(), ak.zoo.show(DIGITS).pick()
    _, matter, body = text.split("---\n", 2)
    fields = {key: json.loads(value) for key, value in (line.split(": ", 1) for line in matter.splitlines())}
    assert fields["license"] == "apache-2.0" and fields["pipeline_tag"] == "image-classification"
    (result,) = fields["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == pytest.approx(entry.accuracies[-1])
    for exit, accuracy in zip(entry.content["exits"], entry.accuracies):
        assert re.search(rf"\| {exit['name']} \|.* {100 * accuracy:.2f}% \|", body)
    facts = [entry.content["data"]["source"], entry.content["data"]["licence"], "cosine", "359 test images"]
    for fact in [*facts, "inverse of its running mean"]:
        assert fact in body
    code = re.search(r"```python\n(.*?)```", body, re.DOTALL)[1]
    compile(code, "card", "exec")


def test_the_front_matter_is_yaml(classifier):
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(classifier.model_card().split("---\n")[1])["library_name"] == "anytime_keras"


def test_the_model_card_has_the_description_as_it_is():
    description = "Costs $5.\n\n```\nfirst\n\n\nsecond\n```"
    assert f"in time.\n\n{description}\n\n## Use" in small(about={"description": description}).model_card()
    assert "in time.\n\n## Use" in small().model_card()


def test_other_licences_are_named_for_the_hub():
    text = small(about={"licence": "ImageNet's terms", "name": "animals"}).model_card()
    assert 'license: "other"' in text and "license_name: \"ImageNet's terms\"" in text
    assert "# animals" in text and "has not been measured" in text


def test_only_files_of_presets_are_downloaded():
    assert all(pathlib.PurePath(name).suffix in (".keras", ".json", ".md") for name in presets.FILES)


UNPACK = ROOT.parent / "shared" / "data" / "unpack_cifar10.py"


@pytest.mark.long
@pytest.mark.tensorflow
@pytest.mark.skipif(not UNPACK.exists(), reason="CIFAR-10 is not there")
def test_raw_test_images_give_the_manifests_accuracy(tmp_path):
    subprocess.run([sys.executable, UNPACK, "--npz", tmp_path / "cifar10.npz"], check=True)
    with np.load(tmp_path / "cifar10.npz") as file:
        images, labels = file["x_test"], file["y_test"].reshape(-1)
    found = ak.Classifier.from_preset("resann5x16_adaloss", "cifar10")
    names = found.predict(images, batch_size=500).labels
    accuracy = np.mean([name == found.class_names[label] for name, label in zip(names, labels)])
    assert accuracy == pytest.approx(ak.zoo.show("resann5x16_adaloss").pick("cifar10").accuracies[-1], abs=0.001)
    for number in range(0, 10000, 500):
        path = tmp_path / f"{number}.png"
        Image.fromarray(images[number]).save(path)
        np.testing.assert_allclose(found.preprocessor(path)[0], found.preprocessor(images[number])[0], atol=1e-6)
