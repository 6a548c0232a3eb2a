"""`load` and `evaluate`: a name in; a network with checked weights, or its curve, out."""

import numpy as np

from anytime_keras import data as data_sets
from anytime_keras import evaluation
from anytime_keras.models.registry import NETWORKS
from anytime_keras.zoo import arrays, catalog, places

TRAINABLE = (True, "heads", False)
# The arguments of `ak.data.load` that a manifest's recipe may give: none that leads to files.
DATA_ARGUMENTS = ("data", "validation", "test", "image_size", "split_seed")


def load(name, weights="default", num_classes=None, trainable=True):
    """Loads a trained network by name.

    Files are checked against the manifest's hashes each time; those from the network are kept in the cache folder
    (`ANYTIME_KERAS_CACHE`, or `~/.cache/anytime_keras`) and can be had offline from then on.

    Args:
        name: str, one of `ak.zoo.list()`.
        weights: str, the label of the weights, usually a data set's name; `"default"` for the manifest's default; None
            for an untrained network of the default's configuration.
        num_classes: int or None. If it is not the trained number, each exit's last linear layer is a fresh, untrained
            one for so many classes, and everything else keeps its trained weights.
        trainable: True; `"heads"`, where only the exits' heads train and the backbone is frozen (its batch
            normalisation too); or False, where nothing trains.

    Returns:
        An `AnytimeModel`, not compiled. `ak.zoo.show(name)` tells its classes and how to normalise images.

    Raises:
        ValueError: if the name or the label is unknown; nothing has been trained for it (the error tells the command
            that does); or a file is not what the manifest names.
        OSError: if a file can be had from nowhere.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.zoo.load("resann2x16_adaloss_digits")
    >>> [exit.name for exit in model.exits]
    ['exit_1', 'exit_2', 'exit_3', 'exit_4', 'exit_5', 'exit_6']
    """
    if trainable not in TRAINABLE or isinstance(trainable, int) and not isinstance(trainable, bool):
        raise ValueError(f"`trainable` must be one of {TRAINABLE}. Received: trainable={trainable!r}.")
    if num_classes is not None and (
        isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1
    ):
        raise ValueError(f"`num_classes` must be a positive int or None. Received: num_classes={num_classes!r}.")
    if weights is not None and not isinstance(weights, str):
        raise ValueError(f"`weights` must be a label, 'default' or None. Received: weights={weights!r}.")
    manifest, home = catalog.find(name)
    entry = manifest.pick("default" if weights is None else weights)
    if weights is not None and not entry.trained:
        raise ValueError(f"'{name}' has no weights for '{entry.label}' yet. {_how_to_train(manifest, entry)}")
    fresh = num_classes is not None and num_classes != entry.config["num_classes"]
    if fresh and trainable is False and weights is not None:
        raise ValueError(
            f"`num_classes={num_classes}` gives untrained linear layers, which `trainable=False` would leave so. "
            f"Pass `trainable='heads'`, or leave `num_classes` out for the trained {entry.config['num_classes']}."
        )
    contents = [places.read_file(file, home) for file in entry.files] if weights is not None else []
    model = build(manifest, entry, num_classes)
    if weights is not None:
        fill(model, entry, contents, leave_out=_linear_paths(model) if fresh else ())
        if not fresh:
            model.inference = entry.content["inference"]
    freeze(model, trainable)
    return model


def build(manifest, entry, num_classes=None):
    """Builds the untrained network of a manifest's entry, and makes sure that it is the one that is meant.

    Args:
        manifest, entry: `Manifest` and one of its `weights`.
        num_classes: int; None is the entry's own.
    """
    own = num_classes is None or num_classes == entry.config["num_classes"]
    model = make(manifest.architecture, entry.config, manifest.name)
    names = [exit["name"] for exit in entry.content["exits"]]
    if model.count_params() != entry.content["params"] or model.exit_names != names:
        raise ValueError(
            f"The manifest of '{manifest.name}' names {entry.content['params']} parameters and exits {names}, its "
            f"configuration has {model.count_params()} and {model.exit_names}."
        )
    if own:
        return model
    return make(manifest.architecture, {**entry.config, "num_classes": num_classes}, manifest.name)


def make(architecture, config, name):
    """Builds an untrained network of one of the registered families from its whole configuration, see `Manifest`."""
    family, _ = NETWORKS[architecture]
    return family(**config, name=name)


