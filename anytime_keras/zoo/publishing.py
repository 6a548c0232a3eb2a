"""`publish`: a trained network in; a manifest, weights and a golden pair in a zoo out."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib

import keras

from anytime_keras import _errors, evaluation, models, runtime
from anytime_keras.cost import exit_costs
from anytime_keras.evaluation.evaluate import batches
from anytime_keras.models.registry import NETWORKS
from anytime_keras.zoo import arrays, cache, places, schema
from anytime_keras.zoo.loading import make
from anytime_keras.zoo.manifest import FORMAT, Manifest

# Weights up to this size travel in the wheel, from `weights/`; larger ones lie in `weights/large/`.
SMALL_BYTES = 3_000_000
PAPER = "https://arxiv.org/abs/1708.06832"
# Where a data set comes from and on what terms, as its makers say.
SOURCES = {
    "digits": (
        "Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998), UCI Machine Learning Repository, "
        "test part as bundled with scikit-learn, https://doi.org/10.24432/C50P49",
        "CC BY 4.0",
    ),
    "cifar10": ("Krizhevsky, 2009, https://www.cs.toronto.edu/~kriz/cifar.html", "none stated; asks for citation"),
    "cifar100": ("Krizhevsky, 2009, https://www.cs.toronto.edu/~kriz/cifar.html", "none stated; asks for citation"),
    "tiny_imagenet": (
        "Stanford CS231n, a subset of ImageNet (Deng et al., 2009), http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "ImageNet's terms: research and education, not commercial",
    ),
}


@dataclasses.dataclass
class Facts:
    """What `publish` cannot measure; see there."""

    description: str = ""
    reference: str | None = None
    licence: str = "Apache-2.0"
    source: str | None = None
    data_licence: str | None = None
    epochs: float | None = None
    images: int | None = None
    seed: int = 0
    minutes: float | None = None
    machine: dict | None = None
    note: str | None = None
    weighting: dict | None = None
    before: list | None = None
    after: list | None = None

    @classmethod
    def of(cls, facts):
        known = [field.name for field in dataclasses.fields(cls)]
        for key in facts:
            if key not in known:
                raise ValueError(f"`publish` knows no fact `{key}`. {_errors.nearest(key, known)}")
        return cls(**facts)


def publish(model, name, data, recipe=None, folder=None, label=None, precision="float32", **facts):
    """Writes a trained network to a zoo: its weights, a golden pair, and the manifest that describes them.

    What the manifest says is measured on the network as it is loaded from the written files. Weights that are there
    already are replaced if the new ones are better on validation images, and the manifest's lineage says so.

    Args:
        model: trained `AnytimeModel` of one of the families that `ak.models.build` knows.
        name: str, of small letters, digits and underscores: `{architecture}_{weighting}`, with the data set behind it
            if the network is for that alone. A zoo's name can have weights for several data sets.
        data: the `ak.data.DataSet` that it was trained with; its test images, or else validation's, are measured.
        recipe: `ak.training.Recipe` or None. Its seed, epochs and weighting are taken over. If it has an `init`, the
            lineage of the weights that are there goes on; otherwise a new one starts.
        folder: the zoo; None for the checkout's own.
        label: str, what these weights are called, and data that has no plain name; None for the data set's name.
        precision: `"float32"`, or `"float16"` for kernels stored in half the bytes.
        **facts: `description`, `reference` (an address), `licence` of the weights, `source` and `data_licence` of the
            data, the `epochs`, `images` and `minutes` of the training, `seed`, `machine` that trained (None for this
            one), `note`, `weighting` (a dict with `name`), the errors on validation images at each exit of the weights
            that are replaced (`before`) and of these (`after`).

    Returns:
        The `Manifest`.

    Raises:
        ValueError: if an argument does not fit, or the name has such weights already and `before` and `after` do not
            show that the new ones are better. Nothing has been written then.

    Example:
    >>> import tempfile, anytime_keras as ak
    >>> data = ak.data.load("digits")
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> folder = tempfile.mkdtemp()  # and here `model.fit(data.train, ...)`, or the accuracies will show it
    >>> ak.zoo.publish(model, "resann1x4_const", data, folder=folder, weighting={"name": "constant"}, epochs=0)
    Manifest('resann1x4_const', weights=['digits'])
    """
    label = label or data.name
    facts = Facts.of(facts)
    zoo, before = open_zoo(folder, name, label)
    old = before.weights[label].content if before is not None and label in before.weights else None
    if old is not None and old["files"]:
        _check_better(name, label, facts)
    data_name = data.name if schema.DATA_NAME.fullmatch(data.name) else label
    content = _begin(model, name, label, data_name, before, recipe, facts)
    entry = content["weights"][label]
    shards = arrays.shards(arrays.of_model(model), precision)
    stored = make(content["architecture"], entry["config"], name)
    found = {}
    for shard in shards:
        found.update(arrays.unpack(shard, {variable.path: variable.shape for variable in stored.weights}, name))
    arrays.assign(stored, found)
    with _full_precision():
        golden_pair = _measure(stored, data, entry)
    lineage = old["lineage"] if old is not None and recipe is not None and recipe.init is not None else []
    entry["lineage"] = [*lineage, _cycle(recipe, facts)]
    entry.update(precision=precision, inference=model.inference)
    if recipe is None and old is not None:
        entry["recipe"] = old["recipe"]

    large = "large/" if sum(map(len, shards)) > SMALL_BYTES else ""
    # Files of another name, so that the old ones stay whole until the manifest names these.
    version = f"-{hashlib.sha256(b''.join(shards)).hexdigest()[:8]}" if old is not None and old["files"] else ""
    place = f"weights/{large}{stem(name, label)}{version}"
    numbers = [""] if len(shards) == 1 else [f"-{number}of{len(shards)}" for number in range(1, len(shards) + 1)]
    files = {f"{place}{number}.npz": shard for number, shard in zip(numbers, shards)}
    entry["files"] = [_file(path, shard) for path, shard in files.items()]
    golden = f"weights/{stem(name, label)}{version}-golden.npz"
    files[golden] = arrays.pack(golden_pair)
    entry["golden"] = _file(golden, files[golden])
    manifest = _write(zoo, content, files)
    for file in [*old["files"], old["golden"]] if old is not None and old["files"] else ():
        if file["path"] not in files:
            (zoo.path / file["path"]).unlink(missing_ok=True)
    return manifest


def better(before, after):
    """Tells whether errors are better than others: lower on average over the exits, and no higher at the last one.

    Args:
        before, after: lists of float, the errors at each exit on the same images.

    >>> better([0.4, 0.2], [0.3, 0.2]), better([0.4, 0.2], [0.1, 0.21])
    (True, False)
    """
    return sum(after) < sum(before) and after[-1] <= before[-1]


def _check_better(name, label, facts):
    if facts.before is None or facts.after is None:
        raise ValueError(
            f"'{name}' has weights '{label}' already. To replace them, pass their errors on the validation images as "
            "`before` and those of the new ones as `after` (`anytime-keras zoo train` does); or take another name."
        )
    if not better(facts.before, facts.after):
        raise ValueError(
            f"The weights '{label}' of '{name}' are replaced by better ones only: with a lower error on validation "
            "images on average over the exits, and no higher one at the last exit. "
            f"Received: before={facts.before}, after={facts.after}."
        )


def _cycle(recipe, facts):
    """Returns an entry of a lineage."""
    epochs = facts.epochs
    if epochs is None:
        epochs = recipe.epochs if recipe is not None and recipe.epochs is not None else 0
    return {
        "recipe": _recipe_dict(recipe),
        "seed": recipe.seed if recipe is not None else facts.seed,
        "epochs": epochs,
        "images": facts.images,
        "minutes": facts.minutes,
        "commit": runtime.commit(),
        "machine": facts.machine or runtime.machine(),
        "note": facts.note,
        "before": facts.before,
        "after": facts.after,
    }


def announce(recipe, name, label=None, folder=None, **facts):
    """Writes the manifest of a network that is to be trained: everything but weights and accuracies.

    Args:
        recipe: `Recipe`, whose model names its `input_shape` and `num_classes`.
        name, label, folder, facts: as in `publish`.

    Returns:
        The `Manifest`.

    Raises:
        ValueError: if an argument does not fit, or the name has trained weights already.

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
        raise ValueError(f"'{name}' has trained weights '{label}' already.")
    for key in ("input_shape", "num_classes"):
        if key not in recipe.model:
            raise ValueError(f"`recipe.model` must name `{key}`, since no data is read. Received: {recipe.model}.")
    return _write(zoo, _begin(models.build(**recipe.model), name, label, data_name, before, recipe, facts), {})


