"""Deeds to interrupt: saving, downloading and publishing, on Keras's NumPy backend, which survives forks.

Each subject sets a stage (`begin`), does its deed, and can tell after a violent end that nothing was lost or half
written (`check`), and after a peaceful one that all is there and nothing is left over (`finished`).
"""

import contextlib
import functools
import hashlib
import http.server
import json
import os
import pathlib
import tempfile
import time
import warnings

import keras
import numpy as np

import anytime_keras as ak
from anytime_keras.training import Recipe
from anytime_keras.training.checkpoint import Checkpointing, Checkpoints
from anytime_keras.training.run import Run
from anytime_keras.zoo import arrays, cache, catalog, places, publishing
from tests.faults import dying

MODEL = {"name": "resann", "num_units": 1, "channels": 4}


@functools.cache
def prepare():
    """Has this process compute once, and its forks not at all: with JAX, by which Keras's NumPy backend convolves, they
    would wait for ever. Returns a curve."""
    keras.distribution.list_devices = lambda device_type=None: ["numpy"]  # the NumPy backend has none
    warnings.filterwarnings("ignore", message=".*os.fork")
    model, data = published()
    measured = {"exits": [{} for _ in model.exit_names], "data": {}}
    golden = publishing._measure(model, data, measured)

    def measure(model, data, entry):
        for exit, known in zip(entry["exits"], measured["exits"]):
            exit.update(known)
        entry["data"].update(measured["data"])
        entry["measured"] = measured["measured"]
        return golden

    publishing._measure = measure
    publishing.runtime.commit = lambda: None  # git takes longest
    return ak.evaluate(model, data.test)


def published():
    """The network that is published, and its data."""
    data = ak.data.load(images(), batch_size=8, validation=0, test=8, augment=None)
    return ak.models.build(**MODEL, input_shape=(8, 8, 1), num_classes=3), data


def images(count=24):
    return np.random.default_rng(0).random((count, 8, 8, 1), dtype="float32"), np.arange(count) % 3


def numbers(variables, version):
    """Returns arrays that identify a version, one for each variable."""
    rng = np.random.default_rng(version)
    return [rng.uniform(0.5, 1.5, variable.shape).astype(variable.dtype) for variable in variables]


def give(variables, version):
    for variable, value in zip(variables, numbers(variables, version)):
        variable.assign(value)


def has(variables, version):
    return all(
        np.array_equal(variable.numpy(), value) for variable, value in zip(variables, numbers(variables, version))
    )


