import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import warnings

import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.training import Recipe, recipe as recipes, schedules, train
from anytime_keras.training.checkpoint import Checkpoints

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:tensorboard")


@pytest.fixture(scope="module", autouse=True)
def repeatable():
    """Computes like the command `train`; TensorFlow has no public way to undo this."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    from tensorflow.python.framework import config

    config.enable_op_determinism()
    yield
    config.disable_op_determinism()


def tiny(**changes):
    return Recipe.paper(
        {"name": "resann", "num_units": 1, "channels": 4}, "digits", **{"epochs": 2, "batch_size": 256, **changes}
    )


def parameters(model):
    return [keras.ops.convert_to_numpy(variable) for variable in model.weights]


class StopAfter(keras.callbacks.Callback):
    """Ends a run like a crash after a number of batches."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("crash")


@pytest.fixture(scope="module")
def written(repeatable, tmp_path_factory):
    """A finished run, its folder, and how often TensorFlow traced its step."""
    folder, traced, plain = tmp_path_factory.mktemp("written"), [], keras.Model.train_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.Model, "train_step", lambda self, batch: traced.append(batch) or plain(self, batch))
        run = train(tiny(), folder, verbose=False)
    return run, folder, len(traced)


def test_results_replace_older_ones_only_if_a_run_succeeded(written, tmp_path):
    run, *_ = written
    dataclasses.replace(run, average=run).save(tmp_path)
    (tmp_path / "average" / "notes.txt").write_text("the user's own")
    run.save(tmp_path)
    assert [path.name for path in (tmp_path / "average").iterdir()] == ["notes.txt"]
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert len(before) == 4
    with pytest.raises(ValueError, match="was stopped by its time limit has no results to save. Resume it"):
        dataclasses.replace(run, curve=None).save(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_run_writes_the_documented_files(written):
    run, folder, _ = written
    assert sorted(place.name for place in folder.iterdir() if place.name != "tensorboard") == [
        "checkpoints",
        "curve.json",
        "data.json",
        "history.csv",
        "model.keras",
        "recipe.json",
    ]
    assert Recipe.from_json(folder / "recipe.json") == tiny()
    with open(folder / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for name in ("loss", "exit_3_loss", "exit_3_accuracy", "val_exit_3_accuracy", "exit_1_weight"):
        assert float(rows[1][name]) == run.history[1][name]
    curve = ak.Curve.from_json(folder / "curve.json")
    assert curve == run.curve and curve.about["split"] == "test" and curve.about["images"] == 359
    loaded = keras.saving.load_model(folder / "model.keras")
    for ours, theirs in zip(parameters(loaded), parameters(run.model)):
        np.testing.assert_array_equal(ours, theirs)
    assert json.loads((folder / "data.json").read_text())["mean"] == [float(value) for value in run.data.mean]
    assert len(list((folder / "checkpoints").iterdir())) == 2


@pytest.mark.tensorflow
def test_a_step_is_traced_once(written):
    """Keras 3.15 creates a step's variables within the step, so TensorFlow traces it again."""
    assert written[2] == 1


ADALOSS = {"name": "adaloss", "update_period": 3}


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    """Returns a function that trains a recipe once for all tests and returns the run and its folder."""
    runs = {}

    def get(recipe):
        key = recipe.to_json()
        if key not in runs:
            folder = tmp_path_factory.mktemp("whole")
            runs[key] = train(recipe, folder, verbose=False, tensorboard=False), folder
        return runs[key]

    return get


@pytest.mark.long
@pytest.mark.parametrize(
    "batches, changes",
    [
        (9, {"weighting": ADALOSS, "precision": "mixed_float16"}),  # its optimizer scales the loss
        (2, {"weighting": {"name": "constant"}}),
        pytest.param(2, {"weighting": ADALOSS}, marks=pytest.mark.slow),
        pytest.param(9, {"weighting": {"name": "constant"}}, marks=pytest.mark.slow),
    ],
)
def test_stopped_and_resumed_equals_never_stopped_bit_for_bit(tmp_path, never_stopped, changes, batches):
    """Six batches per epoch: stopped in the first epoch, before anything is saved, and in the second."""
    recipe = tiny(epochs=3, **changes)
    whole, folder = never_stopped(recipe)
    with pytest.raises(RuntimeError, match="crash"):
        train(recipe, tmp_path / "stopped", verbose=False, callbacks=[StopAfter(batches)])
    resumed = train(recipe, tmp_path / "stopped", resume=True, verbose=False)
    assert resumed.history == whole.history
    for ours, theirs in zip(parameters(resumed.model), parameters(whole.model), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(resumed.model.optimizer.variables, whole.model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=theirs.path)
    assert resumed.weighting.get_state() == whole.weighting.get_state()
    assert resumed.curve.errors == whole.curve.errors
    assert (folder / "history.csv").read_text() == (tmp_path / "stopped" / "history.csv").read_text()


@pytest.mark.long
def test_killed_in_mid_epoch_and_resumed_equals_never_killed(tmp_path):
    """Sends SIGKILL to the command."""

    def command(folder, *more):
        return [sys.executable, "-m", "anytime_keras", "train", f"--folder={folder}", "--notensorboard", *more]

    flags = [
        "--model=resann",
        "--num_units=1",
        "--channels=4",
        "--dataset=digits",
        "--epochs=4",
        "--batch_size=32",
        "--recipe=modern",
    ]
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    whole = subprocess.Popen(command(tmp_path / "whole", *flags), **quiet)
    killed = subprocess.Popen(command(tmp_path / "killed", *flags), **quiet)
    deadline = time.monotonic() + 240
    while not (tmp_path / "killed" / "history.csv").exists():
        assert killed.poll() is None and time.monotonic() < deadline, killed.stderr.read().decode()[-2000:]
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "curve.json").exists(), "killed too late to show anything"
    done = subprocess.run(command(tmp_path / "killed", "--resume"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "resuming after epoch" in done.stdout
    assert whole.wait() == 0, whole.stderr.read().decode()[-2000:]
    for process in (whole, killed):
        process.stderr.close()
    for name in ("history.csv", "recipe.json", "data.json"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "killed" / name).read_text()
    curves = [ak.Curve.from_json(tmp_path / name / "curve.json") for name in ("whole", "killed")]
    assert [point.loss for point in curves[0]] == [point.loss for point in curves[1]]


@pytest.mark.long
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_used(tmp_path, never_stopped):
    recipe = tiny(epochs=3, weighting=ADALOSS)
    whole, _ = never_stopped(recipe)
    with pytest.raises(RuntimeError, match="crash"):
        train(recipe, tmp_path / "run", verbose=False, callbacks=[StopAfter(14)])
    weights = tmp_path / "run" / "checkpoints" / "epoch-00002" / "training.weights.h5"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.warns(UserWarning, match="epoch-00002.*damaged"):
        resumed = train(recipe, tmp_path / "run", resume=True, verbose=False)
    assert resumed.history == whole.history


def test_damaged_checkpoints_are_not_resumed_and_remove_no_valid_one(tmp_path):
    model, checkpoints = tiny().build_model(tiny().load_data()), Checkpoints(tmp_path)
    model.optimizer.build(model.trainable_variables)
    for epoch in (8, 9):
        checkpoints.save(model, None, epoch, [{"epoch": epoch}])
        (tmp_path / f"epoch-{epoch:05d}" / "state.json").write_text("{")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(ValueError, match="epoch-00008, epoch-00009"):
        checkpoints.restore(model, None)
    for epoch in (1, 2, 3):
        checkpoints.save(model, None, epoch, [{"epoch": epoch}])
    assert checkpoints.epochs() == [2, 3, 8, 9]
    with pytest.warns(UserWarning, match="damaged"):
        assert checkpoints.restore(model, None) == (3, [{"epoch": 3}])


@pytest.mark.long
def test_a_partly_written_checkpoint_is_never_read(tmp_path, monkeypatch):
    recipe = tiny(epochs=2)
    replace = os.replace

    def crash(source, target):
        if "epoch-00002" in str(target):
            raise RuntimeError("power cut")
        return replace(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(RuntimeError, match="power cut"):
        train(recipe, tmp_path, verbose=False)
    monkeypatch.undo()
    assert [place.name for place in Checkpoints(tmp_path / "checkpoints").all()] == ["epoch-00001"]
    assert len(train(recipe, tmp_path, resume=True, verbose=False).history) == 2


@pytest.mark.long
def test_a_folder_in_use_and_another_recipe_are_refused(tmp_path):
    train(tiny(epochs=1), tmp_path, verbose=False)
    with pytest.raises(ValueError, match="already contains a run.*resume=True"):
        train(tiny(epochs=1), tmp_path, verbose=False)
    with pytest.raises(ValueError, match="another recipe: epochs, seed differ"):
        train(tiny(epochs=2, seed=1), tmp_path, resume=True, verbose=False)
    with pytest.raises(ValueError, match="needs the `folder`"):
        train(tiny(), resume=True, verbose=False)


@pytest.mark.slow
def test_training_is_repeatable_and_depends_on_the_seed():
    runs = [train(tiny(epochs=1, seed=seed), verbose=False) for seed in (0, 0, 1)]
    assert runs[0].history == runs[1].history != runs[2].history


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        dict(label_smoothing=0.1, optimizer={"name": "adamw"}, learning_rate=1e-3),
        pytest.param(dict(precision="mixed_bfloat16"), marks=pytest.mark.slow),
        dict(precision="bfloat16"),
        dict(precision="mixed_float16", schedule={"name": "cosine", "warmup_epochs": 0.5}),
        dict(weighting={"name": "single_exit", "exit": -1}),
    ],
)
def test_other_recipes_train(changes):
    run = train(tiny(**changes), verbose=False)
    assert np.isfinite([row["loss"] for row in run.history]).all()
    assert run.history[-1]["exit_3_loss"] < run.history[0]["exit_3_loss"]


@pytest.mark.long
def test_one_exit_trains_without_a_weighting(tmp_path):
    recipe = Recipe.paper(
        {"name": "resann", "num_units": 1, "channels": 4, "exit_every": 3}, "digits", epochs=1, batch_size=256
    )
    run = train(recipe, tmp_path, verbose=False)
    assert len(run.curve) == 1 and run.weighting is None


@pytest.mark.long
def test_a_network_that_ends_with_an_exit_trains_like_that_part_of_the_whole():
    alone = dict(weighting={"name": "single_exit", "exit": "exit_2"})
    whole, part = (train(tiny(**alone, last_exit=last), verbose=False) for last in (None, "exit_2"))
    assert part.model.exit_names == ["exit_1", "exit_2"] and whole.model.num_exits == 3
    assert part.model.exits[1].macs == whole.model.exits[1].macs < whole.model.exits[2].macs
    kept = {variable.path: variable for variable in whole.model.weights}
    assert 0 < len(part.model.weights) < len(kept)
    for own in part.model.weights:
        np.testing.assert_allclose(own, kept[own.path], rtol=1e-4, atol=1e-5)
    assert part.history[-1]["exit_2_loss"] == pytest.approx(whole.history[-1]["exit_2_loss"], rel=1e-4)
    assert part.curve[1].error == whole.curve[1].error


def test_weight_decay_is_half_of_it_times_the_squared_norm():
    model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1))
    recipes.decay_kernels(model, 0.02)
    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]
    expected = sum(0.01 * float(keras.ops.sum(kernel**2)) for kernel in kernels)
    assert len(kernels) == 10
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "schedule, at, expected",
    [
        ({"name": "constant"}, [0, 99], [0.1, 0.1]),
        ({"name": "step", "boundaries": [0.5, 0.75]}, [0, 49, 50, 74, 75, 99], [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]),
        ({"name": "step", "boundaries": [0.5], "factor": 0.5}, [49, 50], [0.1, 0.05]),
        ({"name": "cosine"}, [0, 50, 100], [0.1, 0.05, 0.0]),
        ({"name": "cosine", "warmup_epochs": 2}, [0, 10, 20, 60, 100], [0.0, 0.05, 0.1, 0.05, 0.0]),
    ],
)
def test_learning_rates(schedule, at, expected):
    rate = schedules.by_step(schedule, 0.1, epochs=10, steps_per_epoch=10)
    got = [float(rate(step)) if callable(rate) else rate for step in at]
    np.testing.assert_allclose(got, expected, atol=1e-7)