def stem(name, label):
    """Returns what the files of a name's weights are called.

    >>> stem("msdnet33_adaloss", "tiny_imagenet"), stem("resann5x16_adaloss_digits", "digits")
    ('msdnet33_adaloss_tiny_imagenet', 'resann5x16_adaloss_digits')
    """
    return name if name.endswith(f"_{label}") else f"{name}_{label}"


def write_index(folder):
    """Writes a zoo's `index.json`, by which it is read from a site."""
    folder = pathlib.Path(folder)
    _put(folder / "index.json", _index(folder))


def _index(folder):
    manifests = {}
    for name in places.Folder(folder).names():
        path = f"manifests/{name}.json"
        manifests[name] = _file(path, (folder / path).read_bytes())
    return (json.dumps({"format": FORMAT, "manifests": manifests}, indent=1) + "\n").encode()


def open_zoo(folder, name, label):
    """Returns a zoo to publish to, and the manifest that the name has there or None; raises where it may not.

    An index that is not of the zoo's manifests, since a process that published was killed, is written anew.
    """
    schema.check_name(name, "`name`")
    schema.check_name(label, "`label`")
    if folder is None:
        folder = places.own().path
        if folder.name == "_zoo":
            raise ValueError("An installed package's zoo stays as it is. Pass the `folder` of your own zoo.")
    zoo = places.Folder(folder)
    index = zoo.path / "index.json"
    if zoo.names() and not (index.exists() and index.read_bytes() == _index(zoo.path)):
        write_index(zoo.path)
    return zoo, zoo.manifest(name) if name in zoo.names() else None


