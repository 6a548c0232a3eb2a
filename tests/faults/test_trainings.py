"""Interrupted training runs and their files, in one process; the fault suite tries many more."""

import json
import warnings

import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.data import batches
from anytime_keras.training import Recipe, train
from anytime_keras.training.checkpoint import Checkpoints, FiniteWeights
from anytime_keras.training.run import Training
from tests.faults.trainings import write_images

pytestmark = [pytest.mark.tensorflow, pytest.mark.long]
MODEL = {"name": "resann", "num_units": 1, "channels": 4, "exit_every": 2}


def recipe(data="digits", **changes):
    return Recipe.paper(MODEL, data, **{"epochs": 2, "batch_size": 512, **changes})


def begin(folder, **options):
    return train(recipe(), folder, verbose=False, tensorboard=False, **options)


class Act(keras.callbacks.Callback):
    """Calls a function at the end of an epoch's first batch."""

    def __init__(self, epoch, act):
        super().__init__()
        self.when, self.act, self.done = epoch, act, False

    def on_epoch_begin(self, epoch, logs=None):
        self.due = epoch == self.when and not self.done

    def on_train_batch_end(self, batch, logs=None):
        if self.due:
            self.due, self.done = False, True
            self.act(self.model)


def spoil(model):
    model.trainable_variables[0].assign(np.full(model.trainable_variables[0].shape, np.nan))


def test_weights_that_are_not_finite_never_replace_a_checkpoint(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="diverged in epoch 2, from batch 2 on.*such as.*learning rate"):
            begin(tmp_path, callbacks=[Act(1, spoil)])
    assert Checkpoints(tmp_path / "checkpoints").epochs() == [1]
    run = begin(tmp_path, resume=True)
    assert len(run.history) == 2 and np.isfinite(run.history[-1]["loss"])


def test_a_loss_that_is_not_finite_is_tolerated_if_the_weights_are_finite():
    """As when the loss scale is lowered in half precision."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    callback = FiniteWeights()
    callback.set_model(model)
    for _ in range(2):
        callback.on_epoch_begin(0)
        callback.on_train_batch_end(3, {"loss": float("nan")})
        callback.on_epoch_end(0, {})
    model.weights[1].assign([np.inf])
    callback.on_train_batch_end(5, {"loss": float("nan")})
    with pytest.raises(ValueError, match="epoch 3, from batch 4 on: 1 of its 2 variables"):
        callback.on_epoch_end(2, {})


def test_a_second_run_in_a_folder_is_refused_during_the_first(tmp_path):
    def second(model):
        before = sorted(path.name for path in tmp_path.iterdir())
        for resume in (False, True):
            with pytest.raises(ValueError, match="Another process trains in|already contains a run"):
                begin(tmp_path, resume=resume)
        assert sorted(path.name for path in tmp_path.iterdir()) == before

    begin(tmp_path, callbacks=[Act(0, second)])
    assert len(begin(tmp_path, resume=True).history) == 2, "free again"


def test_a_folder_is_free_after_an_interruption(tmp_path):
    def stop(model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as kept:  # keeps the frames, like a notebook
        begin(tmp_path, callbacks=[Act(1, stop)])
    assert len(begin(tmp_path, resume=True).history) == 2 and kept is not None


def test_one_of_two_simultaneous_runs_is_refused(tmp_path):
    first, second = (Training(recipe(), tmp_path) for _ in range(2))
    first.begin([])
    try:
        with pytest.raises(ValueError, match="Another process trains in"):
            second.begin([])
    finally:
        first.release()


def test_a_truncated_history_is_complete_after_resumption(tmp_path):
    begin(tmp_path)
    whole = (tmp_path / "history.csv").read_text()
    (tmp_path / "history.csv").write_text("".join(whole.splitlines(keepends=True)[:-1]))  # as after checkpoint 2
    begin(tmp_path, resume=True)
    assert (tmp_path / "history.csv").read_text() == whole


def test_a_changed_number_in_a_checkpoint_is_detected(tmp_path):
    begin(tmp_path)
    file = tmp_path / "checkpoints" / "epoch-00002" / "state.json"
    state = json.loads(file.read_text())
    state["history"][0]["loss"] += 1
    file.write_text(json.dumps(state))
    with pytest.warns(UserWarning, match="epoch-00002.*damaged.*its state"):
        assert begin(tmp_path, resume=True).history[0]["loss"] != state["history"][0]["loss"]


def test_the_next_checkpoint_removes_files_of_a_killed_process(tmp_path):
    (tmp_path / "checkpoints" / ".unfinished").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".unfinished" / "training.weights.h5").write_bytes(b"half")
    begin(tmp_path)
    assert not list(tmp_path.rglob("*unfinished*"))


@pytest.mark.parametrize("skip", [False, True])
def test_an_image_damaged_during_training_is_named_or_skipped(tmp_path, skip, monkeypatch):
    monkeypatch.setattr(batches, "processors", lambda: 2)  # so that reading does not run far ahead
    write_images(tmp_path / "images", np.random.default_rng(0))
    victim = sorted((tmp_path / "images").rglob("*.png"))[7]
    data = {"data": str(tmp_path / "images"), "image_size": 8, "validation": 0, "test": 0, "skip_corrupt": skip}

    def run():
        spoilt = Act(1, lambda model: victim.write_bytes(b"none"))  # so that the first checkpoint exists
        own = recipe(data, batch_size=8, epochs=8)
        return train(own, tmp_path / "run", verbose=False, tensorboard=False, callbacks=[spoilt])

    if skip:
        with pytest.warns(UserWarning, match=f"{victim.name}' cannot be decoded.*Left out.*1 so far"):
            done = run()
        assert done.data.skipped == [str(victim)] and done.history[-1]["skipped_images"] == 1
    else:
        with pytest.raises(ValueError, match=f"{victim.name}' cannot be decoded: .*Repair or remove it.$"):
            run()
        assert Checkpoints(tmp_path / "run" / "checkpoints").epochs()


def test_model_and_callback_are_usable_after_an_interrupted_fit():
    data, adaloss = ak.data.load("digits", batch_size=512), ak.AdaLoss()
    model = recipe().build_model(data)

    def stop(model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(data.train, verbose=0, shuffle=False, callbacks=[adaloss, Act(0, stop)])
    history = model.fit(data.train, verbose=0, shuffle=False, callbacks=[adaloss]).history
    assert np.isfinite(history["loss"]).all() and "exit_1_weight" in history
    assert "exit_1_weight" not in model.fit(data.train, verbose=0, shuffle=False).history


@pytest.mark.filterwarnings("ignore:The image")
def test_training_continues_after_an_image_was_damaged(tmp_path):
    write_images(tmp_path / "images", np.random.default_rng(0))
    data = {"data": str(tmp_path / "images"), "image_size": 8, "validation": 0, "test": 0.2, "skip_corrupt": True}
    own, options = recipe(data, batch_size=8), dict(verbose=False, tensorboard=False)
    stopped = train(own, tmp_path / "run", time_limit=1e-9, **options)
    sorted((tmp_path / "images").rglob("*.png"))[0].write_bytes(b"spoilt")
    run = train(own, tmp_path / "run", resume=True, **options)
    assert stopped.curve is None and len(run.history) == 2 and run.data.skipped
    np.testing.assert_array_equal(run.data.mean, stopped.data.mean)
