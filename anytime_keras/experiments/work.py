"""Trains recipes into directories, side by side where possible, and reads their results.

A run's directory is named after its recipe. A finished run (one with a curve, or one that a stored result contains) is
never repeated, whichever experiment needs it; a stopped run is resumed. Test images are evaluated once, at the end of a
run.
"""

import csv
import hashlib
import json
import pathlib
import shutil
from time import monotonic

import keras

from anytime_keras import runtime
from anytime_keras.evaluation.curve import Curve
from anytime_keras.experiments import report
from anytime_keras.inference import EANN
from anytime_keras.training import Recipe, train, train_side_by_side
from anytime_keras.training.checkpoint import write
from anytime_keras.training.result import title

COLUMNS = ("exit", "error", "loss", "backbone", "with_head", "with_all_heads", "params")
MEASURED = ("exits", "train_loss", "weight", "validation_error", "split", "sizes", "machine")
# Networks to train side by side on an accelerator, which a small network leaves mostly idle. On a CPU, training one
# after the other is faster (tests/benchmarks/training.py).
AT_ONCE = 8
# Epochs between checkpoints on an accelerator, where writing those of several networks takes as long as an epoch. On a
# CPU it is 1.
CHECKPOINT_EVERY = 10


class Work:
    """A directory of training runs.

    Args:
        folder: path of the directory.
        at_once: int, number of networks to train side by side on JAX; defaults to 8 on an accelerator, 1 on a CPU.
        time_limit: float, seconds from now after which no further epoch starts, except the first of each call to `run`;
            None for no limit.
        say: function called with lines of progress.
        reuse: directory of results (`reproduce`). Runs in these results are not repeated, unless they are finished in
            `folder`. Runs are matched by recipe, with the same path of the data. Ensembles are reused unless a member
            is finished in `folder`.

    Attributes:
        stored: dict from a run's directory to its content in the reused results.

    Raises:
        ValueError: if an argument is not valid, or a result cannot be read.

    Example:
    >>> import tempfile
    >>> Work(tempfile.mkdtemp()).run([])  # True, because no run is unfinished
    True
    """

    def __init__(self, folder, at_once=None, time_limit=None, say=print, reuse=None):
        if at_once is not None and (isinstance(at_once, bool) or not isinstance(at_once, int) or at_once < 1):
            raise ValueError(f"`at_once` must be an int of 1 or more. Received: at_once={at_once!r}.")
        if time_limit is not None and not time_limit > 0:
            raise ValueError(f"`time_limit` must be above 0 seconds. Received: time_limit={time_limit!r}.")
        self.folder, self.say = pathlib.Path(folder), say
        self._accelerated = keras.backend.backend() == "jax" and not runtime.on_cpu()
        self.at_once = at_once or (AT_ONCE if self._accelerated else 1)
        if self._accelerated:
            _keep_programs(self.folder / ".programs")
        self.limit, self.start = time_limit, monotonic()
        self.stored, self._chains = {}, {}
        if reuse is not None:
            self._read(reuse)

    def _read(self, results):
        """Reads the runs and ensembles of a directory of results, with directories of runs as keys."""
        paths = report.paths(results)
        if not paths:
            raise ValueError(f"There are no results to reuse in '{results}'.")
        for path in paths:
            content = report.read(path)
            try:
                for training in content["trainings"]:
                    own = {key: training[key] for key in ("recipe", *MEASURED)}
                    self.stored.setdefault(self.place(Recipe.from_dict(training["recipe"])), own)
                for chain in content["ensembles"]:
                    members = [
                        self.place(Recipe.from_dict(training["recipe"]))
                        for training in content["trainings"]
                        if all(training[key] == chain[key] for key in ("row", "dataset", "seed"))
                    ]
                    self._chains[tuple(members)] = {key: chain[key] for key in ("members", "exits")}
            except (ValueError, LookupError, TypeError) as error:
                raise ValueError(f"'{path}' must contain its runs with all fields. Received: {error!r}.") from error

    def place(self, recipe):
        """Returns the directory of a recipe's run.

        Later layers do not affect an exit that is trained alone. Therefore the complete network and the one that ends
        after this exit share a directory.
        """
        content = recipe.to_dict()
        for name in ("minutes", "sizes", "init"):  # fields newer than the directory names
            if content[name] is None:
                del content[name]
        if recipe.last_exit is None or recipe.weighting["name"] == "single_exit":
            del content["last_exit"]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
        data = pathlib.Path(str(recipe.data["data"])).stem
        return self.folder / f"{title(recipe)}_{data}_seed{recipe.seed}_{digest}"

    def begun(self, recipe):
        """Returns the recipe with which the run in a recipe's directory was started, or the recipe itself."""
        place = self.place(recipe)
        if place in self.stored and not self._kept(recipe):
            return Recipe.from_dict(self.stored[place]["recipe"])
        file = place / "recipe.json"
        return Recipe.from_json(file) if file.exists() else recipe

    def finished(self, recipe):
        """Returns whether a recipe's run is finished here or contained in the reused results."""
        return self._kept(recipe) or self.place(recipe) in self.stored

    def _kept(self, recipe):
        return (self.place(recipe) / "curve.json").exists()

    def measured(self, recipe):
        """Returns the measurements of a finished run as plain data.

        Returns:
            A dict with `exits`, a dict of lists with error, loss and costs of each exit; `train_loss`, `weight` and
            `validation_error` of each exit in the last epoch, or None if the recipe does not log them; `split`, the
            measured split; `sizes` of all splits; and `machine`.
        """
        place = self.place(recipe)
        if not self._kept(recipe):
            return {key: self.stored[place][key] for key in MEASURED}
        curve = Curve.from_json(place / "curve.json")
        with open(place / "history.csv") as file:
            last = list(csv.DictReader(file))[-1]

        def each(key):
            keys = [key.format(point.exit) for point in curve]
            return [float(last[key]) for key in keys] if all(last.get(key) for key in keys) else None

        accuracy = each("val_{}_accuracy")
        values = (
            columns(curve),
            each("{}_loss"),
            each("{}_weight"),
            accuracy and [1 - value for value in accuracy],
            curve.about["split"],
            curve.about["data"]["sizes"],
            curve.about["machine"],
        )
        return dict(zip(MEASURED, values))

    def run(self, recipes):
        """Trains all recipes that are not finished.

        Returns:
            True if all are finished, or False if the time limit was reached. Another call then resumes.
        """
        unique = {self.place(recipe): self.begun(recipe) for recipe in recipes}
        total, first = len(unique), True
        if self.stored:
            taken = sum(place in self.stored for place in unique)
            self.say(f"[{taken} of {total} runs are in the reused results]")
        for group in self._groups([recipe for recipe in unique.values() if not self.finished(recipe)]):
            left = None if self.limit is None else self.limit - (monotonic() - self.start)
            # Do not start with little time left, because building and compiling may take a minute. The first group
            # always starts, so that every call makes at least one epoch of progress.
            if left is not None and not first and left < min(60, self.limit / 10):
                return False
            first = False
            done = sum(map(self.finished, unique.values()))
            names = ", ".join(self.place(recipe).name for recipe in group)
            together = f"{len(group)} side by side: " if len(group) > 1 else ""
            self.say(f"[{done} of {total} runs finished] {together}{names}")
            self._train(group, None if left is None else max(left, 1.0))
            if not all(map(self.finished, group)):
                return False
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
            checkpoints = sorted((folder / "checkpoints").glob("epoch-*"))
            # A group stops after a common epoch, so earlier checkpoints are never needed.
            for old in checkpoints if self.finished(recipe) else checkpoints[:-1]:
                shutil.rmtree(old)

    def prepare_ensemble(self, recipes):
        """Makes `run` train the members of an ensemble without stored result, because it needs their networks.

        Args:
            recipes: as for `ensemble`.

        Raises:
            ValueError: if a member is finished, but its network is missing.
        """
        if self._stored_ensemble(recipes) is None:
            _check_networks(self.place(recipe) for recipe in recipes if self._kept(recipe))
            for recipe in recipes:
                self.stored.pop(self.place(recipe), None)

    def _stored_ensemble(self, recipes):
        file = self._chain_file(recipes)
        if file.exists():
            return json.loads(file.read_text())
        # A member that was trained here may differ from the one in the reused results.
        return None if any(map(self._kept, recipes)) else self._chains.get(tuple(map(self.place, recipes)))

    def ensemble(self, recipes):
        """Chains finished networks to an `EANN`, chooses its exits on validation images and measures it on test images.

        Args:
            recipes: recipes of the members, smallest first, that differ in their networks only.

        Returns:
            A dict with `members`, the exits of the networks that are used, and `exits`, as in `measured`.
        """
        stored = self._stored_ensemble(recipes)
        if stored is not None:
            return stored
        places = list(map(self.place, recipes))
        _check_networks(places)
        self.say(f"EANN of {', '.join(map(title, recipes))} seed {recipes[0].seed}")
        data = recipes[0].load_data()
        chain = EANN([keras.saving.load_model(place / "model.keras") for place in places], data.validation)
        measured = {"members": chain.exit_names, "exits": columns(chain.curve(data.test))}
        write(self._chain_file(recipes), json.dumps(measured) + "\n")
        return measured

    def _chain_file(self, recipes):
        """Returns the path of the file with an ensemble's measurements."""
        digest = hashlib.sha256(" ".join(self.place(recipe).name for recipe in recipes).encode()).hexdigest()[:10]
        return self.folder / f"eann_{recipes[0].weighting['name']}_seed{recipes[0].seed}_{digest}.json"

    def _groups(self, recipes):
        """Yields groups of recipes that one program can train side by side, starting from the same checkpoint."""
        alike = {}
        for recipe in recipes:
            checkpoints = sorted((self.place(recipe) / "checkpoints").glob("epoch-*"))
            key = _program(recipe), checkpoints[-1].name if checkpoints else ""
            alike.setdefault(key, []).append(recipe)
        for group in alike.values():
            for start in range(0, len(group), self.at_once):
                yield group[start : start + self.at_once]


