import json

import keras
import numpy as np
import pytest
from PIL import Image

import anytime_keras as ak
from anytime_keras import commands
from anytime_keras.training import heads

NETWORK = "resann2x16_adaloss_digits"


def write_images(folder, **counts):
    """Writes grey images of random sizes, a brightness for each class; returns the folder."""
    rng = np.random.default_rng(0)
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for image in range(count):
            pixels = rng.normal(60 + 60 * number, 10, rng.integers(8, 20, 2)).clip(0, 255).astype("uint8")
            Image.fromarray(pixels).save(folder / name / f"{image}.png")
    return folder


@pytest.fixture
def quick(monkeypatch):
    for name in ("MOST_PASSES", "MOST_EPOCHS", "LEAST_STEPS"):
        monkeypatch.setattr(heads, name, 1)


@pytest.mark.long
def test_a_finetuned_network_classifies_the_folders_images(tmp_path, monkeypatch):
    monkeypatch.setattr(heads, "LEAST_STEPS", 300)  # even on a slow machine
    monkeypatch.setattr(heads, "MOST_EPOCHS", 100)
    images = write_images(tmp_path / "images", dark=20, middle=20, bright=20)
    start = ak.Classifier.from_preset(NETWORK)
    found = start.finetune(images, minutes=0.02, to=tmp_path / "run", learning_rate=0.01, verbose=False)
    assert found.class_names == ["bright", "dark", "middle"]  # the folders' names, sorted
    assert len(start.class_names) == 10 and start.model.outputs[0].shape[-1] == 10
    assert found.preprocessor.get_config() == start.preprocessor.get_config()
    loaded = ak.Classifier.from_preset(tmp_path / "run")
    files = [str(path) for name in found.class_names for path in sorted((images / name).iterdir())]
    truth = [name for name in found.class_names for _ in range(20)]
    labels = loaded.predict(files).labels
    assert labels == found.predict(files).labels
    assert np.mean([label == name for label, name in zip(labels, truth)]) > 0.8
    assert (tmp_path / "run" / "curve.png").stat().st_size > 1000
    about = json.loads((tmp_path / "run" / "data.json").read_text())
    assert about["sizes"] == {"train": 48, "validation": 12}
    assert loaded.about["architecture"] == NETWORK


@pytest.mark.long
def test_the_command_trains_and_its_folder_is_evaluated(tmp_path, capsys, quick):
    images, run = write_images(tmp_path / "images", dark=10, bright=10), tmp_path / "run"
    commands.main(["", "finetune", NETWORK, str(images), "--minutes=0.02", f"--folder={run}"])
    assert f"anytime-keras predict {run}" in capsys.readouterr().out
    measured = ak.Curve.from_json(run / "curve.json")
    commands.main(["", "evaluate", str(run), "--split=validation", f"--json={tmp_path / 'again.json'}"])
    assert ak.Curve.from_json(tmp_path / "again.json").errors == measured.errors
    assert measured.name == f"{NETWORK}_finetuned"
    with pytest.raises(SystemExit, match="must not contain a run"):
        commands.main(["", "finetune", NETWORK, str(images), f"--folder={run}"])


@pytest.mark.long
def test_the_users_own_converted_network_is_finetuned(tmp_path, quick):
    images = write_images(tmp_path / "images", dark=6, bright=6)
    base = keras.applications.MobileNet(input_shape=(32, 32, 3), alpha=0.25, weights=None, classes=5)
    model = ak.to_anytime(base, num_exits=3)
    model.preprocessor = ak.preprocessing.Preprocessor((32, 32, 3), 0.5, 0.5)
    run = ak.training.finetune(model, images, minutes=0.02, to=tmp_path / "run", verbose=False)
    assert [exit.macs > 0 for exit in run.model.exits] == 3 * [True]
    assert ak.Classifier.from_preset(tmp_path / "run").class_names == ["bright", "dark"]


def folder_of(tmp_path, case):
    images = tmp_path / "images"
    if case == "no images":
        (images / "dark").mkdir(parents=True)
    elif case == "no classes":
        write_images(tmp_path, images=3)
    elif case == "three images":
        write_images(images, dark=2, bright=1)
    elif case == "one image":
        write_images(images, dark=20, bright=1)
    elif case == "one class":
        write_images(images, dark=20)
    elif case == "a text":
        (write_images(images, dark=10, bright=10) / "dark" / "3.png").write_text("no image")
    elif case == "an empty file":
        (write_images(images, dark=10, bright=10) / "dark" / "3.png").write_bytes(b"")
    return images


@pytest.mark.parametrize(
    "case, message",
    [
        ("no folder", "There is no folder '.*images'. Pass a folder with one"),
        ("no images", "Class 'dark' contains no images"),
        ("no classes", "must contain one folder of images per class"),
        ("three images", "at least 10 images.*Received: 3"),
        ("one image", "at least two images.*Received: 1 of class 'bright'"),
        ("one class", "at least two classes. Received: \\['dark'\\]. Add a folder"),
        ("a text", "3.png' cannot be decoded"),
        ("an empty file", "3.png' with 0 bytes"),
    ],
)
def test_unsuitable_folders_give_one_clear_error_and_nothing_is_written(tmp_path, case, message):
    images = folder_of(tmp_path, case)
    with pytest.raises(SystemExit, match=message) as error:
        commands.main(["", "finetune", NETWORK, str(images), f"--folder={tmp_path / 'run'}"])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_networks_and_arguments_are_checked_first(tmp_path):
    images = write_images(tmp_path / "images", dark=6, bright=6)
    model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    with pytest.raises(ValueError, match="must have a `preprocessor`"):
        ak.training.finetune(model, images)
    for arguments, message in (
        ({"minutes": 0}, "minutes=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"validation": 1.5}, "validation=1.5"),
        ({"learning_rate": -1.0}, "learning_rate"),
    ):
        with pytest.raises(ValueError, match=message):
            ak.training.finetune(NETWORK, images, verbose=False, **arguments)
    with pytest.raises(SystemExit, match="Name a network and a folder"):
        commands.main(["", "finetune", str(images)])
    with pytest.raises(SystemExit, match="minutes=0"):
        commands.main(["", "finetune", str(tmp_path / "no network"), str(images), "--minutes=0"])


def test_a_recipe_of_a_given_network_builds_none():
    data = ak.data.load("digits")
    recipe = ak.training.Recipe({"name": "given", "from": "elsewhere"}, "digits", epochs=1)
    with pytest.raises(ValueError, match=r"train\(model=\)"):
        recipe.build_model(data)
    model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=3)
    with pytest.raises(ValueError, match="10 classes"):
        ak.training.train(recipe, model=model, data=data, verbose=False)
