"""`anytime-keras zoo`, and the files in zoo/recipes."""

import dataclasses
import pathlib
import runpy
import shutil
import subprocess
import sys

import keras
import pytest

import anytime_keras as ak
from anytime_keras import commands
from anytime_keras.commands import recipe_file
from anytime_keras.zoo import places, readme
from tests.zoo.conftest import NAME

ROOT = pathlib.Path(__file__).parents[2]
DIGITS = "resann2x16_adaloss_digits"
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:tensorboard")


def run(*arguments):
    commands.main(["anytime-keras", "zoo", *map(str, arguments)])


def test_list_show_and_evaluate_say_what_the_library_says(capsys, zoo, monkeypatch):
    monkeypatch.setenv("ANYTIME_KERAS_ZOO", str(zoo))
    run("list", "--trained", "--data=digits")
    assert capsys.readouterr().out.split() == [DIGITS, "digits", NAME, "digits"]
    run("list", "--notrained")
    said = capsys.readouterr().out
    assert DIGITS not in said and all("(not trained)" in line for line in said.splitlines())
    run("show", NAME)
    assert capsys.readouterr().out.strip() == str(ak.zoo.show(NAME))
    run("evaluate", NAME)
    said = capsys.readouterr().out
    for accuracy in ak.zoo.show(NAME).pick().accuracies:
        assert said.count(f" {100 * (1 - accuracy):.2f}") >= 2, "measured and stated"


def test_table_goes_between_the_markers(capsys, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    run("table", f"--readme={path}")
    run("table")
    assert path.read_text() == f"before\n{readme.BEGIN}\n{capsys.readouterr().out}{readme.END}\nafter\n"


def test_plot_draws_what_the_manifests_say(capsys, tmp_path):
    run("plot", "--data=digits", f"--picture={tmp_path / 'digits.png'}")
    assert (tmp_path / "digits.png").read_bytes()[:4] == b"\x89PNG"
    manifest = ak.zoo.show(DIGITS)
    curve = manifest.curve()
    assert [1 - error for error in curve.errors] == pytest.approx(manifest.pick().accuracies)
    assert curve.costs() == manifest.pick().macs and curve.about["images"] == 359
    with pytest.raises(ValueError, match="has not been trained"):
        ak.zoo.show("resann9x16_const").curve("cifar10")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "Say what to do"),
        (["plot", "--data=digits"], "needs `--data` and `--picture`"),
        (["plot", "--data=svhn_cropped", "--picture=a.png"], "No network"),
        (["lst"], "Did you mean 'list'"),
        (["show"], "takes 1 names"),
        (["list", "all"], "takes 0 names"),
        (["show", "resann2x16_adaloss_digit"], f"Did you mean '{DIGITS}'"),
        (["evaluate", DIGITS, "--weights=cifar10"], "Known: 'digits'"),
        (["table", "--readme=/nowhere"], "/nowhere"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message):
    with pytest.raises(SystemExit, match=message) as error:
        run(*arguments)
    assert str(error.value).startswith("anytime-keras zoo: ")


@pytest.fixture
def script(tmp_path, monkeypatch):
    """A recipe file, run in a folder of its own: the digits' with one epoch."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    shutil.copy(ROOT / "zoo" / "recipes" / f"{DIGITS}.py", tmp_path / "own" / "try.py")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["try.py", *arguments])
        runpy.run_path(str(tmp_path / "own" / "try.py"), run_name="__main__")

    return run


@pytest.mark.tensorflow  # for time: what JAX trains and publishes is tested by itself
def test_a_recipe_file_trains_resumes_and_publishes(script, tmp_path, capsys):
    script("--epochs=1")
    folder = tmp_path / "runs" / DIGITS
    assert not (tmp_path / "own" / "manifests").exists()
    script("--epochs=1", "--publish", f"--zoo={tmp_path / 'own'}")
    assert "going on after epoch 1" in capsys.readouterr().out
    entry = places.Folder(tmp_path / "own").manifest(DIGITS).pick()
    assert entry.content["training"]["epochs"] == 1 and entry.content["training"]["recipe"]["epochs"] == 1
    assert 0 < entry.content["training"]["minutes"] < 5
    assert entry.content["recipe"] == f"recipes/{DIGITS}.py"
    trained = ak.evaluate(keras.saving.load_model(folder / "model.keras"), ak.data.load("digits").test)
    assert entry.accuracies == pytest.approx([1 - error for error in trained.errors], abs=1e-9)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_network_comes_out_of_its_recipe_again(tmp_path):
    file = ROOT / "zoo" / "recipes" / f"{DIGITS}.py"
    subprocess.run([sys.executable, file, f"--folder={tmp_path / 'run'}"], check=True, stdout=subprocess.DEVNULL)
    accuracies = [1 - error for error in ak.Curve.from_json(tmp_path / "run" / "curve.json").errors]
    entry = ak.zoo.show(DIGITS).pick()
    # Another processor rounds otherwise, and training makes much of that; the first exit is the least steady.
    assert accuracies[0] == pytest.approx(entry.accuracies[0], abs=0.06)
    assert accuracies[1:] == pytest.approx(entry.accuracies[1:], abs=0.02)


def test_a_recipe_file_announces_without_training(tmp_path, monkeypatch):
    path = ROOT / "zoo" / "recipes" / "resann5x16_adaloss_cifar10.py"
    monkeypatch.setattr(sys, "argv", [str(path), "--announce", f"--zoo={tmp_path}"])
    runpy.run_path(str(path), run_name="__main__")
    assert (tmp_path / "manifests" / "resann5x16_adaloss.json").is_file() and not (tmp_path / "weights").exists()


def test_a_recipe_file_tells_how_to_run_it(script, tmp_path, capsys):
    script("--help")
    told = capsys.readouterr().out
    assert f"python zoo/recipes/{DIGITS}.py --publish" in told and "--epochs" in told
    assert not (tmp_path / "runs").exists()


def test_a_recipe_file_refuses_what_it_does_not_know(monkeypatch, tmp_path):
    recipe = ak.training.Recipe(model={"name": "resann", "num_units": 1, "channels": 4}, data={"data": "digits"})
    for arguments, message in (["--epoch=0"], "epoch"), (["now"], "now"), (["--epochs=0"], "epochs"):
        with pytest.raises(SystemExit, match=message):
            recipe_file.main(recipe, "small_adaloss", argv=["small.py", *arguments])
    with pytest.raises(SystemExit, match="never changes them"):  # at once, not after the training
        recipe_file.main(recipe, DIGITS, argv=["digits.py", "--publish"])
    part = dataclasses.replace(recipe, last_exit="exit_2")
    with pytest.raises(SystemExit, match="last_exit='exit_2'"):
        recipe_file.main(part, "small_adaloss", argv=["small.py", "--publish", f"--zoo={tmp_path}"])
