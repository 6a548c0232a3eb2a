"""Interrupted training runs on TensorFlow, each in a fork, so that the parent never computes."""

import contextlib
import csv
import functools
import io
import json
import os
import pathlib
import shutil
import tempfile
import time
import warnings
import zipfile

import h5py
import keras
import numpy as np

import anytime_keras as ak
from anytime_keras.runtime import repeatable
from anytime_keras import _files
from anytime_keras.training import Recipe, checkpoint, train
from tests.faults.dying import in_child
from tests.faults.interrupts import interrupt

EPOCHS, BATCH = 4, 512
MODEL = {"name": "resann", "num_units": 1, "channels": 4, "exit_every": 2}


def recipe(data="digits", **changes):
    return Recipe.paper(MODEL, data, **{"epochs": EPOCHS, "batch_size": BATCH, **changes})


def trained(folder, resume=False, own=None, callbacks=()):
    """Trains without output, bit for bit the same each time. The recipe is made here because that runs TensorFlow."""
    repeatable()
    return train(own or recipe(), folder, resume=resume, verbose=False, tensorboard=False, callbacks=callbacks)


def train_alone(*arguments):
    """Trains and returns nothing, because a `Run` cannot be pickled."""
    trained(*arguments)


class At(keras.callbacks.Callback):
    """Calls a function once, at the end of a batch of an epoch, both counted from 0."""

    def __init__(self, epoch, batch, act):
        super().__init__()
        self.when, self.act, self.epoch = (epoch, batch), act, None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.when:
            self.act()


@functools.cache
def reference():
    """Returns the results of an uninterrupted run."""
    with tempfile.TemporaryDirectory() as folder:
        in_child(train_alone, pathlib.Path(folder) / "reference")
        return results(pathlib.Path(folder) / "reference")


def results(folder):
    """Returns the results of a run: its history, its curve and every array of its network."""
    folder = pathlib.Path(folder)
    points = [tuple(vars(point).values()) for point in ak.Curve.from_json(folder / "curve.json")]
    arrays = {}
    with zipfile.ZipFile(folder / "model.keras") as archive:
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
            file.visititems(
                lambda name, item: arrays.update({name: item[()]} if isinstance(item, h5py.Dataset) else {})
            )
    return (folder / "history.csv").read_text(), points, arrays


def same(found, expected):
    assert found[0] == expected[0], f"another history: {found[0]} for {expected[0]}"
    assert found[1] == expected[1], f"another curve: {found[1]} for {expected[1]}"
    assert found[2].keys() == expected[2].keys()
    for name, array in expected[2].items():
        np.testing.assert_array_equal(found[2][name], array, err_msg=name)


class Training:
    """Runs that are killed several times and resumed until they end."""

    kinds = ("seconds", "file")

    def __init__(self, folder, rng):
        self.home, self.number, self.done, self.begun = pathlib.Path(folder), 0, 0, 0
        self.expected = reference()
        self.rows = list(csv.DictReader(io.StringIO(self.expected[0])))

    @property
    def folder(self):
        return self.home / f"run{self.number}"

    def begin(self):
        """Continues with another run when the last one has ended."""
        self.begun += 1
        if (self.folder / "curve.json").exists():
            shutil.rmtree(self.folder)
            self.number += 1
            self.done = 0

    def deed(self, arm):
        early = self.begun % 3 == 0  # two thirds of the kills are after the first batch, where epochs end
        if early:
            arm()
        trained(self.folder, resume=True, callbacks=[] if early else [_Once(arm)])

    def check(self):
        """Checks the files: the state that a resumed run would load equals the reference at that epoch."""
        epochs = checkpoint.Checkpoints(self.folder / "checkpoints").epochs()
        assert not self.done or (epochs and epochs[-1] >= self.done), f"lost: epoch {self.done}, found {epochs}"
        if epochs:
            place = self.folder / "checkpoints" / f"epoch-{epochs[-1]:05d}"
            state = json.loads((place / "state.json").read_text())
            assert state["sha256"] == checkpoint._sha256(place / "training.weights.h5"), "weights of another hash"
            assert state.pop("own_sha256") == _files.digest(state), "a state of another hash"
            assert state["epoch"] == epochs[-1] == len(state["history"])
            for row, expected in zip(state["history"], self.rows):
                assert {name: repr(value) for name, value in row.items()} == expected, "another history"
            self.done = epochs[-1]
        with contextlib.suppress(FileNotFoundError):
            text = (self.folder / "history.csv").read_text()
            assert self.expected[0].startswith(text), "history.csv"
        for name in ("recipe.json", "data.json", "curve.json"):
            with contextlib.suppress(FileNotFoundError):
                json.loads((self.folder / name).read_text())
        with contextlib.suppress(FileNotFoundError):
            assert zipfile.ZipFile(self.folder / "model.keras").testzip() is None

    def finished(self):
        same(results(self.folder), self.expected)
        left = [path.name for path in self.folder.rglob("*unfinished*")]
        assert not left, f"left over: {left}"

    def notes(self):
        return [f"{self.number} trainings resumed to their end, each equal to the one never killed, bit for bit"]


class _Once(keras.callbacks.Callback):
    def __init__(self, arm):
        super().__init__()
        self.arm, self.armed = arm, False

    def on_train_batch_end(self, batch, logs=None):
        if not self.armed:
            self.armed = True
            self.arm()