def test_recipes_of_the_paper():
    cifar = Recipe.paper("resann", "cifar10")
    assert (cifar.epochs, cifar.learning_rate, cifar.optimizer, cifar.weight_decay) == (
        300,
        0.1,
        {"name": "sgd", "momentum": 0.9},
        1e-4,
    )
    assert cifar.schedule == {"name": "step", "boundaries": [0.5, 0.75]}
    assert cifar.data == {"data": "cifar10", "validation": "last"}
    assert Recipe.paper("resann", {"data": "cifar10.npz", "validation": 500}).data["validation"] == 500
    assert Recipe.paper("resann", "svhn_cropped").epochs == 60
    for name in ("imagenet2012", "imagenet2012:5.1.0", "/data/imagenet2012.npz"):
        imagenet = Recipe.paper("resann", name)
        assert imagenet.epochs == 90 and imagenet.schedule["boundaries"] == [1 / 3, 2 / 3]
    for name in ("svhn_cropped:3.0.0", "svhn_cropped.npz"):
        assert Recipe.paper("resann", name).epochs == 60
    modern = Recipe.modern("resann", "cifar10")
    assert (
        modern.label_smoothing
        and modern.schedule["name"] == "cosine"
        and modern.data["augment"] == ["pad_crop", "flip", "erase"]
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(epochs=0), "epochs=0"),
        (dict(batch_size=1.5), "batch_size=1.5"),
        (dict(learning_rate=-1), "learning_rate=-1"),
        (dict(learning_rate=float("nan")), "nan"),
        (dict(label_smoothing=1), "label_smoothing=1"),
        (dict(precision="half"), "'half'"),
        (dict(schedule={"name": "stairs"}), "'stairs'"),
        (dict(weighting={"name": "adalos"}), "Did you mean 'adaloss'"),
        (dict(weighting={"name": "adaloss", "gama": 1}), "gama"),
        (dict(weighting={"name": "adaloss", "gamma": 2}), "gamma=2"),
        (dict(seed=-1), "seed=-1"),
        (dict(epoch=3), "epoch"),
        (dict(schedule={"name": "step", "boundries": [0.2]}), "boundries"),
        (dict(schedule={"name": "cosine", "warmup": 3}), "warmup"),
        (dict(schedule={"name": "step", "boundaries": [0.9, 0.1]}), "ascending fractions"),
        (dict(schedule={"name": "step", "boundaries": [50, 75]}), "ascending fractions"),
        (dict(schedule={"name": "step", "boundaries": "ab"}), "ascending fractions"),
        (dict(schedule={"name": "cosine", "warmup_epochs": -1}), "warmup_epochs"),
        (dict(optimizer={"name": "sgd", "learning_rate": 123.0}), "must not contain the recipe.s"),
        (dict(last_exit=2), "last_exit=2"),
    ],
)
def test_recipes_out_of_range_are_refused(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        tiny(**changes)


def test_files_that_are_not_recipes_are_refused(tmp_path):
    for content, message in [
        ("{", "must be a recipe written by"),
        ('{"model": "resann"}', "needs"),
        ('{"model": "resann", "data": "digits", "epoch": 3}', "no field `epoch`"),
        ('{"model": "resann", "data": {"data": "digits", "seed": 3}}', "must not contain the recipe.s"),
    ]:
        (tmp_path / "recipe.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            Recipe.from_json(tmp_path / "recipe.json")
    with pytest.raises(ValueError, match="optimizer"):
        train(tiny(optimizer={"name": "sgdd"}), verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Recipe.from_dict(json.loads(tiny().to_json())) == tiny()
    own = Recipe({"name": "resann", "num_units": np.int64(1)}, "digits", sizes=[[np.int64(8), np.float32(1)]])
    assert Recipe.from_dict(json.loads(own.to_json())) == own


@pytest.mark.parametrize(
    "model, data, message",
    [
        ({"name": "resnt"}, {"data": "/nowhere"}, "Did you mean 'resann'"),
        ({"num_classes": 3}, {}, "have 10 classes"),
        ({"num_classes": 30}, {}, "have 10 classes"),
        ({"input_shape": (16, 16, 1)}, {}, "shape .8, 8, 1."),
        ({}, {"validaton": 0.2}, "validaton"),
        ({}, {"validation": "0.1"}, "validation"),
        ({}, {"image_size": 20}, "image_size"),
    ],
)
def test_a_recipe_that_does_not_fit_its_data_is_refused_and_leaves_nothing(tmp_path, model, data, message):
    own = {"name": "resann", "num_units": 1, "channels": 4}
    with pytest.raises(ValueError, match=message):
        train(Recipe.paper({**own, **model}, {"data": "digits", **data}, epochs=1), tmp_path / "run", verbose=False)
    assert not list(tmp_path.iterdir())


def test_an_unknown_last_exit_is_refused_and_leaves_nothing(tmp_path):
    for changes, message in (
        (dict(last_exit="exit_9"), "last_exit='exit_9'.*exit_3"),
        (dict(last_exit="exit_2", weighting={"name": "single_exit", "exit": "exit_3"}), "exit_3"),
        (dict(last_exit="exit_1", weighting={"name": "single_exit", "exit": "exit_3"}), "exit_3"),
    ):
        with pytest.raises(ValueError, match=message):
            train(tiny(**changes), tmp_path / "run", verbose=False)
    assert not list(tmp_path.iterdir())


def test_objects_that_are_not_callbacks_are_refused_before_writing(tmp_path):
    for callback in (3, ak.AdaLoss()):
        with pytest.raises(ValueError, match="`callbacks` must be"):
            train(tiny(), tmp_path / "run", verbose=False, callbacks=[callback])
    with pytest.raises(ValueError, match="must be a `Recipe`"):
        train({"model": "resann"}, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_steps_per_execution_that_would_run_into_the_next_epoch_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must divide.*steps_per_execution=4, 6 steps"):
        train(tiny(steps_per_execution=4), tmp_path / "run", verbose=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_several_steps_per_execution_are_the_steps_of_an_epoch():
    run = train(tiny(epochs=1, steps_per_execution=3), verbose=False)
    assert int(run.model.optimizer.iterations) == 6


@pytest.mark.long
def test_a_folder_is_free_after_a_run_that_ended_before_its_first_epoch(tmp_path):
    with pytest.raises(RuntimeError, match="crash"):
        train(tiny(epochs=1), tmp_path, verbose=False, callbacks=[StopAfter(2)], tensorboard=False)
    assert len(train(tiny(epochs=1, seed=1), tmp_path, verbose=False, tensorboard=False).history) == 1


def test_a_run_does_not_resume_with_other_data(tmp_path):
    rng = np.random.default_rng(0)

    def write(images):
        np.savez(tmp_path / "d.npz", x_train=rng.random((images, 8, 8, 1)), y_train=np.arange(images) % 3)

    def begin(epochs, **options):
        recipe = Recipe.paper(tiny().model, str(tmp_path / "d.npz"), epochs=2, batch_size=32)
        return train(recipe, tmp_path / "run", verbose=False, tensorboard=False, **options)

    write(60)
    with pytest.raises(RuntimeError, match="crash"):
        begin(2, callbacks=[StopAfter(3)])
    description = (tmp_path / "run" / "data.json").read_text()
    write(90)
    with pytest.raises(ValueError, match="The data has changed since the run"):
        begin(2, resume=True)
    assert (tmp_path / "run" / "data.json").read_text() == description
