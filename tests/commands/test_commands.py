import contextlib
import io
import json
import os
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
from anytime_keras import commands
from anytime_keras.commands import predict
from anytime_keras.training import Recipe
from anytime_keras.training.run import describe

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:tensorboard")


def run(*arguments):
    commands.main(["anytime-keras", *map(str, arguments)])


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's folder after two epochs, and its printed output."""
    folder = tmp_path_factory.mktemp("demo") / "results"
    with contextlib.redirect_stdout(io.StringIO()) as said, pytest.MonkeyPatch.context() as patch:
        patch.setattr("anytime_keras.commands.demo.NAMES", ("resann2x16_adaloss_digits",))  # a small one
        run("demo", "--epochs=2", f"--folder={folder}", "--images=3")
    return folder, said.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run, with a network of the zoo, so that nothing has to be trained."""
    folder, recipe = tmp_path_factory.mktemp("trained"), Recipe({"name": "resann"}, "digits")
    describe(folder, recipe, recipe.load_data())
    ak.zoo.load("resann2x16_adaloss_digits").save(folder / "model.keras")
    return folder


@pytest.fixture
def digit(tmp_path):
    """The first of scikit-learn's digits, a zero, as an image file."""
    from sklearn.datasets import load_digits

    path = tmp_path / "digit.png"
    Image.fromarray((load_digits().images[0] * 255 / 16).astype("uint8")).save(path)
    return path


@pytest.mark.long
def test_demo_trains_measures_predicts_and_plots(demo):
    folder, text = demo
    for heading in ("MACs", "error (%)", "loss weight", "latency (ms)"):
        assert heading in text
    curve = ak.Curve.from_json(folder / "curve.json")
    assert len(curve) == 6 and curve.about["split"] == "test" and curve.about["images"] == 359
    assert f"{100 * curve[-1].error:.2f}" in text
    digits, photos = text.split("Photographs")
    assert digits.count("% sure") == 9, "three images on three budgets"
    names = list(ak.data.photos())
    assert photos.count("% sure") == 3 * len(names) and all(f"\n{name} " in photos for name in names)
    for name in ("curve.png", "photos.png"):
        with Image.open(folder / name) as picture:
            assert picture.width > 300
    loaded = keras.saving.load_model(folder / "model.keras")
    again = ak.evaluate(loaded, ak.data.load("digits").test)
    assert again.errors == curve.errors


@pytest.mark.long
def test_demo_replaces_an_earlier_demo_but_no_other_run(demo, tmp_path, monkeypatch):
    monkeypatch.setattr("anytime_keras.commands.demo.NAMES", ("resann2x16_adaloss_digits",))
    folder = shutil.copytree(demo[0], tmp_path / "again")
    run("demo", "--epochs=1", f"--folder={folder}", "--seed=1")
    assert '"seed": 1' in (folder / "recipe.json").read_text()
    (folder / "checkpoints").mkdir()
    with pytest.raises(SystemExit, match="contains a training run"):
        run("demo", "--epochs=1", f"--folder={folder}")


@pytest.mark.long
def test_evaluate_prints_saves_and_plots(demo, tmp_path, capsys):
    trained, _ = demo
    curve = ak.Curve.from_json(trained / "curve.json")
    run("evaluate", trained, f"--json={tmp_path / 'again.json'}", f"--plot={tmp_path / 'both.png'}", "--latency")
    again = ak.Curve.from_json(tmp_path / "again.json")
    assert again.errors == curve.errors and all(point.latency > 0 for point in again)
    assert f"{100 * curve[-1].error:.2f}" in capsys.readouterr().out
    run("evaluate", trained / "model.keras", trained / "curve.json", "--split=validation", "--dataset=digits")
    assert "validation 144 images" in capsys.readouterr().out


def test_predict_returns_the_networks_answer_for_images_of_any_size_and_kind(trained, digit, tmp_path, capsys):
    photo = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 90, 3), "uint8")).save(photo)
    run("predict", trained, digit, photo)
    said = capsys.readouterr().out
    data = ak.data.load("digits")
    with Image.open(digit) as image:
        pixels = np.asarray(image)[None, :, :, None] / 255
    model = keras.saving.load_model(trained / "model.keras")
    logits = model.predict((pixels - data.mean) / data.std, verbose=0)["exit_6"]
    assert f"{digit}  {logits.argmax()} (" in said and f"{photo}  " in said and said.count("exit_6") == 2


