"""`train`: trains a network by a recipe."""

import keras

from anytime_keras._checks import check_choice, check_int
from anytime_keras.data import crops
from anytime_keras.training import scan
from anytime_keras.training import strategy as strategies
from anytime_keras.training.progress import ProgressBar
from anytime_keras.training.recipe import Recipe
from anytime_keras.training.run import Training
from anytime_keras.weighting import Weighting

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
    model=None,
    data=None,
):
    """Trains a network by a recipe.

    With a folder, it writes `recipe.json`, `data.json` (how images were split and normalised), `history.csv` (one line
    of logs per epoch), `tensorboard/`, checkpoints, and at the end `model.keras` and `curve.json`. With `resume`, it
    continues from the last checkpoint. On one CPU device, a resumed run gives the same results bit for bit as an
    uninterrupted one.

    Args:
        recipe: `Recipe`.
        folder: where to write, or None to write nothing.
        resume: bool, whether to resume the run in the folder; a run that has not begun is started.
        verbose: bool, whether to print the recipe, a progress bar and the final table.
        callbacks: additional Keras callbacks.
        tensorboard: bool, whether to write TensorBoard's logs (needs TensorFlow).
        engine: "fit" trains with Keras's `fit`. "scan" runs each epoch as one compiled program on the device, for JAX
            and data that fits into memory. Results equal those of `fit` on JAX up to rounding. Callbacks are called for
            epochs, not for batches. It is meant for accelerators: on a CPU, XLA's convolutions within such a program
            are many times slower, unless images are tiny.
        time_limit: float, seconds after which to stop, at the end of an epoch and with a checkpoint; None for no limit.
            To end with a finished network instead, use `Recipe(minutes=)`.
        checkpoint_every: int, epochs between checkpoints. None saves one each epoch or, with `Recipe(minutes=)`, each
            minute or 2% of the time, whichever is longer.
        strategy: "none" trains on one device; "mirrored", "multi_worker", "tpu" (TensorFlow) or "data_parallel" (JAX)
            on several, which share each batch and give the same result; see `anytime_keras.training.strategy`. Only
            the chief process writes and prints.
        begin: float, the start of the recipe's `minutes`, in seconds of `time.monotonic`; None for now.
        model: `AnytimeModel` to train, with its weights; the recipe's `model` is then `{"name": "given"}`. None builds
            the recipe's.
        data: `DataSet` to train on; None loads the recipe's.

    Returns:
        A `Run`, whose model is on one device. Its `curve` is None if the time limit stopped the run.

    Raises:
        ValueError: if the folder contains a run and `resume` is False, or a run of another recipe, or another process
            trains there; if the engine or the strategy does not run on this backend; if an image cannot be decoded (the
            error names it); if weights become non-finite. Checkpoints are kept.
        ConnectionError: if another process of the run has stopped.

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
    training = Training(recipe, folder, resume, data, strategy=place, begin=begin, model=model)
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
            print(f"resuming after {'epoch' if recipe.minutes is None else 'round'} {training.epoch}")
        result = None
        with crops.corrupt_images_named():
            if plan.first < plan.end and engine == "scan":
                (result,) = scan.fit([training.model], training.data, [recipe.seed], plan, [callbacks], verbose)
            elif plan.first < plan.end:
                result = place.fit(training.model, training.data, plan, callbacks)
            run = training.finish(result, training.stopped, verbose)
        place.leave()
        return run
    finally:
        training.release()


def _check(recipe, callbacks, engine, time_limit, checkpoint_every):
    if not isinstance(recipe, Recipe):
        raise ValueError(f"`recipe` must be a `Recipe`. Received: {type(recipe).__name__}.")
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.Callback) or isinstance(callback, Weighting):
            raise ValueError(
                f"`callbacks` must be Keras callbacks. Received: {type(callback).__name__}. A weighting belongs in the "
                "recipe."
            )
    check_choice("engine", engine, ENGINES)
    if engine == "scan":
        scan.check_backend()
    if recipe.minutes is not None and time_limit is not None:
        raise ValueError(
            f"`time_limit` must be None with a recipe of {recipe.minutes} minutes. Received: time_limit={time_limit}."
        )
    if checkpoint_every is not None:
        check_int("checkpoint_every", checkpoint_every)
