"""One training from a recipe and a folder to its results: what happens before and after the epochs."""

import dataclasses
import json
import os
import pathlib

import keras

from anytime_keras import evaluation
from anytime_keras.training import scan
from anytime_keras.training.checkpoint import (
    Checkpointing,
    Checkpoints,
    FiniteWeights,
    StopInTime,
    room_for,
    to_disk,
    write,
    write_history,
)
from anytime_keras.training.devices import OneDevice
from anytime_keras.training.recipe import Recipe
from anytime_keras.weighting import LossWeighting

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# After so many steps at batch normalisation's momentum of 0.9, nothing is left of the statistics before.
REFRESH_STEPS = 100


@dataclasses.dataclass
class Run:
    """What `train` gives.

    Attributes:
        recipe: the `Recipe`.
        model: the trained, compiled `AnytimeModel`.
        data: the `DataSet`.
        weighting: the `Weighting` after the last batch; None for a network of one exit.
        history: list of dicts, an epoch's logs each.
        curve: `Curve` on the test images, or those of validation or training where there are none; None if the time
            limit stopped the training.
        average: `Run` of the network with averaged weights, if the recipe has `ema_momentum`, else None.

    Example:
    >>> import anytime_keras as ak
    >>> recipe = ak.training.Recipe({"name": "resann", "num_units": 1, "channels": 4}, "digits", epochs=1)
    >>> run = ak.training.train(recipe, verbose=False)
    >>> run.model.num_exits, len(run.curve), "exit_1_weight" in run.history[0]
    (3, 3, True)
    """

    recipe: Recipe
    model: keras.Model
    data: object
    weighting: object
    history: list
    curve: object
    average: object = None

    def save(self, folder):
        """Writes `recipe.json`, `data.json`, `model.keras` and `curve.json` to a folder, in place of older ones.

        Where there is a curve, the other files are those of the same training: the old one goes first, the new one
        comes last. The network with averaged weights goes to the folder `average` in it.

        Raises:
            ValueError: if the training was stopped before its end: it has no curve yet.
        """
        if self.curve is None:
            raise ValueError("A training that its time limit stopped has no results to save yet: resume it.")
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / ".unfinished.keras"
        try:
            with room_for(self.model, unfinished):
                self.model.save(unfinished)
            to_disk(unfinished)
            (folder / "curve.json").unlink(missing_ok=True)
            _describe(folder, self.recipe, self.data)
            os.replace(unfinished, folder / "model.keras")
        finally:
            unfinished.unlink(missing_ok=True)
        if self.average is not None:
            self.average.save(folder / "average")
        else:
            for name in ("curve.json", "model.keras", "recipe.json", "data.json"):
                (folder / "average" / name).unlink(missing_ok=True)
        write(folder / "curve.json", self.curve.to_json() + "\n")


