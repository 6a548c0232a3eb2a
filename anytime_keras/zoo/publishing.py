"""`publish` writes a trained network to a zoo, with its manifest, weights and golden pair."""

import dataclasses
import json

from anytime_keras import _files, evaluation, models, runtime
from anytime_keras.cost import exit_costs
from anytime_keras.evaluation.evaluate import batches
from anytime_keras.models.registry import NETWORKS
from anytime_keras.zoo import arrays, places, schema
from anytime_keras.zoo.facts import SOURCES, Facts, Reported
from anytime_keras.zoo.loading import fill, make
from anytime_keras.zoo.manifest import FORMAT, Manifest

SMALL_BYTES = 3_000_000  # of weights in `weights/` and in the wheel; larger ones are in `weights/large/`
PAPER = "https://arxiv.org/abs/1708.06832"


def publish(model, name, data, recipe=None, folder=None, label=None, precision="float32", **facts):
    """Writes a trained network to a zoo, with its weights, a golden pair and a manifest.

    The numbers in the manifest are measured on the stored weights. Existing weights are replaced only if the new ones
    are better on validation images, and the manifest's lineage records it.

    Args:
        model: trained `AnytimeModel` of a family that `ak.models.build` knows.
        name: str of lowercase letters, digits and underscores, `{architecture}_{weighting}`, followed by the data set
            if the network is for one data set only. A name can have weights for several data sets.
        data: the `ak.data.DataSet` of the training. The accuracies are measured on its test images, or on validation
            images if it has none. Or a `Reported`, with accuracies that others measured.
        recipe: `ak.training.Recipe` or None. Provides the seed, epochs and weighting. If it has an `init`, the lineage
            of the existing weights continues; otherwise a new one starts.
        folder: directory of the zoo; defaults to the checkout's.
        label: str, the label of the weights; defaults to the data set's name. It also replaces a data set's name that
            is a path.
        precision: `"float32"`, or `"float16"` to store kernels in half the bytes.
        **facts: `description`, `reference` (an address), `licence` of the weights, `source` and `data_licence` of the
            data, the `epochs`, `images` and `minutes` of the training, `seed`, `machine` of the training (None for this
            one), `note`, `weighting` (a dict with `name`), and the errors on validation images at each exit of the
            replaced weights (`before`) and of the new ones (`after`). `replace` is the reason to replace weights that
            cannot be compared so; the lineage contains it.

    Returns:
        The `Manifest`.

    Raises:
        ValueError: if an argument is not valid, or such weights exist and `before` and `after` do not show that the new
            ones are better. In this case nothing is written.

    Example:
    >>> import tempfile, anytime_keras as ak
    >>> data = ak.data.load("digits")
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> folder = tempfile.mkdtemp()  # call `model.fit(data.train, ...)` first
    >>> ak.zoo.publish(model, "resann1x4_const", data, folder=folder, weighting={"name": "constant"}, epochs=0)
    Manifest('resann1x4_const', weights=['digits'])
    """
    label = label or data.name
    facts = Facts.of(facts)
    if isinstance(data, Reported):
        data.check(model)
        facts.machine = facts.machine or {"reported": data.reference}
    zoo, before = open_zoo(folder, name, label)
    old = before.weights[label].content if before is not None and label in before.weights else None
    if old is not None and old["files"] and facts.replace is None:
        _check_better(name, label, facts)
    data_name = data.name if schema.DATA_NAME.fullmatch(data.name) else label
    content = _begin(model, name, label, data_name, before, recipe, facts)
    entry = content["weights"][label]
    shards = arrays.shards(arrays.of_model(model), precision)
    stored = make(content["architecture"], entry["config"], name)
    fill(stored, [(name, shard) for shard in shards])
    with runtime.full_precision():
        reported = isinstance(data, Reported)
        golden_pair = data.fill(entry, model, stored) if reported else _measure(stored, data, entry)
    lineage = old["lineage"] if old is not None and recipe is not None and recipe.init is not None else []
    entry["lineage"] = [*lineage, _cycle(recipe, facts)]
    entry.update(precision=precision, inference=model.inference)
    if recipe is None and old is not None:
        entry["recipe"] = old["recipe"]

    large = "large/" if sum(map(len, shards)) > SMALL_BYTES else ""
    # New file names, so that the old files stay intact until the manifest refers to the new ones.
    version = f"-{_files.sha256(b''.join(shards))[:8]}" if old is not None and old["files"] else ""
    place = f"weights/{large}{stem(name, label)}{version}"
    numbers = [""] if len(shards) == 1 else [f"-{number}of{len(shards)}" for number in range(1, len(shards) + 1)]
    files = {f"{place}{number}.npz": shard for number, shard in zip(numbers, shards)}
    entry["files"] = [_file(path, shard) for path, shard in files.items()]
    golden = f"weights/{stem(name, label)}{version}-golden.npz"
    files[golden] = arrays.pack(golden_pair)
    entry["golden"] = _file(golden, files[golden])
    manifest = write(zoo, content, files)
    for file in [*old["files"], old["golden"]] if old is not None and old["files"] else ():
        if file["path"] not in files:
            (zoo.path / file["path"]).unlink(missing_ok=True)
    return manifest


