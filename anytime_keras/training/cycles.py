"""Trains the networks of the zoo in cycles, each of which starts from the weights of the last one."""

import dataclasses
import pathlib
import time

import keras

from anytime_keras import evaluation, zoo
from anytime_keras.training.fit import train
from anytime_keras.training.recipe import Recipe
from anytime_keras.training.run import Run, check_single
from anytime_keras.zoo import publishing

PRECISION = "float16"  # of the published kernels, with which the manifest's accuracy is measured


@dataclasses.dataclass
class Cycle:
    """The result of `train_cycle`.

    Attributes:
        run: `Run`, with the averaged weights if they are the better ones.
        before, after: lists of float, the errors on validation images at each exit before and after the training;
            `before` is None if it started from random weights.
        better: bool, whether the mean error is lower than before and the last exit's is no higher.
        manifest: `Manifest` if the weights were published, else None.
    """

    run: Run
    before: list | None
    after: list
    better: bool
    manifest: object = None


def train_cycle(
    name,
    weights="default",
    minutes=None,
    folder=None,
    publish=False,
    to=None,
    data=None,
    data_dir=None,
    parts=None,
    changes=None,
    from_scratch=False,
    replace=None,
    **options,
):
    """Trains a network of the zoo by the recipe in its manifest, for one cycle.

    Training starts from the network's weights if there are any, otherwise from those of `init` in `changes`, such as
    the same network's for another data set. A cycle that was stopped is resumed from its folder.

    Args:
        name: str, one of `ak.zoo.list()`.
        weights: str, the label of the weights, or `"default"`.
        minutes: float, duration of the cycle; None for the recipe's `epochs` or `minutes`.
        folder: where to train; None for `runs/NAME_LABEL/cycle-NUMBER`.
        publish: bool, whether to publish the weights if they are better than those that the cycle started from.
        to: the folder of the zoo to publish to; None for the checkout's.
        data: a folder or file with the images, for `ak.data.load`; None for the data set's name.
        data_dir: the directory of tensorflow-datasets' data, or of `tiny-imagenet-200`.
        parts: a folder that `ak.data.pack` wrote, to train on. Test images, which publishing needs, come from `data`
            and `data_dir`.
        changes: dict of the recipe's fields that differ, such as `{"learning_rate": 0.05}`.
        from_scratch: bool, whether to start from random weights. The result is published if it is better than the
            existing weights.
        replace: str, the reason why the result replaces the existing weights without a comparison, for example that
            those were trained on the validation images. The manifest's lineage contains it. None compares them.
        **options: further arguments of `train`: `engine`, `strategy`, `begin`, `verbose` and so on.

    Returns:
        A `Cycle`.

    Raises:
        ValueError: as `train`; or if the manifest has no recipe, or the images have other classes than the network.

    Example:
    >>> import tempfile, anytime_keras as ak
    >>> options = dict(folder=tempfile.mkdtemp(), changes={"epochs": 1, "learning_rate": 1e-4}, verbose=False)
    >>> cycle = ak.training.train_cycle("resann2x16_adaloss_digits", **options)
    >>> len(cycle.before), len(cycle.after), cycle.manifest
    (6, 6, None)
    """
    entry = zoo.show(name).pick(weights)
    label, lineage = entry.label, entry.content["lineage"]
    check_single(name, label)
    if entry.content["recipe"] is None:
        raise ValueError(f"The manifest of '{name}' has no recipe for '{label}', so it cannot be trained by name.")
    recipe = Recipe.from_dict({**entry.content["recipe"], **(changes or {})})
    if minutes is not None:
        recipe = recipe.with_minutes(minutes)
    if entry.trained and recipe.init is not None:
        raise ValueError(f"`init` is for names without weights. Received: '{recipe.init}' for '{name}:{label}'.")
    init = f"{name}:{label}" if entry.trained and not from_scratch else recipe.init
    seed = recipe.seed if init is None else recipe.seed + len(lineage)  # another order of the images in each cycle
    recipe = dataclasses.replace(recipe, init=init, seed=seed)
    whole = {**recipe.data, **_where(data, data_dir)}
    local = dataclasses.replace(recipe, data=whole if parts is None else {**recipe.data, **_where(parts, None)})
    if publish:
        publishing.check_whole(recipe)
        publishing.open_zoo(to, name, label)
    folder = folder or pathlib.Path("runs", publishing.stem(name, label), f"cycle-{len(lineage) + 1}")
    options["callbacks"] = [*options.pop("callbacks", ()), *([] if recipe.minutes else [Seconds()])]
    run = train(local, folder, resume=True, **options)
    before = None
    if entry.trained and replace is None:
        before = _errors(zoo.load(name, label, trainable=False), run.data) if init is None else run.before.errors
    run, after = _best(run)
    better = before is None or publishing.better(before, after)
    cycle = Cycle(run, before, after, better)
    if publish and better:
        measured = run.data if parts is None else dataclasses.replace(recipe, data=whole).load_data()
        facts = dict(before=before, after=after, replace=replace, **_facts(run, entry))
        cycle.manifest = zoo.publish(run.model, name, measured, recipe, to, label, PRECISION, **facts)
    return cycle


def _where(data, data_dir):
    return {key: str(value) for key, value in (("data", data), ("data_dir", data_dir)) if value is not None}


def _errors(model, data):
    split = "validation" if "validation" in data.sizes else "train"
    return evaluation.evaluate(model, getattr(data, split)).errors


def _best(run):
    """Returns the run with the weights that are the best on validation images, and their errors."""
    runs = [run] if run.average is None else [run, run.average]
    tested = run.curve.about["split"] == "test"
    found = [(each, _errors(each.model, each.data) if tested else each.curve.errors) for each in runs]
    return min(found, key=lambda pair: sum(pair[1]))


def _facts(run, entry):
    """Returns what a manifest records about a run in addition to its recipe."""
    last = run.history[-1]
    epochs = last.get("epochs", last["epoch"])
    return {
        "source": entry.content["data"]["source"],
        "data_licence": entry.content["data"]["licence"],
        "licence": entry.content["licence"],
        "epochs": epochs,
        "images": int(last.get("images", epochs * run.data.sizes["train"])),
        "minutes": sum(row["seconds"] for row in run.history) / 60,
    }


class Seconds(keras.callbacks.Callback):
    """Adds each epoch's seconds to its logs, so that they are kept when a run is resumed."""

    def on_epoch_begin(self, epoch, logs=None):
        self._begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs):
        logs["seconds"] = time.perf_counter() - self._begin
