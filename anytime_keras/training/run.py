"""One run: from a recipe and a folder to trained weights and results."""

import dataclasses
import json
import os
import pathlib
import time

import keras

from anytime_keras import _files, evaluation, models, runtime, zoo
from anytime_keras._errors import explained
from anytime_keras.evaluation.evaluate import batches
from anytime_keras.inference import EANN
from anytime_keras.preprocessing import Preprocessor
from anytime_keras.training import averaging, checkpoint, clock, schedules
from anytime_keras.training.devices import OneDevice
from anytime_keras.training.checkpoint import room_for, to_disk
from anytime_keras.training.recipe import GIVEN, Recipe

# With `Recipe(minutes=)`, the least time between two checkpoints, and its share of the whole.
CHECKPOINT_SECONDS, CHECKPOINT_SHARE = 60, 0.02


class Training:
    """The network and the data of a recipe, from the start of a run to its results.

    Arguments are those of `train`, but `strategy` is the result of `choose`, or None for one device. `adapt` maps the
    recipe's `Weighting` to the one used in training.
    """

    def __init__(self, recipe, folder=None, resume=False, data=None, adapt=None, strategy=None, begin=None, model=None):
        self.recipe, self.resume = recipe, resume
        self._begin = time.monotonic() if begin is None else begin
        self.strategy = strategy or OneDevice()
        self.strategy.check(recipe)
        self.folder = None if folder is None else pathlib.Path(folder)
        _claim(self.folder, recipe, resume)
        keras.utils.set_random_seed(recipe.seed)
        self.data = recipe.load_data() if data is None else data
        self.strategy.check_data(self.data, recipe)
        self.weighting = None
        with self.strategy.scope():
            self.model = recipe.build_model(self.data, model)
            if recipe.init is not None:
                take_weights(self.model, recipe.init)
            self.strategy.prepare(self.model)
            weighting = recipe.build_weighting()
            weighting = weighting if adapt is None else adapt(weighting)
            # Fails if it names an exit that does not exist, before anything is written.
            weighting.build(self.model.exit_names)
            if self.model.num_exits > 1:
                self.weighting = weighting
        self.history, self.epoch, self._lock = [], 0, None
        self.before, self._forward = None, runtime.compiled(self.model)
        self.checkpoints = None if self.folder is None else checkpoint.Checkpoints(self.folder / "checkpoints")

    def begin(self, callbacks, time_limit=None, checkpoint_every=None, tensorboard=False, latest=None):
        """Writes the description of the run, restores the last checkpoint, and returns the callbacks and the `Plan`."""
        self._stop = None if time_limit is None else checkpoint.StopInTime(time_limit)
        own = [*([self.weighting] if self.weighting else []), *callbacks, *([self._stop] if self._stop else [])]
        if self.recipe.data.get("skip_corrupt"):
            own.insert(0, keras.callbacks.LambdaCallback(on_epoch_end=self._count_skipped))
        if self.recipe.ema_momentum is not None:
            own.append(averaging.KeptWeights())
        own.append(checkpoint.FiniteWeights())
        if self.folder is not None:
            writes = self.strategy.is_chief
            if writes:
                self._take_folder()
            if self.resume:
                with self.strategy.scope():
                    self.epoch, self.history = self.checkpoints.restore(self.model, self.weighting, latest)
                if self.epoch:
                    self._check_data()
            csv = self.folder / "history.csv"
            if writes:
                describe(self.folder, self.recipe, self.data)
                if self.epoch:
                    checkpoint.write_history(csv, self.history)  # as of the checkpoint
                if tensorboard and keras.backend.backend() == "tensorflow":
                    own.append(keras.callbacks.TensorBoard(self.folder / "tensorboard", write_graph=False))
            # Last, so that the other callbacks have finished an epoch when its checkpoint is written.
            by_time = self.recipe.minutes is not None and checkpoint_every is None
            seconds = max(CHECKPOINT_SECONDS, CHECKPOINT_SHARE * 60 * self.recipe.minutes) if by_time else 0.0
            saves = (self.checkpoints, self.weighting, self.history, csv, checkpoint_every or 1, seconds, writes)
            own.append(checkpoint.Checkpointing(*saves))
        self.strategy.agree({"recipe": self.recipe.to_dict(), "data": self.data.describe(), "epoch": self.epoch})
        self._evaluate_before()
        plan = self._plan()
        return ([plan.clock] if plan.clock is not None else []) + own, plan

    def _evaluate_before(self):
        """Evaluates the initial weights, once."""
        if self.recipe.init is None:
            return
        file = None if self.folder is None else self.folder / "before.json"
        if self.epoch and file is not None and file.exists():
            self.before = evaluation.Curve.from_json(file)
        elif not self.epoch:
            self.before = self._curve(self.model)
            if file is not None and self.strategy.is_chief:
                _files.put(file, self.before.to_json() + "\n")

    def _plan(self):
        """Returns the `Plan` of the run."""
        recipe, data = self.recipe, self.data
        if recipe.minutes is None:
            side = None if recipe.sizes is None else schedules.side_by_epoch(recipe.sizes, recipe.epochs)
            return Plan(data.steps_per_epoch, recipe.epochs, self.epoch, data.validation, (self.epoch,), side)
        last = self.history[-1] if self.history else {"steps": 0, "share": 0.0}
        steps = int(last["steps"])
        side = None if recipe.sizes is None else schedules.Side(schedules.side_at(recipe.sizes, last["share"]))
        spent = sum(row["seconds"] for row in self.history)
        ticking = clock.Clock(recipe.minutes, spent, last["share"], self._begin)
        callback = clock.ClockCallback(ticking, recipe, data, self._rehearse, side, steps)
        start = divmod(steps, data.pipeline("train").whole_steps)
        at_once = recipe.steps_per_execution
        end = self.epoch if last["share"] > 1 - clock.RESOLUTION else clock.ROUNDS
        steps = -(-clock.ROUND_STEPS // at_once) * at_once
        return Plan(steps, end, self.epoch, None, (*start, True), side, callback)

    def _rehearse(self):
        """Evaluates one batch and saves the network once, to estimate the seconds that the end of the run takes."""
        split = self._split()
        images = next(batches(getattr(self.data, split)))[0]
        runtime.finish(self._forward(images))  # compiles
        batch = _seconds(lambda: runtime.finish(self._forward(images)))
        seconds = evaluation = batch * self.data.pipeline(split).steps
        if self.recipe.ema_momentum is not None:

            def average():
                model = averaging.averaged(self.model, self.recipe, self.data, steps=1)
                runtime.finish(runtime.compiled(model)(images))

            seconds += _seconds(average) + evaluation + averaging.STEPS * 2 * batch
        if self.folder is not None and self.strategy.is_chief:
            trial = self.folder / ".trial.keras"
            save = _seconds(lambda: self.model.save(trial))
            trial.unlink()
            # A checkpoint, which also contains the optimizer's variables, takes about twice as long.
            seconds += (3 if self.recipe.ema_momentum is None else 4) * save
        return seconds

    def _split(self):
        """Returns the split to evaluate on. A run that may be one of several cycles does not use the test images."""
        cycle = self.recipe.minutes is not None or self.recipe.init is not None
        order = ("validation", "test", "train") if cycle else ("test", "validation", "train")
        return next(split for split in order if split in self.data.sizes)

    def _curve(self, model):
        split = self._split()
        forward = self._forward if model is self.model else None
        curve = evaluation.evaluate(model, getattr(self.data, split), name=title(self.recipe), forward=forward)
        curve.about.update(split=split, data=self.data.describe())
        return curve

    def _count_skipped(self, epoch, logs):
        logs["skipped_images"] = len(self.data.skipped)

    def _take_folder(self):
        """Locks the folder against other processes until `release` or the end of this process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = _files.lock_folder(self.folder)
        except BlockingIOError as error:
            raise ValueError(
                f"Another process trains in '{self.folder}'. Wait until it ends, stop it, or choose another folder."
            ) from error
        _claim(self.folder, self.recipe, self.resume)  # another process may have trained here meanwhile

    def release(self):
        """Unlocks the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _check_data(self):
        """Raises unless the images and the split are unchanged, so that held-out images stay held out."""
        file = self.folder / "data.json"
        if not file.exists():
            return
        before, now = json.loads(file.read_text()), json.loads(json.dumps(self.data.describe()))
        if self.recipe.data.get("skip_corrupt") and now["sizes"] == before["sizes"]:
            # If an image became unreadable, the mean and deviation are computed without it and differ.
            self.data.normalize(before["mean"], before["std"])
            now.update(mean=before["mean"], std=before["std"])
        if before != now:
            raise ValueError(
                f"The data has changed since the run in '{self.folder}' started: '{file}' records other images or "
                "another split. Restore the data, or train in another folder."
            )

    @property
    def stopped(self):
        """Whether the time limit stopped the run."""
        return self.strategy.any(self._stop is not None and self._stop.stopped)

    def finish(self, result, stopped, verbose):
        """Evaluates and saves the network, unless the time limit `stopped` the run; `result` is a `History` or None."""
        history = self.history
        if self.folder is None:
            history = [dict(zip(result.history, row)) for row in zip(*result.history.values())]
        model = self.strategy.alone(self.model, lambda: self.recipe.build_model(self.data))
        run = Run(self.recipe, model, self.data, self.weighting, history, None, before=self.before)
        if stopped:
            if verbose:
                print(f"stopped by the time limit after epoch {len(history)}; resume to continue")
            return run
        self._describe_images(model)
        run.curve = self._curve(model)
        if self.recipe.ema_momentum is not None:
            average = averaging.averaged(self.model, self.recipe, self.data)
            run.average = dataclasses.replace(run, model=average, average=None)
            self._describe_images(run.average.model)
            run.average.curve = self._curve(run.average.model)
        if self.folder is not None and self.strategy.is_chief:
            run.save(self.folder)
        if verbose:
            weights = {"weight": run.weighting.weights.tolist()} if run.weighting is not None else {}
            print(f"\n{run.curve.about['split']} images:\n{run.curve.table(weights)}")
            if run.average is not None:
                print(f"\naveraged weights:\n{run.average.curve.table()}")
        return run

    def _describe_images(self, model):
        """Adds to a trained network what it needs to classify raw images."""
        if model.preprocessor is None:
            model.preprocessor = Preprocessor.for_data(self.data)
        model.class_names = list(self.data.class_names)


def _seconds(function):
    """Calls a function and returns the seconds that it took."""
    begin = time.monotonic()
    function()
    return time.monotonic() - begin


@dataclasses.dataclass
class Plan:
    """The steps of a run."""

    steps: int  # batches per row of the history: those of an epoch, or of a round by the clock
    end: int  # number of epochs or rounds after which training ends
    first: int  # number of epochs or rounds that are done
    validation: object  # batches to evaluate after each of them, or None
    start: tuple  # where the stream of batches starts: (epoch,), or (epoch, step, True) for whole batches only
    side: object = None  # function from (epoch, step) to the side of the images, or None
    clock: object = None  # `ClockCallback` or None

    def stream(self, data):
        """Returns an endless stream of training batches."""
        return data.training_stream(*self.start, side=self.side)


def check_single(model, label="default"):
    """Raises ValueError if a network, or the name of one in the zoo, is an ensemble, whose members are trained."""
    members = zoo.show(model).pick(label).members if isinstance(model, str) else ()
    if members or isinstance(model, EANN):
        name = f"'{model}'" if isinstance(model, str) else "an `EANN`"
        which = f": {', '.join(map(':'.join, members))}" if members else ""
        raise ValueError(f"An ensemble cannot be trained. Received: {name}. Train its members and combine them{which}.")


def take_weights(model, init):
    """Copies a trained network's weights into a model, without the last layers if the numbers of classes differ."""
    folder = pathlib.Path(init)
    if folder.is_dir():
        if not (folder / "model.keras").is_file():
            raise ValueError(f"`init` must be the folder of a finished training. There is no '{folder}/model.keras'.")
        source = keras.saving.load_model(folder / "model.keras", compile=False)
    else:
        name, _, label = init.partition(":")
        with explained("`init` must be a training's folder or a trained network of the zoo. ", ValueError):
            check_single(name, label or "default")
            source = zoo.load(name, label or "default")
    classes = model.outputs[0].shape[-1]
    if source.outputs[0].shape[-1] != classes:
        source = models.with_classes(source, classes)
    shapes, own = ([tuple(weight.shape) for weight in each.weights] for each in (source, model))
    if shapes != own:
        raise ValueError(
            f"`init` must be a network of the recipe's shape. Received: '{init}' with {len(shapes)} variables and "
            f"{source.count_params()} parameters, for a network with {len(own)} variables and {model.count_params()} "
            "parameters. Compare the `model` of both recipes."
        )
    model.set_weights(source.get_weights())


def _claim(folder, recipe, resume):
    """Raises ValueError unless the folder is empty or contains a run of the same recipe."""
    if folder is None:
        if resume:
            raise ValueError("`resume` needs the `folder` of the run to resume. Received: folder=None.")
        return
    saved = folder / "recipe.json"
    trained = (folder / "model.keras").exists() or any((folder / "checkpoints").glob("epoch-*"))
    if not saved.exists() or not (trained or resume):
        return  # the run stopped before its first checkpoint, so nothing is lost
    if not resume:
        raise ValueError(
            f"'{folder}' already contains a run. Pass `resume=True` to resume it, or choose another folder."
        )
    before = Recipe.from_json(saved)
    if trained and before != recipe:
        differing = [name for name, value in before.to_dict().items() if value != recipe.to_dict()[name]]
        raise ValueError(
            f"'{folder}' contains a run of another recipe: {', '.join(differing)} differ. Choose another folder."
        )


@dataclasses.dataclass
class Run:
    """The result of `train`.

    Attributes:
        recipe: the `Recipe`.
        model: the trained, compiled `AnytimeModel`.
        data: the `DataSet`.
        weighting: the `Weighting` after the last batch; None for a network with one exit.
        history: list of dicts, the logs of each epoch.
        curve: `Curve` on the test images, or those of validation or training where there are none; None if the time
            limit stopped the run. With `minutes` or `init`, on the validation images if there are any.
        before: `Curve` of the initial weights if the recipe has `init`, else None.
        average: `Run` of the network with averaged weights if the recipe has `ema_momentum`, else None.

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
    before: object = None

    def save(self, folder):
        """Writes `recipe.json`, `data.json`, `model.keras` and `curve.json` to a folder, replacing older files.

        The old curve is removed first and the new one is written last, so the other files always belong to the curve.
        The network with averaged weights is written to the subfolder `average`.

        Raises:
            ValueError: if the time limit stopped the run.
        """
        if self.curve is None:
            raise ValueError("A run that was stopped by its time limit has no results to save. Resume it first.")
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / ".unfinished.keras"
        try:
            with room_for(self.model, unfinished):
                self.model.save(unfinished)
            to_disk(unfinished)
            (folder / "curve.json").unlink(missing_ok=True)
            describe(folder, self.recipe, self.data)
            os.replace(unfinished, folder / "model.keras")
        finally:
            unfinished.unlink(missing_ok=True)
        if self.average is not None:
            self.average.save(folder / "average")
        else:
            for name in ("curve.json", "model.keras", "recipe.json", "data.json"):
                (folder / "average" / name).unlink(missing_ok=True)
        _files.put(folder / "curve.json", self.curve.to_json() + "\n")


def title(recipe):
    """A short name for a recipe's network and weighting."""
    if recipe.model["name"] == GIVEN:
        return f"{recipe.model.get('from', GIVEN)}_finetuned"
    name, weighting = recipe.model["name"], recipe.weighting["name"]
    size = "x".join(str(recipe.model[key]) for key in ("num_units", "channels") if key in recipe.model)
    return f"{name}{size}_{weighting}"


def describe(folder, recipe, data):
    """Writes `data.json` and `recipe.json` to a folder."""
    _files.put(folder / "data.json", json.dumps(data.describe(), indent=1) + "\n")
    _files.put(folder / "recipe.json", recipe.to_json() + "\n")