def better(before: list[float], after: list[float]) -> bool:
    """Returns whether errors improved: a lower mean over the exits, and no higher error at the last exit.

    >>> better([0.4, 0.2], [0.3, 0.2]), better([0.4, 0.2], [0.1, 0.21])
    (True, False)
    """
    return sum(after) < sum(before) and after[-1] <= before[-1]


def _check_better(name, label, facts):
    if facts.before is None or facts.after is None:
        raise ValueError(
            f"'{name}' already has weights '{label}'. To replace them, pass their errors on validation images as "
            "`before` and those of the new ones as `after`, as `anytime-keras zoo train` does; or choose another name."
        )
    if not better(facts.before, facts.after):
        raise ValueError(
            f"To replace the weights '{label}' of '{name}', the new ones must have a lower mean error over the exits "
            "on validation images, and no higher error at the last exit. "
            f"Received: before={facts.before}, after={facts.after}."
        )


def _cycle(recipe, facts):
    """Returns the lineage's entry for a training cycle."""
    epochs = facts.epochs if facts.epochs is not None else getattr(recipe, "epochs", None) or 0
    return {
        "recipe": _recipe_dict(recipe),
        "seed": recipe.seed if recipe is not None else facts.seed,
        "epochs": epochs,
        "commit": runtime.commit(),
        "machine": facts.machine or runtime.machine(),
        "note": facts.replace or facts.note,
        **{name: getattr(facts, name) for name in ("images", "minutes", "before", "after")},
    }


def announce(recipe, name, label=None, folder=None, **facts):
    """Writes and returns the `Manifest` of a network to be trained, without weights and accuracies.

    Args:
        recipe: `Recipe` whose model has an `input_shape` and `num_classes`.
        name, label, folder, facts: as in `publish`.

    Raises:
        ValueError: if an argument is not valid, or the name already has trained weights.

    Example:
    >>> import tempfile, anytime_keras as ak
    >>> model = {"name": "resann", "num_units": 1, "channels": 4, "input_shape": (32, 32, 3), "num_classes": 10}
    >>> manifest = ak.zoo.announce(ak.training.Recipe.paper(model, "cifar10"), "resann1x4", folder=tempfile.mkdtemp())
    >>> manifest.pick().trained, manifest.pick().macs
    (False, [405544, 626808, 848152])
    """
    data_name = str(recipe.data["data"])
    label = label or data_name
    facts = Facts.of(facts)
    zoo, before = open_zoo(folder, name, label)
    if before is not None and label in before.weights and before.weights[label].trained:
        raise ValueError(f"'{name}' already has trained weights '{label}'. Choose another name or label.")
    for key in ("input_shape", "num_classes"):
        if key not in recipe.model:
            raise ValueError(f"`recipe.model` must contain `{key}`, because no data is read. Received: {recipe.model}.")
    return write(zoo, _begin(models.build(**recipe.model), name, label, data_name, before, recipe, facts), {})


def stem(name: str, label: str) -> str:
    """Returns the stem of the file names of a network's weights.

    >>> stem("msdnet33_adaloss", "tiny_imagenet"), stem("resann5x16_adaloss_digits", "digits")
    ('msdnet33_adaloss_tiny_imagenet', 'resann5x16_adaloss_digits')
    """
    return name if name.endswith(f"_{label}") else f"{name}_{label}"


def write_index(folder):
    """Writes a zoo's `index.json`, which sites need."""
    _files.put(folder / "index.json", _index(folder))


def _index(folder):
    manifests = {}
    for name in places.Folder(folder).names():
        path = f"manifests/{name}.json"
        manifests[name] = _file(path, (folder / path).read_bytes())
    return (json.dumps({"format": FORMAT, "manifests": manifests}, indent=1) + "\n").encode()


def open_zoo(folder, name, label):
    """Returns a zoo to publish to, with its index up to date, and the existing manifest of the name, or None."""
    schema.check_name(name, "`name`")
    schema.check_name(label, "`label`")
    if folder is None:
        folder = places.own().path
        if folder.name == "_zoo":
            raise ValueError("An installed package's zoo is read-only. Pass the `folder` of your own zoo.")
    zoo = places.Folder(folder)
    index = zoo.path / "index.json"
    if zoo.names() and not (index.exists() and index.read_bytes() == _index(zoo.path)):
        write_index(zoo.path)
    return zoo, zoo.manifest(name) if name in zoo.names() else None


def check_whole(recipe):
    """Raises ValueError if a recipe trains only a part of a network, because the zoo's networks are complete."""
    if recipe is not None and recipe.last_exit is not None:
        raise ValueError(
            f"A zoo's networks must have all exits. Received: a recipe with last_exit={recipe.last_exit!r}. Omit it, "
            "or build a smaller network."
        )


