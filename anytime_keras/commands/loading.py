"""Loads a trained network and its data set, for several commands."""

import pathlib

from anytime_keras import data as data_sets
from anytime_keras.classifier import presets
from anytime_keras.training import Recipe
from anytime_keras.training.finetune import image_files, load_images
from anytime_keras.training.recipe import GIVEN


def model_file(path):
    """Returns the `.keras` file of a path: the path itself, or the model in a training run's directory."""
    path = pathlib.Path(path)
    file = path / "model.keras" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(
            f"There is no trained network '{file}'. Name the directory of a finished training run or a .keras file."
        )
    return file


def model_and_data(path, flags):
    """Loads a network, from a run's directory or a `.keras` file, and its `DataSet`, normalised as in training."""
    file = model_file(path)
    arguments = {}
    if (file.parent / "recipe.json").is_file():
        recipe = Recipe.from_json(file.parent / "recipe.json")
        if recipe.model["name"] == GIVEN and not flags.dataset:
            model = presets.load_keras(file)
            return model, load_images(image_files(recipe.data["data"]), model.preprocessor, recipe)
        arguments = recipe.data
    if flags.dataset:
        arguments["data"] = flags.dataset
    arguments.update({name: flags[name].value for name in ("data_dir", "image_size") if flags[name].value})
    if "data" not in arguments:
        raise ValueError(f"'{path}' has no recipe with a data set. Name the data set, such as --dataset=cifar10.")
    return presets.load_keras(file), data_sets.load(**arguments)
