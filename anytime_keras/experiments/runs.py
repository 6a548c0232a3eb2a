"""Trains recipes into directories, several side by side where possible, and collects their measurements."""

import csv
import json
import pathlib
import shutil
import statistics
from time import monotonic

import keras

from anytime_keras import _files, runtime
from anytime_keras.evaluation.curve import Curve
from anytime_keras.experiments import report
from anytime_keras.experiments.planning import label
from anytime_keras.experiments.summaries import grouped
from anytime_keras.inference import EANN
from anytime_keras.training import Recipe, train, train_side_by_side
from anytime_keras.training.checkpoint import Checkpoints
from anytime_keras.training.run import title
from anytime_keras.training.scan import keep_programs
from anytime_keras.training.side_by_side import program

LABELS = ("row", "network", "dataset", "seed", "exit", "pair")
COLUMNS = ("exit", "error", "loss", "backbone", "with_head", "with_all_heads", "params")
AT_ONCE = 8  # networks to train side by side on an accelerator, which a small network leaves mostly idle
CHECKPOINT_EVERY = 10  # epochs, on an accelerator, where writing several networks takes as long as an epoch


class Runs:
    """A directory of training runs, whose subdirectories are named after their recipes.

    A finished run is never repeated, whichever experiment needs it; a stopped run is resumed. Runs in `results` count
    as finished, matched by recipe and path of the data. `at_once` networks are trained side by side (JAX only). After
    `time_limit` seconds, no epoch starts but the first of each `run`.
    """

    def __init__(self, folder, results=None, at_once=None, time_limit=None, say=print):
        self.folder, self.say = pathlib.Path(folder), say
        self._accelerated = keras.backend.backend() == "jax" and not runtime.on_cpu()
        self.at_once = at_once or (AT_ONCE if self._accelerated else 1)
        if self._accelerated:
            keep_programs(self.folder / ".programs")
        self.limit, self.start = time_limit, monotonic()
        self.stored = {}
        for path in report.paths(results) if results is not None else ():
            for run in report.read(path)["runs"]:
                self.stored.setdefault(self.place(Recipe.from_dict(run["recipe"])), run)

    def place(self, recipe):
        """Returns the directory of a recipe's run, the same for a network that ends after its only trained exit."""
        content = recipe.to_dict()
        for name in ("minutes", "sizes", "init"):  # fields newer than the directory names
            if content[name] is None:
                del content[name]
        if recipe.last_exit is None or recipe.weighting["name"] == "single_exit":
            del content["last_exit"]
        digest = _files.digest(content, sort_keys=True)[:10]
        return self.folder / f"{title(recipe)}_{label(recipe.data['data'])}_seed{recipe.seed}_{digest}"

    def _kept(self, recipe):
        return (self.place(recipe) / "curve.json").exists()

    def finished(self, recipe):
        """Returns whether a recipe's run is finished here or contained in the results."""
        return self._kept(recipe) or self.place(recipe) in self.stored

    def measured(self, recipe):
        """Returns a finished run's `exits`, with the last loss, weight and validation error, None if not logged."""
        place = self.place(recipe)
        if not self._kept(recipe):
            return {key: value for key, value in self.stored[place].items() if key not in LABELS}
        curve = Curve.from_json(place / "curve.json")
        with open(place / "history.csv") as file:
            history = list(csv.DictReader(file))

        def each(key):
            values = [history[-1].get(key.format(point.exit)) for point in curve]
            return list(map(float, values)) if all(values) else None

        accuracy, last = each("val_{}_accuracy"), f"{recipe.weighting.get('exit', curve[-1].exit)}_loss"
        return {
            "recipe": self._begun(recipe).to_dict(),
            "exits": _columns(curve),
            "train_loss": each("{}_loss"),
            "weight": each("{}_weight"),
            "validation_error": accuracy and [1 - value for value in accuracy],
            "late_fall": late_fall([float(epoch[last]) for epoch in history]) if history[-1].get(last) else None,
            "split": curve.about["split"],
            "sizes": curve.about["data"]["sizes"],
            "machine": curve.about["machine"],
        }

    def _begun(self, recipe):
        """Returns the recipe with which the run in a recipe's directory was started, or the recipe itself."""
        file = self.place(recipe) / "recipe.json"
        return Recipe.from_json(file) if file.exists() else recipe

    def run(self, recipes, after=lambda: None):
        """Trains unfinished recipes, calls `after` after each group, and returns whether all are finished."""
        unique = {self.place(recipe): self._begun(recipe) for recipe in recipes}
        for number, group in enumerate(self._groups([each for each in unique.values() if not self.finished(each)])):
            left = None if self.limit is None else self.limit - (monotonic() - self.start)
            # Do not start with little time left, because building and compiling may take a minute. The first group
            # always starts, so that every call makes at least one epoch of progress.
            if left is not None and number and left < min(60, self.limit / 10):
                return False
            done, names = sum(map(self.finished, unique.values())), [self.place(recipe).name for recipe in group]
            self.say(f"[{done} of {len(unique)} runs finished] {', '.join(names)}")
            self._train(group, None if left is None else max(left, 1.0))
            if not all(map(self.finished, group)):
                return False
            after()
        return True

    def _train(self, group, time_limit):
        keras.utils.clear_session(free_memory=False)  # otherwise Keras keeps the names of hundreds of networks
        folders = [self.place(recipe) for recipe in group]
        every = CHECKPOINT_EVERY if self._accelerated else 1
        common = dict(resume=True, verbose=False, time_limit=time_limit, checkpoint_every=every)
        if len(group) > 1:
            train_side_by_side(group, folders, **common)
        else:
            engine = "scan" if self._accelerated else "fit"  # see `train` for why
            train(group[0], folders[0], engine=engine, tensorboard=False, **common)
        for recipe, folder in zip(group, folders):
            # A group stops after a common epoch, so earlier checkpoints are never needed.
            saved = Checkpoints(folder / "checkpoints").all()
            for old in saved if self.finished(recipe) else saved[:-1]:
                shutil.rmtree(old)

    def _groups(self, recipes):
        """Yields groups of recipes that one program can train side by side, starting from the same checkpoint."""
        epochs = [Checkpoints(self.place(recipe) / "checkpoints").epochs()[-1:] for recipe in recipes]
        keys = [(program(recipe), *latest) for recipe, latest in zip(recipes, epochs)]
        for group in grouped(zip(keys, recipes)).values():
            for start in range(0, len(group), self.at_once):
                yield group[start : start + self.at_once]

    def need_networks(self, recipes):
        """Makes `run` train the members of an ensemble that is not measured yet, even if results contain them."""
        if self._ensemble_file(recipes).exists():
            return
        kept = [self.place(recipe) for recipe in recipes if self._kept(recipe)]
        if missing := [str(place) for place in kept if not (place / "model.keras").exists()]:
            raise ValueError(
                f"An ensemble needs its members' networks. There is no `model.keras` in {', '.join(missing)}. "
                "Restore the file, or delete the directory to train the network again."
            )
        for recipe in recipes:
            self.stored.pop(self.place(recipe), None)

    def ensemble(self, recipes):
        """Measures the `EANN` of finished networks, smallest first, on test images, unless its file exists."""
        file = self._ensemble_file(recipes)
        if not file.exists():
            self.say(f"EANN of {', '.join(map(title, recipes))} seed {recipes[0].seed}")
            data = recipes[0].load_data()
            networks = [keras.saving.load_model(self.place(recipe) / "model.keras") for recipe in recipes]
            eann = EANN(networks, data.validation)
            _files.put(file, json.dumps({"members": eann.exit_names, "exits": _columns(eann.curve(data.test))}) + "\n")
        return json.loads(file.read_text())

    def _ensemble_file(self, recipes):
        digest = _files.sha256(" ".join(self.place(recipe).name for recipe in recipes).encode())[:10]
        return self.folder / f"eann_{recipes[0].weighting['name']}_seed{recipes[0].seed}_{digest}.json"


def _columns(curve):
    return {name: [getattr(point, name) for point in curve] for name in COLUMNS}


def late_fall(losses):
    """Returns the fall of a loss from the second last to the last tenth of the epochs, in percent of its whole fall."""
    tenth = max(1, len(losses) // 10)
    before, last = losses[-2 * tenth : -tenth], statistics.fmean(losses[-tenth:])
    return 100 * (statistics.fmean(before) - last) / (losses[0] - last) if before and losses[0] != last else None
