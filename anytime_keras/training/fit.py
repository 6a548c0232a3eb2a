"""`train`: a recipe and a folder in; a trained model, its logs and its curve out."""

import dataclasses
import json
import pathlib

import keras

from anytime_keras import evaluation
from anytime_keras.training.checkpoint import Checkpointing, Checkpoints, write
from anytime_keras.training.progress import ProgressBar
from anytime_keras.training.recipe import Recipe
from anytime_keras.weighting import LossWeighting


@dataclasses.dataclass
class Run:
    """What `train` gives.

    Attributes:
        model: the trained, compiled `AnytimeModel`.
        data: the `DataSet`.
        weighting: the `Weighting` after the last batch; None for a network of one exit.
        history: list of dicts, an epoch's logs each.
        curve: `Curve` on the test images, or those of validation or training where there are none.
    """

    model: keras.Model
    data: object
    weighting: object
    history: list
    curve: object


def train(recipe, folder=None, resume=False, verbose=True, callbacks=(), tensorboard=True):
    """Trains a network by a recipe.

    With a folder, writes there: `recipe.json`, `data.json` (how images were split and normalised), `history.csv`
    (an epoch's logs a line), `tensorboard/`, a checkpoint an epoch, and at the end `model.keras` and `curve.json`. With
    `resume`, goes on from the last checkpoint: on one CPU device the final numbers are bit for bit those of a training
    that was never stopped.

    Args:
        recipe: `Recipe`.
        folder: where to write, or None to write nothing.
        resume: bool, go on where the training in the folder stopped; starts it if it has not begun.
        verbose: bool, whether to print the recipe, a progress bar and the final table.
        callbacks: more Keras callbacks.
        tensorboard: bool, whether to write TensorBoard's logs (needs TensorFlow).

    Returns:
        A `Run`.

    Raises:
        ValueError: if the folder holds a training already and `resume` is False, or another recipe's.
    """
    folder = pathlib.Path(folder) if folder is not None else None
    _claim(folder, recipe, resume)
    if verbose:
        print(recipe.to_json())
    keras.utils.set_random_seed(recipe.seed)
    data = recipe.load_data()
    model = recipe.build_model(data)
    weighting = LossWeighting(recipe.build_weighting()) if model.num_exits > 1 else None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "data.json", json.dumps(data.describe(), indent=1) + "\n")
        write(folder / "recipe.json", recipe.to_json() + "\n")
    history = _fit(recipe, model, data, weighting, folder, resume, verbose, callbacks, tensorboard)
    split = next(split for split in ("test", "validation", "train") if split in data.sizes)
    curve = evaluation.evaluate(model, getattr(data, split), name=_title(recipe))
    curve.about.update(split=split, data=data.describe())
    if folder is not None:
        model.save(folder / "model.keras")
        curve.to_json(folder / "curve.json")
    if verbose:
        weights = {"weight": weighting.weights.tolist()} if weighting is not None else {}
        print(f"\n{curve.about['split']} images:\n{curve.table(weights)}")
    return Run(model, data, weighting.weighting if weighting is not None else None, history, curve)


def _fit(recipe, model, data, weighting, folder, resume, verbose, callbacks, tensorboard):
    history, epoch = [], 0
    own = [] if weighting is None else [weighting]
    state = None if weighting is None else weighting.weighting
    if verbose:
        own.append(ProgressBar(recipe.epochs, model.exit_names))
    own.extend(callbacks)
    if folder is not None:
        checkpoints = Checkpoints(folder / "checkpoints")
        if resume:
            epoch, history = checkpoints.restore(model, state)
            if verbose and epoch:
                print(f"going on after epoch {epoch}")
        if tensorboard and keras.backend.backend() == "tensorflow":
            own.append(keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False))
        # Last, so that what the others did in an epoch is done when its checkpoint is there.
        own.append(Checkpointing(checkpoints, state, history, folder / "history.csv"))
    if epoch < recipe.epochs:
        result = model.fit(
            data.training_stream(epoch),
            steps_per_epoch=data.steps_per_epoch,
            validation_data=data.validation,
            epochs=recipe.epochs,
            initial_epoch=epoch,
            callbacks=own,
            verbose=0,
            shuffle=False,
        )
        if folder is None:
            history = [dict(zip(result.history, row)) for row in zip(*result.history.values())]
    return history


def _claim(folder, recipe, resume):
    """Makes sure that the folder is free, or holds this very training."""
    if folder is None:
        if resume:
            raise ValueError("`resume` needs the `folder` of the training to go on with. Received: folder=None.")
        return
    saved = folder / "recipe.json"
    if not saved.exists():
        return
    if not resume:
        raise ValueError(
            f"'{folder}' holds a training already. Pass `resume=True` to go on with it, or name another folder."
        )
    before = Recipe.from_json(saved)
    if before != recipe:
        differing = [name for name, value in before.to_dict().items() if value != recipe.to_dict()[name]]
        raise ValueError(
            f"'{folder}' holds a training by another recipe: {', '.join(differing)} differ. Name another folder."
        )


def _title(recipe):
    name, weighting = recipe.model["name"], recipe.weighting["name"]
    size = "x".join(str(recipe.model[key]) for key in ("num_units", "channels") if key in recipe.model)
    return f"{name}{size}_{weighting}"