def _begin(model, name, label, data_name, before, recipe, facts):
    """Returns a manifest's content with an entry for an untrained network."""
    check_whole(recipe)
    architecture = _architecture(model, recipe)
    if before is not None and NETWORKS.get(before.architecture, (None,))[0] is not NETWORKS[architecture][0]:
        raise ValueError(f"'{name}' must have the architecture '{before.architecture}'. Received: '{architecture}'.")
    source, terms = SOURCES.get(data_name, (None, None))
    source, terms = facts.source or source, facts.data_licence or terms
    if source is None or terms is None:
        raise ValueError(f"The origin of '{data_name}' is unknown. Pass `source=...` and `data_licence=...`.")
    weighting = facts.weighting or (recipe.weighting if recipe is not None else None)
    if weighting is None:
        raise ValueError("Without a recipe, pass the weighting of the exits, such as `weighting={'name': 'adaloss'}`.")
    entry = {
        "config": _config(model),
        "data": dict(name=data_name, source=source, licence=terms, class_names=None, mean=None, std=None, sizes=None),
        "params": model.count_params(),
        "exits": [
            {"name": costs.pop("exit"), **costs, "accuracy": None, "loss": None}
            for costs in map(dataclasses.asdict, exit_costs(model))
        ],
        "weighting": weighting,
        "recipe": {**_recipe_dict(recipe), "init": None} if recipe is not None else None,
        "licence": facts.licence,
        "files": [],
        "lineage": [],
        **dict.fromkeys(("precision", "golden", "measured", "inference")),
    }
    entry["data"]["split_seed"] = recipe.data.get("split_seed", 0) if recipe is not None else 0
    return with_entry(before, name, architecture, label, entry, facts)


def with_entry(before, name, architecture, label, entry, facts):
    """Returns the content of a manifest, that of `before` if it is not None, with an entry for the label."""
    old = before.content if before is not None else {}
    return {
        "format": FORMAT,
        "name": name,
        "description": facts.description or old.get("description", name),
        "reference": facts.reference or old.get("reference", PAPER),
        "architecture": old.get("architecture", architecture),
        "default": old.get("default", label),
        "weights": {**old.get("weights", {}), label: entry},
    }


def _architecture(model, recipe):
    """Returns the name with which `ak.models.build` builds a network of this class."""
    own = [name for name, (family, _) in NETWORKS.items() if family is type(model)]
    if not own:
        raise ValueError(
            "Only networks of `ak.models.build` can be published, because loading must not run other code. "
            f"Received: {type(model).__name__}. Save other models with `model.save('model.keras')`."
        )
    if recipe is not None and recipe.model["name"] in own:
        return recipe.model["name"]
    config = _config(model)
    agreeing = [name for name in own if all(config[key] == _plain(value) for key, value in NETWORKS[name][1].items())]
    return max(agreeing or own[:1], key=lambda name: len(NETWORKS[name][1]))


def _config(model):
    config = model.get_config().items()
    return _plain({key: value for key, value in config if key not in ("name", "trainable", "dtype")})


def _plain(value):
    return json.loads(json.dumps(value))


def _recipe_dict(recipe):
    """Returns a recipe's dict without directories of this machine."""
    if recipe is None:
        return {}
    content = recipe.to_dict()
    content["data"] = {key: value for key, value in content["data"].items() if key not in ("data_dir", "download")}
    return _plain(content)


def _measure(model, data, entry):
    """Adds accuracies and their data to an entry, and returns a golden pair."""
    split = "test" if "test" in data.sizes else "validation"
    images = getattr(data, split)
    curve = evaluation.evaluate(model, images)
    for exit, point in zip(entry["exits"], curve):
        exit.update(accuracy=1 - point.error, loss=point.loss)
    described = data.describe()
    entry["data"].update({key: described[key] for key in ("class_names", "mean", "std", "sizes", "split_seed")})
    entry["measured"] = measured(curve, split, data)
    x = runtime.finish(next(batches(images))[0])[:1]
    return {"input": x, **runtime.finish(model(x, training=False))}


def measured(curve, split, data):
    """Returns what a manifest contains about a measurement."""
    return {"split": split, "split_seed": data.split_seed, **{key: curve.about[key] for key in ("images", "machine")}}


def _file(path, content):
    return {"path": path, "sha256": _files.sha256(content), "bytes": len(content)}


def write(zoo, content, files):
    """Writes files, then the manifest that refers to them, then the index. Removes written files on failure."""
    manifest = Manifest(_plain(content))
    files = {zoo.path / path: file for path, file in files.items()}
    for path, file in files.items():
        if path.exists() and path.read_bytes() != file:
            raise ValueError(f"'{path}' exists already with other content. Choose another name.")
    written = []
    try:
        for path, file in files.items():
            _files.put(path, file)
            written.append(path)
        _files.put(zoo.path / "manifests" / f"{manifest.name}.json", manifest.to_json().encode())
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    write_index(zoo.path)
    return manifest