def _check_networks(places):
    missing = [str(place) for place in places if not (place / "model.keras").exists()]
    if missing:
        raise ValueError(
            f"An ensemble needs its members' networks. There is no `model.keras` in {', '.join(missing)}. "
            "Restore the file, or delete the directory to train the network again."
        )


def columns(curve):
    """Converts a curve to a dict of lists, the inverse of `tables.curve_of`."""
    return {name: [getattr(point, name) for point in curve] for name in COLUMNS}


def _program(recipe):
    """Returns a key that is equal for recipes that can be trained side by side."""
    shape = {name: value for name, value in recipe.to_dict().items() if name not in ("seed", "weighting")}
    weighting = recipe.weighting
    adaloss = weighting["name"] == "adaloss"
    numbers = adaloss and weighting.keys() <= {"name", "gamma", "momentum", "update_period"}
    static = weighting["name"] in ("constant", "linear", "half_end", "single_exit")
    if static or (numbers and not isinstance(weighting.get("gamma"), (list, tuple))):
        weighting = None  # these weightings are passed to one program as numbers
    return json.dumps([shape, weighting], sort_keys=True)


def _keep_programs(folder):
    """Sets JAX's compilation cache to a directory, so that networks of the same shape share compiled programs."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:  # not even by JAX_COMPILATION_CACHE_DIR
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