@pytest.mark.long
def test_predict_within_a_budget_by_a_deadline_and_as_a_stream(trained, digit, monkeypatch, capsys):
    model = keras.saving.load_model(trained / "model.keras")
    call, calls = ak.Classifier.__call__, []
    monkeypatch.setattr(ak.Classifier, "__call__", lambda *given, **limits: calls.append(1) or call(*given, **limits))
    run("predict", trained, digit, f"--budget_macs={model.exits[1].macs}")
    assert "exit_2" in (said := capsys.readouterr().out) and said.count("\n") == 1
    assert len(calls) == 2, "the first call compiles the exit, so its time is not printed"
    run("predict", trained, digit, digit, "--deadline_ms=60000")
    assert capsys.readouterr().out.count("exit_6") == 2
    run("predict", trained, digit, "--deadline_ms=0")
    assert "exit_1" in (said := capsys.readouterr().out) and "late" in said
    run("predict", trained, digit, "--stream")
    printed = [re.search(r"exit_(\d)", line)[1] for line in capsys.readouterr().out.splitlines()]
    assert printed == sorted(printed) and printed[-1] == "6"  # an answer is not printed if a better one was ready


BAD = [
    ([], None),
    (["trane"], "Did you mean|train"),
    (["train", "--epoch=3"], "epoch"),
    (["train", "--epochs=0"], "epochs=0"),
    (["train", "--epochs=-3"], "epochs=-3"),
    (["train", "--epochs=many"], "many"),
    (["train", "--epochs=1.5"], "1.5"),
    (["train", "cifar10"], "cifar10"),
    (["train", "--model=resnan"], "resann"),
    (["train", "--num_units=0", "--channels=4"], "num_units=0"),
    (["train", "--num_units=2", "--channels=-4"], "channels=-4"),
    (["train", "--num_units=2", "--channels=4", "--set=model.exit_every=0"], "exit_every=0"),
    (["train", "--num_units=1", "--channels=4", "--set=model.preset=papers"], "papers"),
    (["train", "--set=epochs"], "--set=model.num_units=9"),
    (["train", "--set=epoch=3"], "Did you mean 'epochs'"),
    (["train", "--set=epochs.most=3"], "`epochs` has no fields"),
    (["train", '--set=model={"name": "resann", "units": 3}'], "units"),
    (["train"], "num_units"),
    (["train", "--num_units=1", "--channels=4", "--dataset=/nowhere/at/all"], "/nowhere/at/all"),
    (["train", "--num_units=1", "--channels=4", "--dataset=nothing.npz"], "nothing.npz"),
    (["train", "--num_units=1", "--channels=4", "--augment=flipp"], "flip"),
    (["train", "--num_units=1", "--channels=4", "--validation=-1"], "-1"),
    (["train", "--num_units=1", "--channels=4", "--validation=100000"], "100000"),
    (["train", "--weighting=adalos"], "adaloss"),
    (["train", "--weighting=single_exit:99", "--num_units=1", "--channels=4"], "99"),
    (["train", "--gamma=2"], "gamma"),
    (["train", "--gamma=nan"], "gamma"),
    (["train", "--set=weighting.momentum=1"], "momentum"),
    (["train", "--set=weighting.update_period=0"], "update_period"),
    (["train", "--weighting=constant", "--gamma=0.5"], "gamma"),
    (["train", "--batch_size=0"], "batch_size=0"),
    (["train", "--learning_rate=-1"], "learning_rate"),
    (["train", "--learning_rate=nan"], "learning_rate"),
    (["train", "--set=weight_decay=Infinity"], "weight_decay"),
    (["train", "--set=label_smoothing=1"], "label_smoothing"),
    (["train", "--set=schedule.name=steps"], "steps"),
    (["train", "--num_units=1", "--channels=4", "--set=optimizer.name=sdg"], "sdg"),
    (["train", "--seed=-1"], "seed"),
    (["train", "--set=precision=float8"], "float8"),
    (["train", "--set=steps_per_execution=0"], "steps_per_execution"),
    (["train", "--recipe=old"], "old"),
    (["train", "--recipe_file=/nowhere.json"], "/nowhere.json"),
    (["evaluate"], "Name what to evaluate"),
    (["evaluate", "/nowhere"], "/nowhere"),
    (["evaluate", "/nowhere.json"], "/nowhere.json"),
    (["evaluate", __file__], "--dataset"),
    (["evaluate", __file__, "--dataset=digits"], "must end in .keras"),
    (["evaluate", "--split=train"], "train"),
    (["predict"], "Name a trained network"),
    (["predict", "/nowhere"], "Name a trained network"),
    (["predict", "/nowhere", "cat.png"], "/nowhere"),
    (["predict", "/nowhere", "cat.png", "--deadline_ms=soon"], "soon"),
    (["predict", "/nowhere", "cat.png", "--deadline_ms=5", "--stream"], "Give at most one of"),
    (["demo", "--epochs=0"], "epochs"),
    (["demo", "digits"], "digits"),
    (["demo", "--images=0"], "images"),
    (["demo", "--seed=-1"], "seed"),
]


