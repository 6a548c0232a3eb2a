"""Atomic checkpoints: everything a run needs to resume as if it had not stopped."""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import shutil
import time
import warnings

import keras
import numpy as np

from anytime_keras import _files
from anytime_keras._errors import explained

KEPT = 2


class Checkpoints:
    """The checkpoints of one run, one subfolder for each finished epoch.

    A checkpoint is written to a temporary folder and renamed once it is on disk, so that a process killed at any moment
    leaves the last checkpoint intact. Reading one verifies its hashes.
    """

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def save(self, model, weighting, epoch, history):
        """Saves a compiled model with its optimizer, a `Weighting` or None, and the logs of the `epoch` epochs done."""
        place, unfinished = self.folder / f"epoch-{epoch:05d}", self.folder / ".unfinished"
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed process
        try:
            unfinished.mkdir()
            weights = unfinished / "training.weights.h5"
            with room_for(model, weights):
                model.save_weights(weights)  # with the optimizer's variables, since the model is compiled
            state = {"epoch": epoch, "weighting": weighting and weighting.get_state(), "history": history}
            state["sha256"] = _sha256(weights)
            _files.put(unfinished / "state.json", json.dumps({**state, "own_sha256": _files.digest(state)}))
            to_disk(weights)
            to_disk(unfinished)
            shutil.rmtree(place, ignore_errors=True)
            os.replace(unfinished, place)
            to_disk(self.folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        # Damaged checkpoints of later epochs may exist if the run had to go back. They must not evict this one.
        for old in [other for other in self.all() if other.name <= place.name][:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def epochs(self):
        """Lists the epochs that have a checkpoint."""
        return [int(place.name.removeprefix("epoch-")) for place in self.all()]

    def restore(self, model, weighting, latest=None):
        """Restores the latest intact checkpoint, up to epoch `latest`, into a compiled model and a weighting.

        Returns the number of finished epochs and the list of their logs; 0 and [] if there is no checkpoint.
        """
        wanted = [place for place, epoch in zip(self.all(), self.epochs()) if latest is None or epoch <= latest]
        for place in reversed(wanted):
            try:
                state = json.loads((place / "state.json").read_text())
                weights = place / "training.weights.h5"
                if _sha256(weights) != state["sha256"]:
                    raise ValueError("its weights are not those that were saved")
                if state.pop("own_sha256") != _files.digest(state):
                    raise ValueError("its state is not the one that was saved")
            except (OSError, ValueError, KeyError) as error:
                warnings.warn(f"The checkpoint '{place}' is damaged and skipped: {error}.", stacklevel=2)
                continue
            model.optimizer.build(model.trainable_variables)
            model.load_weights(weights)
            if weighting is not None:
                weighting.set_state(state["weighting"])
            return state["epoch"], state["history"]
        if wanted:
            raise ValueError(
                f"All checkpoints in '{self.folder}' are damaged: {', '.join(place.name for place in wanted)}. "
                "Restore an intact one, or remove them to start from the beginning."
            )
        return 0, []

    def all(self):
        """Lists the checkpoints' paths, earliest first."""
        return sorted(self.folder.glob("epoch-*"))


@contextlib.contextmanager
def room_for(model, place):
    """Checks the free space, because HDF5 may end the process on a full disk, and turns its errors into an OSError."""
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.weights, *(optimizer.variables if optimizer is not None else [])]
    needed = 2**16 + sum(4 * math.prod(variable.shape) + 4096 for variable in variables)
    remedy = "Earlier files are intact. Free some space, then resume."
    free = shutil.disk_usage(place.parent).free
    if free < needed:
        raise OSError(f"No space left on device for '{place}': it needs {needed} bytes, {free} are free. {remedy}")
    with explained(f"'{place}' cannot be written: ", OSError, RuntimeError, end=f". {remedy}", raised=OSError):
        yield


def write_history(path, history):
    """Writes the logs as CSV, one epoch per line."""
    names = list(history[0])
    rows = [",".join(repr(row.get(name, "")) for name in names) for row in history]
    _files.put(path, "\n".join([",".join(names), *rows]) + "\n")


def to_disk(path):
    """Flushes a file, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Checkpointing(keras.callbacks.Callback):
    """Appends each epoch's logs to `history`, writes it to a CSV file, and saves checkpoints.

    A checkpoint is saved every few epochs (`every`), at least some `seconds` apart, and after the last epoch. Only the
    chief of several processes `writes`.
    """

    def __init__(self, checkpoints, weighting, history, csv, every=1, seconds=0.0, writes=True):
        super().__init__()
        self.checkpoints, self.weighting, self.history, self.csv = checkpoints, weighting, history, csv
        self.every, self.seconds, self.writes, self._saved = every, seconds, writes, None
        self._last = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        self.history.append({"epoch": epoch + 1, **{name: float(value) for name, value in (logs or {}).items()}})
        if not self.writes:
            return
        if (epoch + 1) % self.every == 0 and time.monotonic() - self._last >= self.seconds:
            self._save()
        elif not self.seconds:
            write_history(self.csv, self.history)

    def on_train_end(self, logs=None):
        if self.writes and self.history and self._saved != self.history[-1]["epoch"]:
            self._save()

    def _save(self):
        self._saved, self._last = self.history[-1]["epoch"], time.monotonic()
        self.checkpoints.save(self.model, self.weighting, self._saved, self.history)
        write_history(self.csv, self.history)


class StopInTime(keras.callbacks.Callback):
    """Stops training after an epoch, and sets `stopped`, if another one as long would end later than in `seconds`."""

    def __init__(self, seconds):
        super().__init__()
        self.deadline, self.stopped = time.monotonic() + seconds, False

    def on_epoch_begin(self, epoch, logs=None):
        self._begun = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        now = time.monotonic()
        if epoch + 1 < self.params["epochs"] and now + (now - self._begun) > self.deadline:
            self.stopped = self.model.stop_training = True


class FiniteWeights(keras.callbacks.Callback):
    """Raises ValueError at the end of an epoch if weights are non-finite, before they overwrite a good checkpoint."""

    async_safe = True  # only reads numbers, so Keras need not wait for it

    def on_epoch_begin(self, epoch, logs=None):
        self._first = None

    def on_train_batch_end(self, batch, logs=None):
        if self._first is None and logs and not np.isfinite(logs["loss"]):
            self._first = batch + 1

    def on_epoch_end(self, epoch, logs=None):
        weights = self.model.weights
        found = [each.path for each in weights if not np.isfinite(keras.ops.convert_to_numpy(each)).all()]
        if found:
            where = f"epoch {epoch + 1}" + (f", from batch {self._first} on" if self._first else "")
            raise ValueError(
                f"The training of '{self.model.name}' diverged in {where}: {len(found)} of its {len(weights)} "
                f"variables, such as '{found[0]}', have non-finite values. Earlier checkpoints are kept. Lower the "
                "learning rate, or check the data."
            )
