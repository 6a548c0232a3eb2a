"""Files that were truncated, swapped, or had a bit flipped: they are never used as if they were intact."""

import pathlib
import shutil
import tempfile
import warnings

import keras
import numpy as np

import anytime_keras as ak
from anytime_keras.classifier import presets
from anytime_keras.training import Recipe
from anytime_keras.zoo import catalog, places
from tests.faults import subjects
from tests.faults.tally import Tally


def truncate(path, rng, other):
    path.write_bytes(path.read_bytes()[: rng.integers(path.stat().st_size)])


def flip(path, rng, other):
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def swap(path, rng, other):
    shutil.copy(other, path)


HOW = {"truncated": truncate, "bit flipped": flip, "swapped": swap}


def zoo_file(stage, damage, rng):
    """Weights or golden outputs in a folder: refused, with the file's name."""
    path = rng.choice(sorted((stage.downloading.zoo / "weights").iterdir()))
    with _damaged(path, damage, rng, stage.other):
        zoo = places.Folder(stage.downloading.zoo)
        entry = zoo.manifest("net").pick()
        file = next(file for file in [*entry.files, entry.golden] if file.path.endswith(path.name))
        try:
            zoo.read(file)
        except ValueError as error:
            assert path.name in str(error)
        else:
            raise AssertionError(f"'{path.name}' was read")


def cached_file(stage, damage, rng):
    """A file or index in the cache: downloaded again or not needed, with correct results."""
    path = rng.choice(sorted(path for path in stage.downloading.cached() if path.suffix != ".part"))
    damage(path, rng, stage.other)
    catalog._added.clear()
    stage.downloading.deed(lambda: None)
    stage.downloading.finished()


def checkpoint_file(stage, damage, rng):
    """The last checkpoint's weights or state: reported and skipped, and the previous checkpoint is used."""
    saving = stage.saving
    last = saving.checkpoints.all()[-1]
    path = last / str(rng.choice(["training.weights.h5", "state.json"]))
    with _damaged(path, damage, rng, saving.checkpoints.all()[0] / path.name) as changed, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of a skipped checkpoint
        try:
            epoch, _ = saving.checkpoints.restore(saving.reader, saving.read_weighting)
        except UserWarning as warning:
            assert last.name in str(warning) and "damaged" in str(warning)
            warnings.simplefilter("ignore")
            epoch, history = saving.checkpoints.restore(saving.reader, saving.read_weighting)
            assert epoch == saving.epoch - 1 and history == saving._history(epoch)
        else:
            # A flipped bit may rename the field of the hash and damage nothing else.
            assert not changed or path.name == "state.json", "it was read"
            assert epoch == saving.epoch, f"epoch {epoch} for {saving.epoch}"
        assert subjects.has(saving._state(saving.reader, saving.read_weighting), epoch), "other weights"


def saved_model(stage, damage, rng):
    """`model.keras`: refused with one clear error, or correct if no number was damaged."""
    path = stage.saving.folder / "model.keras"
    with _damaged(path, damage, rng, stage.other):
        try:
            model = presets.load_keras(path)
        except ValueError as error:
            assert path.name in str(error)
        else:
            assert subjects.has(model.weights, stage.saving.epoch), "other weights"


def npz_data(stage, damage, rng):
    """An .npz of images: refused with its name, or correct."""
    with _damaged(stage.npz, damage, rng, stage.other):
        try:
            data = ak.data.load(stage.npz, validation=0, test=0)
        except ValueError as error:
            assert stage.npz.name in str(error)
        else:
            assert np.array_equal(data.examples["train"].images, subjects.images()[0]), "other images"


def json_file(stage, damage, rng):
    """A recipe or a curve, which have no hash: read, or refused with the file's name."""
    path = stage.saving.folder / str(rng.choice(["recipe.json", "curve.json"]))
    read = Recipe.from_json if path.name == "recipe.json" else ak.Curve.from_json
    with _damaged(path, damage, rng, stage.other):
        try:
            read(path)
        except ValueError:
            pass


TARGETS = {
    "a zoo's folder": zoo_file,
    "the cache": cached_file,
    "a checkpoint": checkpoint_file,
    "model.keras": saved_model,
    "an .npz of images": npz_data,
    "recipe.json or curve.json": json_file,
}


class _damaged:
    """Damages a file and restores it afterwards. Yields whether the damage changed it."""

    def __init__(self, path, damage, rng, other):
        self.path, self.damage, self.arguments = pathlib.Path(path), damage, (rng, other)

    def __enter__(self):
        self.content = self.path.read_bytes()
        self.damage(self.path, *self.arguments)
        return self.path.read_bytes() != self.content

    def __exit__(self, *_):
        self.path.write_bytes(self.content)


class _Stage:
    """Intact files of every kind."""

    def __init__(self, folder, rng):
        for name in ("saved", "down"):
            (folder / name).mkdir()
        self.saving = subjects.Saving(folder / "saved", rng)
        for _ in range(2):
            self.saving.deed(lambda: None)
            self.saving.finished()
        self.downloading = subjects.Downloading(folder / "down", rng)
        self.downloading.deed(lambda: None)
        images, labels = subjects.images()
        self.npz = folder / "images.npz"
        np.savez(self.npz, x_train=images, y_train=labels)
        self.other = folder / "other.npz"
        np.savez(self.other, other=images[:3] + 1)


def damaged_files(count, rng):
    """Applies every kind of damage to every kind of file in turn."""
    tally, tried = Tally(), 0
    with tempfile.TemporaryDirectory() as folder:
        stage = _Stage(pathlib.Path(folder).resolve(), rng)
        while tried < count:
            for how, damage in HOW.items():
                for what, target in TARGETS.items():
                    keras.utils.clear_session(free_memory=False)
                    tally.count(f"{what}, {how}", target, stage, damage, rng)
                    tried += 1
    tally.note(f"of {', '.join(TARGETS)}, each {', '.join(HOW)}")
    return tally