@pytest.mark.parametrize(
    "arguments, message", BAD[1:], ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message) as error:
        run(*arguments)
    assert str(error.value).startswith("anytime-keras") and "Traceback" not in str(error.value)
    assert not list(tmp_path.rglob("*")), "something was written before the error"


def test_resume_compares_the_flags_with_the_recipe_of_the_run(tmp_path, monkeypatch):
    recipe = Recipe.modern({"name": "resann", "num_units": 1, "channels": 4}, "digits", epochs=2)
    recipe.to_json(tmp_path / "recipe.json")
    recipes, done = [], types.SimpleNamespace(curve=None)
    monkeypatch.setattr(ak.training, "train", lambda recipe, folder, **options: recipes.append(recipe) or done)
    resume = ["train", "--resume", f"--folder={tmp_path}"]
    again = ["--num_units=1", "--channels=4", "--epochs=2"]
    run(*resume)
    run(*resume, *again)
    run(*resume, *again, "--recipe=modern")
    assert recipes == [recipe] * 3
    with pytest.raises(SystemExit, match="different recipe: .*schedule.* differ"):
        run(*resume, *again, "--recipe=paper")
    with pytest.raises(SystemExit, match="different recipe: epochs differ"):
        run(*resume, f"--recipe_file={tmp_path / 'recipe.json'}", "--epochs=3")
    assert len(recipes) == 3


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda folder: (folder / "data.json").write_text("{}"), "'name'"),
        (lambda folder: (folder / "recipe.json").write_text("["), "recipe.json"),
        (lambda folder: (folder / "model.keras").write_bytes(b"PK no zip"), "model.keras"),
        (lambda folder: (folder / "model.keras").unlink(), "contains no network"),
    ],
)
def test_predict_refuses_a_damaged_run(trained, digit, tmp_path, spoil, message):
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("data.json", "recipe.json", "model.keras"):
        (folder / name).write_bytes((trained / name).read_bytes())
    spoil(folder)
    with pytest.raises(SystemExit, match=message):
        run("predict", folder, digit)


@pytest.mark.long
def test_predict_takes_names_folders_and_patterns_and_names_several_classes(digit, tmp_path, capsys):
    other = tmp_path / "more" / "other.png"
    other.parent.mkdir()
    shutil.copy(digit, other)
    run("predict", "resann2x16_adaloss_digits", digit, other.parent, tmp_path / "*.png", "--top=3", "--json")
    records = json.loads(capsys.readouterr().out)
    assert [record["image"] for record in records] == [str(digit), str(other), str(digit)]
    for record in records:
        assert [entry["label"] for entry in record["predictions"]][0] == "0" and len(record["predictions"]) == 3
        assert record["exit"] == "exit_6" and record["late"] is False and record["milliseconds"] > 0
    run("predict", "resann2x16_adaloss_digits", digit, "--top=2")
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith(str(digit)) and len(others) == 2 and others[0].split()[1] == "0"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nothing_adaloss", "cat.png"], "no preset 'nothing_adaloss'"),
        (["resann9x16_const", "cat.png"], "zoo train"),
        (["resann5x16_adaloss", "cat.png", "--weights=svhn"], "Known: 'cifar10', 'cifar100'"),
        (["hf://nobody", "cat.png"], "hf://user/model"),
        (["DIGITS", "cat.png"], "no image 'cat.png'"),
        (["DIGITS", "*.bmp"], "No file matches"),
        (["DIGITS", "empty"], "folder 'empty' contains no images"),
        (["DIGITS", "empty.jpg"], "must not be empty"),
        (["DIGITS", "text.jpg"], "'text.jpg' cannot be decoded"),
        (["DIGITS", ""], "There is no image ''"),
        (["DIGITS", "dot.png", "--deadline_ms=-1"], "deadline_ms"),
        (["DIGITS", "dot.png"], "1 x 1 pixels for 'dot.png'"),
        (["DIGITS", "huge.png"], "'huge.png' is too large"),
        (["DIGITS", "cat.png", "--top=0"], "top"),
    ],
)
def test_bad_images_and_networks_are_one_clear_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("a cat")
    Image.new("L", (1, 1)).save("dot.png")
    if "huge.png" in arguments:
        Image.new("1", (20000, 20000)).save("huge.png")
    with pytest.raises(SystemExit, match=message) as error:
        run("predict", *(argument.replace("DIGITS", "resann2x16_adaloss_digits") for argument in arguments))
    assert "\n" not in str(error.value) and not capsys.readouterr().out


