"""`load` and `evaluate`: load a trained network by name, or measure it again."""

import functools

import numpy as np

from anytime_keras import data as data_sets
from anytime_keras import evaluation, graph
from anytime_keras._checks import check_int
from anytime_keras.inference import EANN
from anytime_keras.models.registry import NETWORKS
from anytime_keras.zoo import arrays, catalog, places
from anytime_keras.zoo.manifest import ENSEMBLE

TRAINABLE = (True, "heads", False)
# The arguments of `ak.data.load` that are taken from a manifest's recipe; none may refer to files.
DATA_ARGUMENTS = ("data", "validation", "test", "image_size", "split_seed")


def load(name, weights="default", num_classes=None, trainable=True):
    """Loads a trained network by name.

    Each load verifies the files against the manifest's hashes. Downloaded files are cached in `ANYTIME_KERAS_CACHE` or
    `~/.cache/anytime_keras` and are then available offline.

    Args:
        name: str, one of `ak.zoo.list()`.
        weights: str, the label of the weights, usually a data set's name; `"default"` for the manifest's default; None
            for an untrained network with the default's configuration.
        num_classes: int or None. If it differs from the trained number, each exit's last linear layer is replaced by an
            untrained one with this many classes. All other layers keep their trained weights.
        trainable: True; `"heads"` to train only the exits' heads and freeze all other layers, including their batch
            normalisation; or False to freeze all layers.

    Returns:
        An `AnytimeModel`, not compiled, with its `preprocessor` and, unless `num_classes` differs, its `class_names`;
        or an `EANN` of such models, if the name is that of an ensemble.

    Raises:
        ValueError: if the name or label is unknown, there are no trained weights (the error names the command that
            trains them), or a file does not match the manifest.
        OSError: if a file is neither cached nor downloadable.

    Example:
    >>> import anytime_keras as ak
    >>> ak.zoo.load("resann2x16_adaloss_digits").exit_names
    ['exit_1', 'exit_2', 'exit_3', 'exit_4', 'exit_5', 'exit_6']
    """
    if trainable not in TRAINABLE or isinstance(trainable, int) and not isinstance(trainable, bool):
        raise ValueError(f"`trainable` must be one of {TRAINABLE}. Received: trainable={trainable!r}.")
    num_classes = None if num_classes is None else check_int("num_classes", num_classes)
    if weights is not None and not isinstance(weights, str):
        raise ValueError(f"`weights` must be a label, 'default' or None. Received: weights={weights!r}.")
    manifest, home = catalog.find(name)
    entry = manifest.pick("default" if weights is None else weights)
    if weights is not None and not entry.trained:
        raise ValueError(f"'{name}' has no weights for '{entry.label}' yet. {_how_to_train(manifest, entry)}")
    if manifest.architecture == ENSEMBLE:
        return _load_ensemble(name, entry, weights, num_classes, trainable)
    fresh = num_classes is not None and num_classes != entry.config["num_classes"]
    if fresh and trainable is False and weights is not None:
        raise ValueError(
            f"`trainable=False` needs the trained number of classes, {entry.config['num_classes']}. Received: "
            f"num_classes={num_classes}, which needs untrained layers. Pass `trainable='heads'`, or omit `num_classes`."
        )
    files = [(file.path, places.read_file(file, home)) for file in entry.files] if weights is not None else []
    model = build(manifest, entry, num_classes)
    if weights is not None:
        last_layers = [model.get_layer(exit) for exit in model.exit_names] if fresh else []
        fill(model, files, {variable.path for layer in last_layers for variable in layer.weights})
        model.preprocessor = entry.preprocessor
        if not fresh:
            model.inference, model.class_names = entry.content["inference"], entry.class_names
    freeze(model, trainable)
    return model


def _load_ensemble(name, entry, weights, num_classes, trainable):
    """Returns the `EANN` of an entry, after checking that the members have the weights with which it was measured."""
    if weights is None or num_classes not in (None, entry.config["num_classes"]):
        raise ValueError(
            f"'{name}' is an ensemble, whose used exits were chosen for its trained members. Received: "
            f"weights={weights!r}, num_classes={num_classes!r}. Omit them, or load the members: {entry.members}."
        )
    manifests = [catalog.show(member) for member, _ in entry.members]
    for manifest in manifests:
        if manifest.architecture == ENSEMBLE:
            raise ValueError(f"The members of '{name}' must be single networks. Received: ensemble '{manifest.name}'.")
    files = [file for manifest, (_, label) in zip(manifests, entry.members) for file in manifest.pick(label).files]
    if files != entry.files:
        raise ValueError(
            f"The members of '{name}' must have the weights with which the ensemble was measured, but some were "
            f"replaced since. `anytime-keras zoo ensemble {name} --weights={entry.label}` measures it again."
        )
    members = [load(member, label, trainable=trainable) for member, label in entry.members]
    return EANN.from_errors(members, entry.config["errors"], entry.content["inference"])


def build(manifest, entry, num_classes=None):
    """Builds the untrained network of an entry of a `Manifest`, after checking the entry's parameters and exits.

    `num_classes` replaces the entry's number of classes.
    """
    model = make(manifest.architecture, entry.config, manifest.name)
    names = [exit["name"] for exit in entry.content["exits"]]
    if model.count_params() != entry.content["params"] or model.exit_names != names:
        raise ValueError(
            f"The manifest of '{manifest.name}' must describe its configuration. Expected: {model.count_params()} "
            f"parameters, exits {model.exit_names}. Received: {entry.content['params']} parameters, exits {names}."
        )
    if num_classes in (None, entry.config["num_classes"]):
        return model
    return make(manifest.architecture, {**entry.config, "num_classes": num_classes}, manifest.name)