# === Other faults; each function tries once, in a fork ===


def nan_batch(folder, epoch, batch):
    """A batch of NaN images: the training must end with that epoch's name and the good checkpoints, and go on from
    there as if nothing had been once the cause is gone."""
    stream, steps = ak.data.DataSet.training_stream, -(-1294 // BATCH)

    def spoilt(self, first_epoch=0):
        import tensorflow as tf

        at = (epoch - first_epoch) * steps + batch
        nan = tf.constant(float("nan"))
        return stream(self, first_epoch).enumerate().map(lambda n, xy: (tf.where(n == at, nan, xy[0]), xy[1]))

    ak.data.DataSet.training_stream = spoilt
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # AdaLoss's own, of the same
            trained(folder)
    except ValueError as error:
        assert f"epoch {epoch + 1}, from batch {batch + 1} on" in str(error), str(error)
    else:
        raise AssertionError("trained on with NaN")
    finally:
        ak.data.DataSet.training_stream = stream
    found = checkpoint.Checkpoints(folder / "checkpoints").epochs()
    assert found == list(range(1, epoch + 1))[-2:], f"checkpoints {found}"
    trained(folder, resume=True)


def interrupted(folder, seconds):
    """A notebook's Stop button at any moment of `train`; the same process then resumes."""
    stopped = interrupt(lambda: trained(folder, resume=True), seconds)
    trained(folder, resume=True)
    return stopped


def interrupted_fit(seconds):
    """The Stop button in a plain `fit` with AdaLoss: model and callback stay usable, without the weighting.

    The step is built before: if Keras is stopped while it creates the optimizer's variables, it must compile again.
    """
    data = ak.data.load("digits", batch_size=BATCH)
    model = recipe().build_model(data)
    adaloss = ak.AdaLoss()

    def fit(epochs, *callbacks):
        return model.fit(data.train, epochs=epochs, verbose=0, shuffle=False, callbacks=list(callbacks)).history

    fit(1, adaloss)
    stopped = interrupt(lambda: fit(50, adaloss), seconds)
    history = fit(1, adaloss)
    assert np.isfinite(history["loss"]).all() and np.isfinite(adaloss.averages).all()
    assert adaloss.weights.shape == (model.num_exits,)
    log = fit(1)
    names = [f"{name}_loss" for name in model.exit_names]
    plain = sum(log[name][0] for name in names) + float(sum(model.losses))
    assert abs(log["loss"][0] - plain) < 0.02 * abs(plain), f"a fit without weighting: {log['loss'][0]} for {plain}"
    measured = model.evaluate(data.test, verbose=0, return_dict=True)
    assert np.isfinite(list(measured.values())).all()
    assert len(ak.evaluate(model, data.test)) == model.num_exits
    return stopped


def corrupt_image(folder, rng, skip):
    """An image that is damaged during an epoch is named, or skipped on request."""
    place = folder / "images"
    write_images(place, rng)
    victim = sorted(place.rglob("*.png"))[rng.integers(40)]
    good = victim.read_bytes()
    content = {"random": rng.bytes(200), "cut": good[: len(good) // 2], "empty": b""}
    how = str(rng.choice(list(content)))
    data = {"data": str(place), "image_size": 8, "validation": 0, "test": 0.2, "skip_corrupt": skip}
    own = recipe(data, batch_size=8, epochs=8)
    spoil = At(int(rng.integers(2)), int(rng.integers(4)), lambda: victim.write_bytes(content[how]))
    if skip:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            run = trained(folder / "run", own=own, callbacks=[spoil])
        assert run.data.skipped == [str(victim)], f"skipped {run.data.skipped}, not {victim}"
        assert any(str(victim) in str(warning.message) for warning in told)
        assert (
            run.history[-1]["skipped_images"] == (str(victim) in run.data.examples["train"].paths)
            and "skipped_images" in run.history[0]
        )
        return
    try:
        trained(folder / "run", own=own, callbacks=[spoil])
    except ValueError as error:
        assert str(victim) in str(error) and "cannot be decoded" in str(error), str(error)
    else:
        raise AssertionError("trained on")
    victim.write_bytes(good)
    trained(folder / "run", own=own, resume=True)
    trained(folder / "whole", own=own)
    same(results(folder / "run"), results(folder / "whole"))


def write_images(place, rng, count=40):
    from PIL import Image

    for number in range(count):
        path = place / "abc"[number % 3] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 11, 3), "uint8")).save(path)


def second_training(folder, expected, rng):
    """While one process trains in a folder, another one is refused; afterwards it is accepted."""
    ready, go = os.pipe()
    moment = At(int(rng.integers(EPOCHS)), int(rng.integers(3)), lambda: (os.write(go, b"!"), time.sleep(8)))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            trained(folder, callbacks=[moment])
            code = 0
        finally:
            os._exit(code)
    os.close(go)
    assert os.read(ready, 1), "the first training failed"
    resume = bool(rng.integers(2)) and (folder / "checkpoints").exists()
    try:
        in_child(train_alone, folder, resume)
        raise RuntimeError("a second training was let in")
    except AssertionError as error:
        assert "Another process trains in" in str(error) or "already contains a run" in str(error), str(error)
        assert "Another process trains in" in str(error) or not resume, str(error)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the first training suffered"
    same(results(folder), expected)
