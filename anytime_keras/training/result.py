"""The result of a run."""

import dataclasses
import json
import os
import pathlib

import keras

from anytime_keras import _files
from anytime_keras.training.checkpoint import room_for, to_disk
from anytime_keras.training.recipe import GIVEN, Recipe


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