def check_whole(recipe):
    """Raises ValueError if a recipe, or None, trains a part of a network: a zoo's networks are whole."""
    if recipe is not None and recipe.last_exit is not None:
        raise ValueError(
            "A zoo's networks have all exits of their families'. "
            f"Received: a recipe with last_exit={recipe.last_exit!r}. Leave it out, or build a smaller network."
        )


def _begin(model, name, label, data_name, before, recipe, facts):
    """Returns a manifest's content with an entry for a network that is not trained yet."""
    check_whole(recipe)
    architecture = _architecture(model, recipe)
    if before is not None and NETWORKS[before.architecture][0] is not NETWORKS[architecture][0]:
        raise ValueError(f"'{name}' is a '{before.architecture}' already. Received: a '{architecture}'.")
    source, terms = SOURCES.get(data_name, (None, None))
    source, terms = facts.source or source, facts.data_licence or terms
    if source is None or terms is None:
        raise ValueError(f"Say where '{data_name}' comes from, `source=...`, and on what terms, `data_licence=...`.")
    weighting = facts.weighting or (recipe.weighting if recipe is not None else None)
    if weighting is None:
        raise ValueError("Say how the exits were weighed: `weighting={'name': 'adaloss'}`. There is no recipe.")
    costs = exit_costs(model)
    entry = {
        "config": _config(model),
        "data": dict(name=data_name, source=source, licence=terms, class_names=None, mean=None, std=None, sizes=None),
        "params": model.count_params(),
        "exits": [
            {
                "name": cost.exit,
                "backbone": cost.backbone,
                "with_head": cost.with_head,
                "with_all_heads": cost.with_all_heads,
                "params": cost.params,
                "accuracy": None,
                "loss": None,
            }
            for cost in costs
        ],
        "weighting": weighting,
        "recipe": {**_recipe_dict(recipe), "init": None} if recipe is not None else None,
        "licence": facts.licence,
        "files": [],
        "lineage": [],
        **dict.fromkeys(("precision", "golden", "measured", "inference")),
    }
    entry["data"]["split_seed"] = recipe.data.get("split_seed", 0) if recipe is not None else 0
    old = before.content if before is not None else {}
    return {
        "format": FORMAT,
        "name": name,
        "description": facts.description or old.get("description", name),
        "reference": facts.reference or old.get("reference", PAPER),
        "architecture": before.architecture if before is not None else architecture,
        "default": before.default if before is not None else label,
        "weights": {**old.get("weights", {}), label: entry},
    }