class Saving:
    """Saves versions of a checkpoint, the history, the network and its curve into one folder."""

    kinds = ("seconds", "file", "call")

    def __init__(self, folder, rng):
        self.folder, self.epoch = pathlib.Path(folder), 0
        self.recipe = Recipe.paper(MODEL, "digits", epochs=1000, batch_size=256)
        self.data = self.recipe.load_data()
        self.model, self.weighting = self._trainable()
        self.reader, self.read_weighting = self._trainable()
        self.run = Run(self.recipe, self.model, self.data, self.weighting, [], prepare())
        self.checkpoints = Checkpoints(self.folder / "checkpoints")
        self.saved = 0  # the version in model.keras
        with tempfile.TemporaryDirectory() as elsewhere:
            self.run.save(elsewhere)  # imports what saving needs before forking

    def _trainable(self):
        model = self.recipe.build_model(self.data)
        model.optimizer.build(model.trainable_variables)
        weighting = self.recipe.build_weighting()
        weighting.build(model.exit_names)
        return model, weighting

    def _state(self, model, weighting):
        every = [*model.weights, *model.optimizer.variables, *weighting.variables]
        return [variable for variable in every if "float" in variable.dtype]

    def _history(self, epoch):
        return [{"epoch": number, "loss": 1 / number} for number in range(1, epoch + 1)]

    def begin(self):
        pass

    def deed(self, arm):
        history = self._history(self.epoch)
        csv = self.folder / "history.csv"
        callback = Checkpointing(self.checkpoints, self.weighting, history, csv)
        callback.set_model(self.model)
        give(self._state(self.model, self.weighting), self.epoch + 1)
        self.run.curve.name = str(self.epoch + 1)
        arm()
        callback.on_epoch_end(self.epoch, {"loss": 1 / (self.epoch + 1)})
        self.run.save(self.folder)

    def check(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a skipped checkpoint
            epoch, history = self.checkpoints.restore(self.reader, self.read_weighting)
        assert epoch in (self.epoch, self.epoch + 1), f"checkpoint {epoch} after {self.epoch} were done"
        assert history == self._history(epoch), "another history"
        assert not epoch or has(self._state(self.reader, self.read_weighting), epoch), "a checkpoint of other weights"
        done = (self.epoch, self.epoch + 1)
        self.epoch = epoch
        with contextlib.suppress(FileNotFoundError):
            rows = (self.folder / "history.csv").read_text().splitlines()
            expected = [f"{row['epoch']},{row['loss']!r}" for row in self._history(max(done))]
            assert rows[1:] == expected[: len(rows) - 1], "history.csv"
        for name in ("recipe.json", "data.json", "curve.json"):
            with contextlib.suppress(FileNotFoundError):
                json.loads((self.folder / name).read_text())
        if (self.folder / "model.keras").exists():
            model = keras.saving.load_model(self.folder / "model.keras")
            versions = [version for version in (self.saved, *done) if has(model.weights, version)]
            assert versions, "model.keras is of no version"
            self.saved = versions[0]
        if (self.folder / "curve.json").exists():
            assert ak.Curve.from_json(self.folder / "curve.json").name == str(self.saved), "a curve of another network"

    def finished(self):
        before = self.epoch
        self.check()
        left = [path.name for path in self.folder.rglob("*unfinished*")]
        assert self.epoch == self.saved == before + 1 and not left, f"left over: {left}"
        assert len((self.folder / "history.csv").read_text().splitlines()) == self.epoch + 1, "history.csv"


class Publishing:
    """Publishes tiny networks into one zoo: new names, more weights, announced recipes."""

    kinds = ("seconds", "file", "call")

    def __init__(self, folder, rng):
        self.folder, self.rng = pathlib.Path(folder) / "zoo", rng
        self.folder.mkdir()
        self.model, self.data = published()
        self.about = dict(weighting={"name": "constant"}, source="random", data_licence="none")
        self.done, self.next = {}, None

    def begin(self):
        """Continues with another entry when the last one is complete."""
        if self.next is None or self.next[:2] in self.done:
            number = len(self.done)
            names = sorted({name for name, _ in self.done})
            old = names and self.rng.random() < 0.4
            name = str(self.rng.choice(names)) if old else f"net{number}"
            self.next = (name, f"data{number}", number)
            if not old and self.rng.random() < 0.5:
                recipe = Recipe.paper({**MODEL, "input_shape": [8, 8, 1], "num_classes": 3}, "cifar10", epochs=1)
                ak.zoo.announce(recipe, name, f"data{number}", self.folder)

    def deed(self, arm):
        name, label, version = self.next
        give(self.model.weights, version)
        write = publishing.write

        def armed(*arguments):
            arm()
            return write(*arguments)

        publishing.write = armed
        try:
            ak.zoo.publish(self.model, name, self.data, None, self.folder, label, **self.about)
        except ValueError as error:
            if "already has weights" not in str(error):  # it was killed after it had finished
                raise

    def check(self):
        zoo = places.Folder(self.folder)
        found = {}
        for name in zoo.names():
            for label, entry in zoo.manifest(name).weights.items():
                if not entry.trained:
                    continue
                shapes = {variable.path: variable.shape for variable in self.model.weights}
                weights = {}
                for file in entry.files:
                    weights.update(arrays.unpack(places.read_file(file, zoo), shapes, file.path))
                version = int(label.removeprefix("data"))
                for variable, value in zip(self.model.weights, numbers(self.model.weights, version)):
                    assert np.array_equal(weights[variable.path], value), f"{name} holds other weights"
                ak.zoo.loading.golden(entry, zoo)
                found[name, label] = version
        lost = set(self.done) - set(found)
        assert not lost and set(found) <= {*self.done, self.next[:2]}, f"lost {lost}, listed {set(found)}"
        if (self.folder / "index.json").exists():
            for name, entry in json.loads((self.folder / "index.json").read_text())["manifests"].items():
                content = (self.folder / entry["path"]).read_bytes()
                same = cache.is_content(content, entry["sha256"], entry["bytes"])
                assert same or name == self.next[0], f"the index is of another '{name}'"
        self.done = found

    def finished(self):
        self.check()
        assert self.next[:2] in self.done, "not published"
        assert (self.folder / "index.json").read_bytes() == publishing._index(self.folder), "the index is old"
        own = f"{publishing.stem(*self.next[:2])}*.part"
        assert not list(self.folder.rglob(own)), "parts left over"


class Downloading:
    """Downloads a network from a slow local server into a cache that contains files of killed downloads."""

    kinds = ("seconds", "file", "call")

    def __init__(self, folder, rng):
        self.folder, self.rng = pathlib.Path(folder), rng
        self.zoo = self.folder / "served"
        publisher = Publishing(self._made(self.folder / "publisher"), rng)
        publisher.folder, publisher.next = self._made(self.zoo), ("net", "data7", 7)
        publisher.deed(lambda: None)
        self.model = publisher.model
        self.server = start_server(self.zoo)
        os.environ.update(ANYTIME_KERAS_CACHE=str(self.folder / "cache"), ANYTIME_KERAS_ZOO=self.server)

    def _made(self, folder):
        folder.mkdir()
        return folder

    def begin(self):
        """Removes some files from the cache, so that they are downloaded again."""
        for path in [path for path in self.cached() if path.suffix != ".part"]:
            if self.rng.random() < 0.7:
                path.unlink()
        catalog._added.clear()

    def cached(self):
        return [path for path in (self.folder / "cache").glob("[fp]*/*") if path.is_file()]

    def deed(self, arm):
        places.site.cache_clear()
        arm()
        assert has(ak.zoo.load("net").weights, 7), "loaded weights are not those published"

    def check(self):
        for path in self.cached():
            if path.suffix == ".part":
                continue
            content = path.read_bytes()
            if path.parent.name == "files":
                assert hashlib.sha256(content).hexdigest() == path.name, "a wrong file in the cache"
            else:
                own, _, text = content.partition(b"\n")
                assert text == (self.zoo / "index.json").read_bytes(), "a wrong page in the cache"
                assert hashlib.sha256(text).hexdigest().encode() == own

    def finished(self):
        self.check()
        held = [path for path in self.cached() if path.suffix != ".part"]
        left = [
            path.name for path in self.cached() if path.suffix == ".part" and path.with_name(path.name[:64]) in held
        ]
        assert len(held) == 3 and not left, f"cached {len(held)} files, left over: {left}"


class _Slow(http.server.SimpleHTTPRequestHandler):
    def copyfile(self, source, target):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while piece := source.read(4096):
                target.write(piece)
                time.sleep(0.001)

    def log_message(self, *arguments):
        pass


def start_server(folder):
    """Serves a folder until this process ends; returns the address."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *arguments: _Slow(*arguments, directory=str(folder))
    )
    parent = os.getpid()
    if os.fork() == 0:
        server.timeout = 0.2
        server.handle_error = lambda *_: None
        while os.getppid() == parent:
            server.handle_request()
        os._exit(0)
    server.socket.close()
    return f"http://127.0.0.1:{server.server_port}"


SUBJECTS = {"saving": Saving, "downloading": Downloading, "publishing": Publishing}


def longest_file(folder):
    return max((path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file()), default=1)


def draw(rng, kind, reach):
    """Returns a random moment of a kind."""
    at = float(rng.uniform(0, reach)) if kind == "seconds" else int(rng.integers(1, max(2, reach + 1)))
    return dying.Moment(kind, at)
