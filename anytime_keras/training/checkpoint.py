"""Checkpoints that are whole or not there: everything that a training needs to go on as if it had not stopped."""

import hashlib
import json
import os
import pathlib
import shutil
import time
import warnings

import keras

KEPT = 2


class Checkpoints:
    """The checkpoints of one training, one folder for each finished epoch.

    A checkpoint is written beside its place and moved there when it is on the disk, so that a process killed at any
    moment leaves the last one whole. The weights' hash is checked when it is read.

    Args:
        folder: where to keep them.
    """

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def save(self, model, weighting, epoch, history):
        """Saves the state after an epoch.

        Args:
            model: compiled model; its weights and its optimizer's are saved.
            weighting: `Weighting` or None.
            epoch: int, the number of epochs done.
            history: list of dicts, the logs of the epochs done.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f".unfinished-{os.getpid()}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        weights = unfinished / "training.weights.h5"
        model.save_weights(weights)  # with the optimizer's variables, since the model is compiled
        state = {
            "epoch": epoch,
            "weighting": weighting and weighting.get_state(),
            "history": history,
            "sha256": _sha256(weights),
        }
        write(unfinished / "state.json", json.dumps(state))
        _to_disk(weights)
        place = self._place(epoch)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(unfinished, place)
        _to_disk(self.folder)
        for old in self._all()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def epochs(self):
        """Lists the epochs after which there is a checkpoint."""
        return [int(place.name.removeprefix("epoch-")) for place in self._all()]

    def restore(self, model, weighting, latest=None):
        """Restores the latest whole checkpoint into a compiled model and a weighting.

        Args:
            model, weighting: as in `save`.
            latest: int, take none after this epoch; None takes any.

        Returns:
            The number of epochs done and the list of their logs; 0 and [] if there is no checkpoint.
        """
        wanted = [place for place, epoch in zip(self._all(), self.epochs()) if latest is None or epoch <= latest]
        for place in reversed(wanted):
            try:
                state = json.loads((place / "state.json").read_text())
                weights = place / "training.weights.h5"
                if _sha256(weights) != state["sha256"]:
                    raise ValueError("its weights are not those that were saved")
            except (OSError, ValueError, KeyError) as error:
                warnings.warn(f"The checkpoint '{place}' is damaged and left out: {error}.", stacklevel=2)
                continue
            model.optimizer.build(model.trainable_variables)
            model.load_weights(weights)
            if weighting is not None:
                weighting.set_state(state["weighting"])
            return state["epoch"], state["history"]
        return 0, []

    def _place(self, epoch):
        return self.folder / f"epoch-{epoch:05d}"

    def _all(self):
        return sorted(self.folder.glob("epoch-*"))


def write(path, text):
    """Writes a text file so that it is there as a whole or not at all."""
    path = pathlib.Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with open(unfinished, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def _to_disk(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Checkpointing(keras.callbacks.Callback):
    """Writes the history after every epoch, a checkpoint after every few epochs and after the last.

    Args:
        checkpoints: `Checkpoints`.
        weighting: `Weighting` or None.
        history: list of dicts, grows by an epoch's logs.
        csv: path of the history's file.
        every: int, epochs from one checkpoint to the next.
    """

    def __init__(self, checkpoints, weighting, history, csv, every=1):
        super().__init__()
        self.checkpoints, self.weighting, self.history, self.csv = checkpoints, weighting, history, csv
        self.every, self._saved = every, None

    def on_epoch_end(self, epoch, logs=None):
        self.history.append({"epoch": epoch + 1, **{name: float(value) for name, value in (logs or {}).items()}})
        if (epoch + 1) % self.every == 0:
            self._save()
        names = list(self.history[0])
        rows = [",".join(names), *(",".join(repr(row.get(name, "")) for name in names) for row in self.history)]
        write(self.csv, "\n".join(rows) + "\n")

    def on_train_end(self, logs=None):
        if self.history and self._saved != self.history[-1]["epoch"]:
            self._save()

    def _save(self):
        self._saved = self.history[-1]["epoch"]
        self.checkpoints.save(self.model, self.weighting, self._saved, self.history)


class StopInTime(keras.callbacks.Callback):
    """Stops training at the end of an epoch if another one as long would end too late.

    Args:
        seconds: float, from now.

    Attributes:
        stopped: bool, whether it did.
    """

    def __init__(self, seconds):
        super().__init__()
        self.deadline, self.stopped = time.monotonic() + seconds, False

    def on_epoch_begin(self, epoch, logs=None):
        self._begun = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        now = time.monotonic()
        if epoch + 1 < self.params["epochs"] and now + (now - self._begun) > self.deadline:
            self.stopped = self.model.stop_training = True