def _architecture(model, recipe):
    """Returns the name by which `ak.models.build` makes a network of this class."""
    own = [name for name, (family, _) in NETWORKS.items() if family is type(model)]
    if not own:
        raise ValueError(
            f"Only the families of `ak.models.build` can be published, so that loading runs no other code. Received: "
            f"{type(model).__name__}. Save others with `model.save('model.keras')`."
        )
    if recipe is not None and recipe.model["name"] in own:
        return recipe.model["name"]
    config = _config(model)
    agreeing = [name for name in own if all(config[key] == _plain(value) for key, value in NETWORKS[name][1].items())]
    return max(agreeing or own[:1], key=lambda name: len(NETWORKS[name][1]))


def _config(model):
    return _plain(
        {key: value for key, value in model.get_config().items() if key not in ("name", "trainable", "dtype")}
    )


def _plain(value):
    return json.loads(json.dumps(value))


def _recipe_dict(recipe):
    """A recipe without this machine's folders."""
    if recipe is None:
        return {}
    content = recipe.to_dict()
    content["data"] = {key: value for key, value in content["data"].items() if key not in ("data_dir", "download")}
    return _plain(content)


def _measure(model, data, entry):
    """Puts accuracies and what they were measured on into an entry; returns a golden pair."""
    split = "test" if "test" in data.sizes else "validation"
    images = getattr(data, split)
    curve = evaluation.evaluate(model, images)
    for exit, point in zip(entry["exits"], curve):
        exit.update(accuracy=1 - point.error, loss=point.loss)
    described = data.describe()
    entry["data"].update({key: described[key] for key in ("class_names", "mean", "std", "sizes", "split_seed")})
    entry["measured"] = {
        "split": split,
        "images": curve.about["images"],
        "split_seed": data.split_seed,
        "machine": curve.about["machine"],
    }
    x = runtime.finish(next(batches(images))[0])[:1]
    return {"input": x, **runtime.finish(model(x, training=False))}


@contextlib.contextmanager
def _full_precision():
    """GPUs multiply float32 with 10 bits by default; what is written must be what a CPU finds."""
    if keras.backend.backend() == "jax":
        import jax

        with jax.default_matmul_precision("highest"):
            yield
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        before = tf.config.experimental.tensor_float_32_execution_enabled()
        tf.config.experimental.enable_tensor_float_32_execution(False)
        try:
            yield
        finally:
            tf.config.experimental.enable_tensor_float_32_execution(before)
    else:
        yield


def _file(path, content):
    return {"path": path, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _write(zoo, content, files):
    """Writes files, then the manifest that names them, then the index; what was written goes if that fails."""
    manifest = Manifest(_plain(content))
    for path, file in files.items():
        if (zoo.path / path).exists() and (zoo.path / path).read_bytes() != file:
            raise ValueError(f"'{zoo.path / path}' is there already, and another file. Take another name.")
    written = []
    try:
        for path, file in files.items():
            place = zoo.path / path
            _put(place, file)
            written.append(place)
        _put(zoo.path / "manifests" / f"{manifest.name}.json", manifest.to_json().encode())
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    write_index(zoo.path)
    return manifest


def _put(place, content):
    """Writes a whole file, and removes what a killed process left of it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for left in place.parent.glob(f"{place.name}.*.part"):
        left.unlink(missing_ok=True)
    cache.write(place, content)
