"""What several commands load: a trained network and the data that goes with it."""

import pathlib
import zipfile

from anytime_keras import data as data_sets
from anytime_keras.training import Recipe


def model_file(path):
    """Returns the `.keras` file that a path stands for: itself, or that of a training's folder."""
    path = pathlib.Path(path)
    file = path / "model.keras" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(
            f"There is no trained network '{file}'. Name a folder that `anytime-keras train` wrote to its end, "
            f"or a .keras file."
        )
    return file


def load_model(file):
    """Loads a `.keras` file."""
    import keras

    try:
        return keras.saving.load_model(file)
    except (ValueError, OSError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"'{file}' is no network that can be loaded: {error}") from error


def model_and_data(path, flags):
    """Loads a trained network and its data set, normalised as in training.

    Args:
        path: folder of a training, or a `.keras` file.
        flags: with `dataset`, `data_dir` and `image_size`.

    Returns:
        The model and the `DataSet`.
    """
    file = model_file(path)
    arguments = {}
    recipe = file.parent / "recipe.json"
    if recipe.is_file():
        arguments = Recipe.from_json(recipe).data
    if flags.dataset:
        arguments["data"] = flags.dataset
    arguments.update({name: flags[name].value for name in ("data_dir", "image_size") if flags[name].value})
    if "data" not in arguments:
        raise ValueError(f"Say what data '{path}' is for: --dataset=cifar10.")
    return load_model(file), data_sets.load(**arguments)