class Training:
    """A recipe's network and data, ready for their epochs, and what becomes of them.

    Args:
        recipe: `Recipe`.
        folder: path or None.
        resume: bool.
        data: the recipe's `DataSet`, if it is loaded already.
        adapt: function from the recipe's `Weighting` to the one to train with.
        strategy: where to train, as `choose` returns it; None is one device.

    Raises:
        ValueError: see `train`.
    """

    def __init__(self, recipe, folder=None, resume=False, data=None, adapt=lambda weighting: weighting, strategy=None):
        self.recipe, self.resume = recipe, resume
        self.strategy = OneDevice() if strategy is None else strategy
        self.strategy.check(recipe)
        self.folder = pathlib.Path(folder) if folder is not None else None
        _claim(self.folder, recipe, resume)
        keras.utils.set_random_seed(recipe.seed)
        self.data = recipe.load_data() if data is None else data
        self.strategy.check_data(self.data, recipe)
        self.weighting = None
        with self.strategy.scope():
            self.model = recipe.build_model(self.data)
            self.strategy.prepare(self.model)
            weighting = adapt(recipe.build_weighting(self.data.steps_per_epoch))
            # Before anything is written: the exit that it names may not be there.
            weighting.build(self.model.exit_names)
            if self.model.num_exits > 1:
                self.weighting = LossWeighting(weighting)
        self.history, self.epoch, self._lock = [], 0, None
        self.checkpoints = None if self.folder is None else Checkpoints(self.folder / "checkpoints")

    @property
    def state(self):
        """The `Weighting` in training, or None."""
        return None if self.weighting is None else self.weighting.weighting

    def begin(self, callbacks, time_limit=None, checkpoint_every=1, tensorboard=False, latest=None):
        """Describes the training in its folder, takes up the last checkpoint, and returns the callbacks to train
        with."""
        self._stop = None if time_limit is None else StopInTime(time_limit)
        own = [*([self.weighting] if self.weighting else []), *callbacks, *([self._stop] if self._stop else [])]
        if self.recipe.data.get("skip_corrupt"):
            own.insert(0, keras.callbacks.LambdaCallback(on_epoch_end=self._count_skipped))
        own.append(FiniteWeights())
        if self.folder is not None:
            writes = self.strategy.is_chief
            if writes:
                self._take_folder()
            if self.resume:
                with self.strategy.scope():
                    self.epoch, self.history = self.checkpoints.restore(self.model, self.state, latest)
                if self.epoch:
                    self._check_data()
            csv = self.folder / "history.csv"
            if writes:
                _describe(self.folder, self.recipe, self.data)
                if self.epoch:
                    write_history(csv, self.history)  # as of the checkpoint
                if tensorboard and keras.backend.backend() == "tensorflow":
                    own.append(keras.callbacks.TensorBoard(self.folder / "tensorboard", write_graph=False))
            # Last, so that what the others did in an epoch is done when its checkpoint is there.
            own.append(Checkpointing(self.checkpoints, self.state, self.history, csv, checkpoint_every, writes))
        self.strategy.agree({"recipe": self.recipe.to_dict(), "data": self.data.describe(), "epoch": self.epoch})
        return own

    def _count_skipped(self, epoch, logs):
        logs["skipped_images"] = len(self.data.skipped)

    def _take_folder(self):
        """Keeps other processes from training in the folder, until `release` or the end of this one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder, os.O_RDONLY) if fcntl is not None else None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise ValueError(
                f"Another training goes on in '{self.folder}'. Wait for its end, stop it, or name another folder."
            ) from error
        except (OSError, AttributeError):  # a file system without locks; a system without fcntl
            pass
        _claim(self.folder, self.recipe, self.resume)  # another may have trained here in the meantime

    def release(self):
        """Leaves the folder to others."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _check_data(self):
        """Raises unless the images are those that the training began with: else it might train on what was held out."""
        file = self.folder / "data.json"
        if not file.exists():
            return
        before, now = json.loads(file.read_text()), json.loads(json.dumps(self.data.describe()))
        if self.recipe.data.get("skip_corrupt") and now["sizes"] == before["sizes"]:
            # An image that was spoilt since is no longer among those that mean and deviation were taken of.
            self.data.normalize(before["mean"], before["std"])
            now.update(mean=before["mean"], std=before["std"])
        if before != now:
            raise ValueError(
                f"The data is not what the training in '{self.folder}' began with: '{file}' tells other images or "
                "another split. Bring the data back, or train in another folder."
            )

    @property
    def stopped(self):
        """Whether the time limit stopped it."""
        return self.strategy.any(self._stop is not None and self._stop.stopped)

    def finish(self, result, stopped, verbose, weighting=None):
        """Evaluates and saves the network.

        Args:
            result: Keras's `History` of this process's epochs, or None.
            stopped: bool, whether the time limit stopped it: then there is no curve, and nothing to save.
            verbose: bool, whether to print the table.
            weighting: the `Weighting` to hand out, the one in training by default.

        Returns:
            A `Run`.
        """
        history = self.history
        if self.folder is None:
            history = [dict(zip(result.history, row)) for row in zip(*result.history.values())]
        model = self.strategy.alone(self.model, lambda: self.recipe.build_model(self.data))
        run = Run(self.recipe, model, self.data, weighting or self.state, history, None)
        if stopped:
            if verbose:
                print(f"stopped by the time limit after epoch {len(history)}: go on with resume")
            return run
        run.curve = _curve(run)
        if self.recipe.ema_momentum is not None:
            run.average = dataclasses.replace(run, model=averaged(self.model, self.recipe, self.data), average=None)
            run.average.curve = _curve(run.average)
        if self.folder is not None and self.strategy.is_chief:
            run.save(self.folder)
        if verbose:
            weights = {"weight": run.weighting.weights.tolist()} if run.weighting is not None else {}
            print(f"\n{run.curve.about['split']} images:\n{run.curve.table(weights)}")
            if run.average is not None:
                print(f"\naveraged weights:\n{run.average.curve.table()}")
        return run


def averaged(model, recipe, data):
    """Returns a copy of a model with its optimizer's moving averages for weights.

    Statistics of batch normalisation are those of other weights: they are taken anew, over epochs of training images.
    """
    copy = recipe.build_model(data)
    copy.set_weights(model.get_weights())
    model.optimizer.finalize_variable_values(copy.trainable_variables)
    program = scan.Epochs([copy], data, [recipe.seed])
    program.prepare()
    for epoch in range(-(-REFRESH_STEPS // data.steps_per_epoch)):
        program.refresh(recipe.epochs + epoch)
    return copy


def title(recipe):
    """A short name for a recipe's network and weighting."""
    name, weighting = recipe.model["name"], recipe.weighting["name"]
    size = "x".join(str(recipe.model[key]) for key in ("num_units", "channels") if key in recipe.model)
    return f"{name}{size}_{weighting}"


def _curve(run):
    split = next(split for split in ("test", "validation", "train") if split in run.data.sizes)
    curve = evaluation.evaluate(run.model, getattr(run.data, split), name=title(run.recipe))
    curve.about.update(split=split, data=run.data.describe())
    return curve


def _describe(folder, recipe, data):
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "data.json", json.dumps(data.describe(), indent=1) + "\n")
    write(folder / "recipe.json", recipe.to_json() + "\n")


def _claim(folder, recipe, resume):
    """Makes sure that the folder is free, or holds this very training."""
    if folder is None:
        if resume:
            raise ValueError("`resume` needs the `folder` of the training to go on with. Received: folder=None.")
        return
    saved = folder / "recipe.json"
    trained = (folder / "model.keras").exists() or any((folder / "checkpoints").glob("epoch-*"))
    if not saved.exists() or not (trained or resume):
        return  # of one that ended before its first epoch did, there is nothing to lose
    if not resume:
        raise ValueError(
            f"'{folder}' holds a training already. Pass `resume=True` to go on with it, or name another folder."
        )
    before = Recipe.from_json(saved)
    if trained and before != recipe:
        differing = [name for name, value in before.to_dict().items() if value != recipe.to_dict()[name]]
        raise ValueError(
            f"'{folder}' holds a training by another recipe: {', '.join(differing)} differ. Name another folder."
        )
