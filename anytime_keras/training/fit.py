"""`train`: a recipe and a folder in; a trained model, its logs and its curve out."""

import keras

from anytime_keras import _errors
from anytime_keras.data import crops
from anytime_keras.training import scan
from anytime_keras.training import strategy as strategies
from anytime_keras.training.progress import ProgressBar
from anytime_keras.training.recipe import Recipe
from anytime_keras.training.run import Run, Training
from anytime_keras.weighting import LossWeighting, Weighting

__all__ = ["ENGINES", "Run", "train"]

ENGINES = ("fit", "scan")


def train(
    recipe,
    folder=None,
    resume=False,
    verbose=True,
    callbacks=(),
    tensorboard=True,
    engine="fit",
    time_limit=None,
    checkpoint_every=None,
    strategy="none",
    begin=None,
):
    """Trains a network by a recipe.

    With a folder, writes there: `recipe.json`, `data.json` (how images were split and normalised), `history.csv`
    (an epoch's logs a line), `tensorboard/`, checkpoints, and at the end `model.keras` and `curve.json`. With
    `resume`, goes on from the last checkpoint: on one CPU device the final numbers are bit for bit those of a training
    that was never stopped.

    Args:
        recipe: `Recipe`.
        folder: where to write, or None to write nothing.
        resume: bool, go on where the training in the folder stopped; starts it if it has not begun.
        verbose: bool, whether to print the recipe, a progress bar and the final table.
        callbacks: more Keras callbacks.
        tensorboard: bool, whether to write TensorBoard's logs (needs TensorFlow).
        engine: "fit" trains with Keras's `fit`; "scan", on JAX alone and for data that fits into memory, runs an
            epoch as one compiled program on the device. Its numbers are those of `fit` on JAX, to rounding; callbacks
            see epochs, no batches. For accelerators: on a CPU XLA convolves many times more slowly within such a
            program, unless images are tiny.
        time_limit: float, seconds after which to stop, at the end of an epoch and with a checkpoint; None for none. To
            end with a finished network instead, use `Recipe(minutes=)`.
        checkpoint_every: int, epochs from one checkpoint to the next; None for every epoch or, with
            `Recipe(minutes=)`, for one a minute or for every fiftieth part of the time, whichever is longer.
        strategy: where to train: "none" on one device; "mirrored", "multi_worker", "tpu" (TensorFlow) or
            "data_parallel" (JAX) on several, which share each batch and train as one would; see
            `anytime_keras.training.strategy`. The chief process alone writes and prints.
        begin: float, when the `minutes` of the recipe began, as `time.monotonic` gives it; None for now.

    Returns:
        A `Run`; without a curve if the time limit stopped it. Its model is on one device.

    Raises:
        ValueError: if the folder holds a training already and `resume` is False, or another recipe's, or another
            process trains there; if the engine does not run here, or the recipe needs another; if an image cannot be
            decoded (it is named) or the training diverges, which ends it with the checkpoints so far; if the strategy
            does not run here.
        ConnectionError: if another process of the training is gone.

    Example:
    >>> import anytime_keras as ak
    >>> recipe = ak.training.Recipe({"name": "resann", "num_units": 1, "channels": 4}, "digits", epochs=1)
    >>> run = ak.training.train(recipe, verbose=False)
    >>> len(run.history), run.curve.about["split"]
    (1, 'test')
    """
    _check(recipe, callbacks, engine, time_limit, checkpoint_every)
    place = strategies.choose(strategy)
    if engine == "scan" and place.name != "none":
        raise ValueError(
            f"`engine='scan'` trains on one device. Received: strategy='{place.name}'. Choose `engine='fit'`."
        )
    verbose = verbose and place.is_chief
    training = Training(recipe, folder, resume, strategy=place, begin=begin)
    if engine == "scan":
        scan.check_data(training.data)
    if verbose:
        print(recipe.to_json())
        if place.replicas > 1:
            print(f"{place.replicas} replicas ({place.name}) share each batch of {recipe.batch_size}")
        bar = ProgressBar(images=training.data.sizes["train"], bar=engine == "fit", minutes=recipe.minutes)
        callbacks = [bar, *callbacks]
    try:
        callbacks, plan = training.begin(callbacks, time_limit, checkpoint_every, tensorboard)
        if verbose and training.epoch:
            print(f"going on after epoch {training.epoch}")
        result = None
        if plan.first < plan.end:
            with crops.corruption_told():
                if engine == "scan":
                    seeds = [recipe.seed]
                    (result,) = scan.fit([training.model], training.data, seeds, plan, [callbacks], verbose)
                else:
                    result = place.fit(training.model, training.data, plan, callbacks)
        with crops.corruption_told():
            run = training.finish(result, training.stopped, verbose)
        place.leave()
        return run
    finally:
        training.release()


def _check(recipe, callbacks, engine, time_limit, checkpoint_every):
    if not isinstance(recipe, Recipe):
        raise ValueError(f"`recipe` must be a `Recipe`. Received: {type(recipe).__name__}.")
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.Callback) or isinstance(callback, (LossWeighting, Weighting)):
            raise ValueError(
                "`callbacks` must be Keras callbacks, and no weighting, which the recipe names. "
                f"Received: {type(callback).__name__}."
            )
    if engine not in ENGINES:
        raise ValueError(f"`engine` is unknown. Received: engine={engine!r}. {_errors.nearest(engine, ENGINES)}")
    if engine == "scan":
        scan.check_backend()
    if recipe.minutes is not None and time_limit is not None:
        raise ValueError(
            "A recipe with `minutes` ends by itself. "
            f"Received: minutes={recipe.minutes}, time_limit={time_limit}. Leave `time_limit` out."
        )
    if checkpoint_every is None:
        return
    if isinstance(checkpoint_every, bool) or not isinstance(checkpoint_every, int) or checkpoint_every < 1:
        raise ValueError(
            "`checkpoint_every` must be a number of epochs, 1 or more. "
            f"Received: checkpoint_every={checkpoint_every!r}."
        )