def make(architecture, config, name):
    """Builds an untrained network of a registered family from its complete configuration; see `Manifest`."""
    family, _ = NETWORKS[architecture]
    return family(**config, name=name)


def fill(model, files, leave_out=()):
    """Loads the weights in files, pairs of a name and the content, into a network."""
    shapes = {variable.path: variable.shape for variable in model.weights}
    shapes.update(dict.fromkeys(leave_out))  # None allows any shape
    found = {}
    for name, content in files:
        part = arrays.unpack(content, shapes, name)
        if twice := sorted(set(found) & set(part)):
            raise ValueError(f"'{name}' contains '{twice[0]}', which an earlier file contains already.")
        found.update(part)
    arrays.assign(model, found, leave_out)


def freeze(model, trainable):
    """Sets which layers are trainable; see `load`."""
    if trainable != "heads":
        model.trainable = trainable
        return
    for layer in model.layers:
        layer.trainable = graph.in_named_head(layer, model.exit_names)


def _how_to_train(manifest, entry):
    trained = [label for label, other in manifest.weights.items() if other.trained]
    others = f" Trained: {', '.join(map(repr, trained))}." if trained else ""
    how = "`weights=None` builds it untrained."
    if entry.content["recipe"] is not None:
        how = f"`anytime-keras zoo train {manifest.name} --weights={entry.label}` trains it, {how}"
    return f"{how}{others}"


def golden(entry, home):
    """Returns an entry's golden pair, an input of shape `(1, ...)` and a dict from exits to logits."""
    shape = tuple(entry.config["input_shape"])
    shapes = {exit["name"]: (1, entry.config["num_classes"]) for exit in entry.content["exits"]}
    found = arrays.unpack(places.read_file(entry.golden, home), {"input": (1, *shape), **shapes}, entry.golden.path)
    if missing := sorted({"input", *shapes} - set(found)):
        raise ValueError(f"'{entry.golden.path}' lacks '{missing[0]}'.")
    return found.pop("input"), {name: found[name] for name in shapes}


def evaluate(name, weights="default", data=None, data_dir=None, download=True):
    """Measures a network of the zoo again, on the split that its manifest records.

    Args:
        name: str, one of `ak.zoo.list()`.
        weights: str, the label of the weights, or `"default"`.
        data: `ak.data.DataSet`; None loads the data set named in the manifest.
        data_dir, download: as in `ak.data.load`, used if `data` is None.

    Returns:
        A `Curve`, with the list of the manifest's accuracies in `about["manifest"]`.

    Raises:
        ValueError: as in `load`, or if the data set's classes or statistics differ from those of the training.

    Example:
    >>> import anytime_keras as ak
    >>> len(ak.zoo.evaluate("resann2x16_adaloss_digits"))
    6
    """
    entry = catalog.show(name).pick(weights)
    model = load(name, entry.label, trainable=False)
    measured = entry.content["measured"]
    data_set = data if data is not None else _load_data(entry, data_dir, download)
    _check_data(entry, data_set)
    images = getattr(data_set, measured["split"]) if measured["split"] in data_set.sizes else None
    if images is None:
        raise ValueError(f"'{data_set.name}' has no split '{measured['split']}'. Its splits: {sorted(data_set.sizes)}.")
    measure = model.curve if isinstance(model, EANN) else functools.partial(evaluation.evaluate, model)
    curve = measure(images, name=name)
    curve.about.update(split=measured["split"], data=data_set.describe(), manifest=entry.accuracies)
    return curve


def data_set(name, weights="default", data=None, data_dir=None, download=True):
    """Returns the `DataSet` of a network of the zoo, with the splits of its training and without augmentation."""
    entry = catalog.show(name).pick(weights)
    found = _load_data(entry, data_dir, download, data)
    if data is None:
        _check_data(entry, found)
    return found


def holds_out(name, weights, data):
    """Returns whether a data set's validation images were held out when a network of the zoo was trained.

    If the same images are stored in another order, others are held out. The mean of the training images shows it.
    """
    known = catalog.show(name).pick(weights).content["data"]
    return known["sizes"] == data.sizes and np.allclose(data.mean, known["mean"], rtol=0, atol=1e-6)


def _load_data(entry, data_dir, download, data=None):
    known, recipe = entry.content["data"], entry.content["lineage"][-1]["recipe"].get("data")
    recipe = recipe if isinstance(recipe, dict) else {}
    arguments = {key: value for key, value in recipe.items() if key in DATA_ARGUMENTS}
    arguments.update(data=data or known["name"], split_seed=known["split_seed"])
    return data_sets.load(**arguments, augment=None, data_dir=data_dir, download=download)


def _check_data(entry, found):
    known = entry.content["data"]
    if found.class_names != known["class_names"]:
        differing = sorted(set(found.class_names) ^ set(known["class_names"])) or "their order"
        raise ValueError(f"'{found.name}' must have the classes of the training. Different: {str(differing):.200}.")
    if not np.allclose(found.mean, known["mean"], atol=1e-3) or not np.allclose(found.std, known["std"], atol=1e-3):
        raise ValueError(
            f"'{found.name}' must have the training images that the network was trained with. Expected: mean "
            f"{known['mean']}, std {known['std']}. Received: mean {found.mean.tolist()}, std {found.std.tolist()}."
        )