def test_a_file_name_that_is_not_valid_text_is_printed():
    answer = ak.classifier.LabeledAnswer(np.zeros((1, 2)), "exit_1", 0, 0.001, class_names=["cat", "dog"], single=True)
    line = predict._text(os.fsdecode(b"caf\xe9.png"), answer, 1, 8)
    assert line.encode().decode().startswith("caf\N{REPLACEMENT CHARACTER}.png  cat (50.0% sure)")


def test_a_corrupt_image_is_named(trained, digit):
    digit.write_bytes(digit.read_bytes()[:40])
    with pytest.raises(SystemExit, match="digit.png"):
        run("predict", trained, digit)
    with pytest.raises(SystemExit, match="no image 'dog.png'"):
        run("predict", trained, "dog.png")


@pytest.mark.parametrize("option", ["--json", "--stream", "--budget_macs=1e9"])
def test_a_corrupt_image_does_not_keep_others_from_being_classified(option, trained, digit, tmp_path, capsys):
    corrupt, empty, text = (tmp_path / f"a_{number}.png" for number in range(3))
    corrupt.write_bytes(digit.read_bytes()[:-40])
    empty.touch()
    text.write_text("a cat")
    last = shutil.copy(digit, tmp_path / "last.png")
    with pytest.raises(SystemExit, match=f"3 of 5 images cannot be decoded, such as '{corrupt}'"):
        run("predict", trained, tmp_path, option)
    said = capsys.readouterr()
    if option == "--json":
        records = json.loads(said.out)
        assert [record["image"] for record in records] == list(map(str, (corrupt, empty, text, digit, last)))
        assert f"'{corrupt}' cannot be decoded" in records[0]["error"] and "0 bytes" in records[1]["error"]
        assert f"'{text}' cannot be decoded" in records[2]["error"] and "predictions" in records[4]
    else:
        assert f"'{corrupt}' cannot be decoded" in said.err and f"'{empty}' with 0 bytes" in said.err
        assert str(digit) in said.out and str(last) in said.out


def test_help_lists_commands_and_their_flags(capsys):
    run("help")
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in commands.COMMANDS)
    for name in commands.COMMANDS:
        run(name, "--help")
        assert "--" in capsys.readouterr().out


@pytest.mark.long
def test_module_and_version():
    done = subprocess.run([sys.executable, "-m", "anytime_keras", "--version"], capture_output=True, text=True)
    assert done.stdout.strip() == ak.__version__ and done.returncode == 0, done.stderr


@pytest.mark.long
def test_report_writes_a_page_about_a_run_or_a_network_of_the_zoo(demo, tmp_path, capsys):
    trained, _ = demo
    folder = tmp_path / "report"
    run("report", "resann2x16_adaloss_digits", f"--smaller={trained}", f"--folder={folder}")
    said = capsys.readouterr().out
    assert f"report in {folder / 'report.html'}" in said and "At a fixed deadline" in said
    assert "exit_6" in (folder / "report.md").read_text()
    run("report", trained / "model.keras", f"--folder={folder}")
    assert "At a fixed deadline" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "Name one network"),
        (["a", "b"], "Name one network"),
        (["resann2x16_adaloss_digits", "--confidence=95"], "--confidence must be between 0 and 1. Received: 95"),
        (["no_such_network"], "no_such_network"),
        (["resann2x16_adaloss_digits", "--smaller=no_such_network"], "no_such_network"),
    ],
)
def test_report_refuses_unsupported_networks(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        run("report", *arguments)
    assert not list(tmp_path.iterdir())
