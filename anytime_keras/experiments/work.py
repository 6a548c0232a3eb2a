"""Runs trainings into folders, several side by side where that is possible, and reads what came out.

A training's folder is named after its recipe. One that is finished (it has a curve, or a result tells it) is never run
again, by whichever experiment asks; one that was stopped goes on. Test images are looked at once, at a training's end.
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
from anytime_keras.training.run import title

COLUMNS = ("exit", "error", "loss", "backbone", "with_head", "with_all_heads", "params")
MEASURED = ("exits", "train_loss", "weight", "validation_error", "split", "sizes", "machine")
_TOLD = ("recipe", *MEASURED)
# Side by side, unless said otherwise: on an accelerator, where small networks leave most of it idle; on a CPU it is
# faster one after the other (tests/benchmarks/training.py).
AT_ONCE = 8
# Epochs from one checkpoint to the next on an accelerator, where several networks' take as long to write as an epoch to
# train. On a CPU it is one.
CHECKPOINT_EVERY = 10


class Work:
    """The trainings in a folder.

    Args:
        folder: where they are.
        at_once: int, how many to train side by side on JAX; None for 8 on an accelerator, 1 on a CPU.
        time_limit: float, seconds from now after which no epoch begins but a call's first; None for none.
        say: function that is told, in a line, what goes on.
        reuse: folder of results (`reproduce`); a training that one of them tells is taken from there, not run again,
            unless it is finished in `folder`. It is known by its recipe, the data by its path there. An ensemble, too,
            unless a member is finished in `folder`. None for none.

    Attributes:
        told: dict from a training's folder to what the results tell of it.

    Raises:
        ValueError: if an argument is not valid, or a result can't be read.

    Example:
    >>> import tempfile
    >>> Work(tempfile.mkdtemp()).run([])  # nothing to train: all is finished
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
        self.told, self._chains = {}, {}
        if reuse is not None:
            self._read(reuse)

    def _read(self, results):
        """Takes down what a folder of results tells: trainings by their folders, ensembles by those of their members,
        with the members' own numbers, since another result may tell another run of the same recipe."""
        paths = report.paths(results)
        if not paths:
            raise ValueError(f"There is no result in '{results}' to take trainings from.")
        for path in paths:
            content = report.read(path)
            try:
                trainings = [
                    (_group(training), self.place(Recipe.from_dict(training["recipe"])), _part(training, _TOLD))
                    for training in content["trainings"]
                ]
                for chain in content["ensembles"]:
                    members = {place: own for group, place, own in trainings if group == _group(chain)}
                    self._chains.setdefault(tuple(members), (members, _part(chain, ("members", "exits"))))
            except (ValueError, LookupError, TypeError) as error:
                raise ValueError(f"'{path}' does not tell its trainings: {error!r}.") from error
            for _, place, own in trainings:
                self.told.setdefault(place, own)

    def place(self, recipe):
        """The folder of a recipe's training.

        What an exit that is trained alone comes to does not hang on what follows it: such networks, whole and ending
        early, have one folder.
        """
        content = recipe.to_dict()
        for name in ("minutes", "sizes", "init"):  # fields that are newer than the folders' names
            if content[name] is None:
                del content[name]
        if recipe.last_exit is None or recipe.weighting["name"] == "single_exit":
            del content["last_exit"]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
        data = pathlib.Path(str(recipe.data["data"])).stem
        return self.folder / f"{title(recipe)}_{data}_seed{recipe.seed}_{digest}"

    def begun(self, recipe):
        """The recipe by which the training in a recipe's folder was begun, or the recipe itself if none was."""
        place = self.place(recipe)
        if place in self.told and not self._kept(recipe):
            return Recipe.from_dict(self.told[place]["recipe"])
        file = place / "recipe.json"
        return Recipe.from_json(file) if file.exists() else recipe

    def finished(self, recipe):
        """Whether a recipe's training has come to its end here, or a result tells it."""
        return self._kept(recipe) or self.place(recipe) in self.told

    def _kept(self, recipe):
        return (self.place(recipe) / "curve.json").exists()

    def measured(self, recipe):
        """What a finished training measured, as plain data.

        Returns:
            A dict: `exits`, a dict of lists with error, loss and costs of each exit; `train_loss`, `weight` and
            `validation_error` of each exit in the last epoch (None where the recipe gives none); the `split` that was
            measured, and the `sizes` of all; `machine`.
        """
        place = self.place(recipe)
        if not self._kept(recipe):
            return _part(self.told[place], MEASURED)
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
        """Trains all that are not finished.

        Returns:
            True if all are finished; False if the time limit came first: another call goes on.
        """
        unique = {self.place(recipe): self.begun(recipe) for recipe in recipes}
        total, first = len(unique), True
        if self.told:
            taken = sum(place in self.told for place in unique)
            self.say(f"[{taken} of {total} trainings are told by results]")
        for group in self._groups([recipe for recipe in unique.values() if not self.finished(recipe)]):
            left = None if self.limit is None else self.limit - (monotonic() - self.start)
            # Not for a last moment: to build and compile may take a minute. But every call gets on by an epoch.
            if left is not None and not first and left < min(60, self.limit / 10):
                return False
            first = False
            done = sum(map(self.finished, unique.values()))
            names = ", ".join(self.place(recipe).name for recipe in group)
            together = f"{len(group)} side by side: " if len(group) > 1 else ""
            self.say(f"[{done} of {total} trainings done] {together}{names}")
            self._train(group, None if left is None else max(left, 1.0))
            if not all(map(self.finished, group)):
                return False
        return True

    def _train(self, group, time_limit):
        keras.utils.clear_session(free_memory=False)  # Keras would keep the names of hundreds of networks
        folders = [self.place(recipe) for recipe in group]
        every = CHECKPOINT_EVERY if self._accelerated else 1
        common = dict(resume=True, verbose=False, time_limit=time_limit, checkpoint_every=every)
        if len(group) > 1:
            train_side_by_side(group, folders, **common)
        else:
            engine = "scan" if self._accelerated else "fit"  # `train` tells why
            train(group[0], folders[0], engine=engine, tensorboard=False, **common)
        for recipe, folder in zip(group, folders):
            checkpoints = sorted((folder / "checkpoints").glob("epoch-*"))
            # All of a group stopped after the same epoch: what is before it would only have to be carried along.
            for old in checkpoints if self.finished(recipe) else checkpoints[:-1]:
                shutil.rmtree(old)

    def expect(self, recipes):
        """Sees to it, before anything is trained, that `run` leaves what `ensemble` needs: where no result tells the
        ensemble, the members' networks; what results tell of these members is then forgotten.

        Args:
            recipes: as for `ensemble`.

        Raises:
            ValueError: if a member is finished, but its network is gone.
        """
        places = tuple(map(self.place, recipes))
        if places in self._chains and not any(map(self._kept, recipes)):
            self.told.update(self._chains[places][0])
        elif not self._chain_file(recipes).exists():
            _check_networks(self.place(recipe) for recipe in recipes if self._kept(recipe))
            for place in places:
                self.told.pop(place, None)

    def ensemble(self, recipes):
        """Chains finished networks to an `EANN`: its exits are chosen by validation images, then measured on the test
        images, once.

        Args:
            recipes: of the members, smallest first, that differ in their networks alone.

        Returns:
            A dict: `members`, the networks' exits that are used, and `exits`, as `measured` gives them.
        """
        places = tuple(map(self.place, recipes))
        if places in self._chains and not any(map(self._kept, recipes)):
            return self._chains[places][1]
        kept = self._chain_file(recipes)
        if not kept.exists():
            _check_networks(places)
            self.say(f"EANN of {', '.join(map(title, recipes))} seed {recipes[0].seed}")
            data = recipes[0].load_data()
            chain = EANN([keras.saving.load_model(place / "model.keras") for place in places], data.validation)
            measured = {"members": chain.exit_names, "exits": columns(chain.curve(data.test))}
            write(kept, json.dumps(measured) + "\n")
        return json.loads(kept.read_text())

    def _chain_file(self, recipes):
        """The file of an ensemble that was measured here."""
        digest = hashlib.sha256(" ".join(self.place(recipe).name for recipe in recipes).encode()).hexdigest()[:10]
        return self.folder / f"eann_{recipes[0].weighting['name']}_seed{recipes[0].seed}_{digest}.json"

    def _groups(self, recipes):
        """Divides recipes into lists that one program can train, from the same epoch on: networks side by side go on
        from the last checkpoint that all of them have."""
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
            "Bring it back, or remove the folder to train that network anew."
        )


def _group(labels):
    """What the members of an ensemble have in common."""
    return tuple(labels[key] for key in ("row", "dataset", "seed"))


def _part(content, keys):
    return {key: content[key] for key in keys}


def columns(curve):
    """A curve as a dict of lists; `tables.curve_of` makes it a curve again."""
    return {name: [getattr(point, name) for point in curve] for name in COLUMNS}


def _program(recipe):
    """What recipes must have in common to be trained side by side."""
    shape = {name: value for name, value in recipe.to_dict().items() if name not in ("seed", "weighting")}
    weighting = recipe.weighting
    adaloss = weighting["name"] == "adaloss"
    numbers = adaloss and weighting.keys() <= {"name", "gamma", "momentum", "update_period"}
    static = weighting["name"] in ("constant", "linear", "half_end", "single_exit")
    if static or (numbers and not isinstance(weighting.get("gamma"), (list, tuple))):
        weighting = None  # numbers that one program takes
    return json.dumps([shape, weighting], sort_keys=True)


def _keep_programs(folder):
    """Has JAX keep compiled programs in a folder: networks of one shape, each measured by itself, share one."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:  # nor by JAX_COMPILATION_CACHE_DIR
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