def fill(model, entry, contents, leave_out=()):
    """Gives a network the weights of an entry's files."""
    shapes = {variable.path: variable.shape for variable in model.weights}
    shapes.update(dict.fromkeys(leave_out))  # of any shape
    found = {}
    for file, content in zip(entry.files, contents):
        part = arrays.unpack(content, shapes, file.path)
        if twice := sorted(set(found) & set(part)):
            raise ValueError(f"'{file.path}' holds '{twice[0]}' once more.")
        found.update(part)
    arrays.assign(model, found, leave_out)


def freeze(model, trainable):
    """Sets what of a network trains; see `load`."""
    if trainable != "heads":
        model.trainable = trainable
        return
    for layer in model.layers:
        layer.trainable = any(layer.name == exit or layer.name.startswith(f"{exit}_") for exit in model.exit_names)


def _linear_paths(model):
    """The paths of the variables of the exits' last layers."""
    return {variable.path for exit in model.exit_names for variable in model.get_layer(exit).weights}


def _how_to_train(manifest, entry):
    trained = [label for label, other in manifest.weights.items() if other.trained]
    others = f" Trained: {', '.join(map(repr, trained))}." if trained else ""
    how = "`weights=None` builds it untrained."
    if entry.content["recipe"] is not None:
        how = f"`anytime-keras zoo train {manifest.name} --weights={entry.label}` trains it, {how}"
    return f"{how}{others}"


def golden(entry, home):
    """Returns an entry's golden pair: an input of shape `(1, ...)`, and a dict from exits to logits."""
    shape = tuple(entry.config["input_shape"])
    shapes = {exit["name"]: (1, entry.config["num_classes"]) for exit in entry.content["exits"]}
    found = arrays.unpack(places.read_file(entry.golden, home), {"input": (1, *shape), **shapes}, entry.golden.path)
    if missing := sorted({"input", *shapes} - set(found)):
        raise ValueError(f"'{entry.golden.path}' lacks '{missing[0]}'.")
    return found.pop("input"), {name: found[name] for name in shapes}


def evaluate(name, weights="default", data=None, data_dir=None, download=True):
    """Measures a network of the zoo again, on the images that its manifest names.

    Args:
        name: str, one of `ak.zoo.list()`.
        weights: str, the label of the weights, or `"default"`.
        data: the `ak.data.DataSet`; None loads it by the name in the manifest.
        data_dir, download: as in `ak.data.load`, without `data`.

    Returns:
        A `Curve`; its `about["manifest"]` is the list of the accuracies in the manifest.

    Raises:
        ValueError: as `load`; or if the data set has other classes or statistics than the network was trained with.

    Example:
    >>> import anytime_keras as ak
    >>> curve = ak.zoo.evaluate("resann2x16_adaloss_digits")
    >>> len(curve)
    6
    """
    manifest, _ = catalog.find(name)
    entry = manifest.pick(weights)
    model = load(name, entry.label, trainable=False)
    measured = entry.content["measured"]
    data_set = data if data is not None else _load_data(entry, data_dir, download)
    _check_data(entry, data_set)
    images = getattr(data_set, measured["split"]) if measured["split"] in data_set.sizes else None
    if images is None:
        raise ValueError(f"'{data_set.name}' has no split '{measured['split']}'. It has: {sorted(data_set.sizes)}.")
    curve = evaluation.evaluate(model, images, name=name)
    curve.about.update(split=measured["split"], data=data_set.describe(), manifest=entry.accuracies)
    return curve


def _load_data(entry, data_dir, download):
    known, recipe = entry.content["data"], entry.content["lineage"][-1]["recipe"].get("data")
    recipe = recipe if isinstance(recipe, dict) else {}
    arguments = {key: value for key, value in recipe.items() if key in DATA_ARGUMENTS}
    arguments.update(data=known["name"], split_seed=known["split_seed"])
    return data_sets.load(**arguments, augment=None, data_dir=data_dir, download=download)


def _check_data(entry, found):
    known = entry.content["data"]
    if found.class_names != known["class_names"]:
        differing = sorted(set(found.class_names) ^ set(known["class_names"])) or "their order"
        raise ValueError(f"'{found.name}' has other classes than the network was trained with: {str(differing):.200}.")
    if not np.allclose(found.mean, known["mean"], atol=1e-3) or not np.allclose(found.std, known["std"], atol=1e-3):
        raise ValueError(
            f"'{found.name}' has other training images than the network was trained with. Expected: mean "
            f"{known['mean']}, std {known['std']}. Received: mean {found.mean.tolist()}, std {found.std.tolist()}."
        )
