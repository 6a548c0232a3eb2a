"""Presets: finds, loads, saves and uploads what a `Classifier` consists of."""

import os
import pathlib
import re
import tempfile
import zipfile

import keras

from anytime_keras import _errors, _files, zoo
from anytime_keras.classifier import card, facts
from anytime_keras.conversion.runtimes import installed
from anytime_keras.export.reader import ExportedModel
from anytime_keras.export.reader.description import DESCRIPTION
from anytime_keras.inference import EANN, ensemble
from anytime_keras.models import AnytimeModel
from anytime_keras.preprocessing import Preprocessor
from anytime_keras.zoo import catalog

FORMAT = 1
HUB = "hf://"
REMEDY = "Check the name, the network connection and, for private repositories, the login."
# One of these files is in each folder that is a preset: of a Keras model, an ensemble or an exported set.
NETWORKS = ("model.keras", ensemble.DESCRIPTION, DESCRIPTION)
SUFFIXES = (".keras", ".h5", ".hdf5")  # that Keras loads
DAMAGED = (OSError, TypeError, KeyError, zipfile.BadZipFile)  # what Keras raises for damaged files, besides ValueError
# The files of a preset, and no others, are downloaded.
FILES = ("model.keras", "preset.json", "README.md", "data.json", "recipe.json", "curve.json")
FILES += (ensemble.DESCRIPTION, "member_*.keras")
KINDS = (
    "a name of the zoo, the folder of a finished training, of a saved preset, of an `EANN` or of an exported set, a "
    ".keras file, or hf://user/model"
)


def load(preset, weights="default", num_threads=None):
    """Loads a preset and returns the arguments of `Classifier` that it contains, a dict; see `Classifier.from_preset`.

    `num_threads` is for exported sets.
    """
    if not isinstance(preset, (str, os.PathLike)) or not str(preset):
        raise ValueError(f"`preset` must be {KINDS}. Received: {preset!r:.60}.")
    text, path = os.fspath(preset), pathlib.Path(preset)
    exists = text.startswith(HUB) or path.is_file() or any((path / name).is_file() for name in NETWORKS)
    if exists and weights != "default":
        raise ValueError(f"`weights` is for names of the zoo. Received: weights={weights!r} for '{text}'. Omit it.")
    if text.startswith(HUB):
        return _of_folder(_downloaded(text))
    if (path / DESCRIPTION).is_file():
        model = ExportedModel(path, num_threads)
        return {"model": model, "about": {"name": model.description["model"]}}
    if exists:
        return {"model": load_keras(path)} if path.is_file() else _of_folder(path)
    if path.is_dir():
        raise ValueError(
            f"The folder '{path}' contains no network. Expected one of the files {', '.join(NETWORKS)}, as in the "
            "folder of a finished training, an ensemble or an exported set."
        )
    if len(path.parts) > 1 or path.suffix:
        raise ValueError(f"There is no file or folder '{path}'. Pass {KINDS}.")
    if catalog.home_of(text) is None:
        hint = _errors.guess(text, catalog.known_names())
        raise ValueError(
            f"There is no preset '{text}'. {hint}{' ' if hint else ''}Pass {KINDS}. The zoo's names are those of "
            "`ak.zoo.list()` and `anytime-keras zoo list`."
        )
    manifest = zoo.show(text)
    entry = manifest.pick(weights)
    return {"model": zoo.load(text, entry.label), "about": facts.of_manifest(manifest, entry)}


def load_keras(file):
    """Loads a `.keras` file, or raises ValueError."""
    suffix = pathlib.Path(file).suffix
    if suffix not in SUFFIXES:
        raise ValueError(f"A file of a network must end in {' or '.join(SUFFIXES)}. Received: '{file}'.")
    if suffix == ".keras" and not zipfile.is_zipfile(file):  # Keras says that there is no file
        raise ValueError(f"'{file}' cannot be loaded as a Keras model: it is empty, truncated or of another format.")
    with _errors.explained(f"'{file}' cannot be loaded as a Keras model: ", ValueError, *DAMAGED):
        return keras.saving.load_model(file)


def _of_folder(folder):
    """Loads a saved preset, an ensemble or the folder of a training."""
    saved = (folder / "preset.json").is_file()
    found = _described(folder / "preset.json") if saved else {"about": facts.of_training(folder)}
    if (folder / "model.keras").is_file():
        return {"model": load_keras(folder / "model.keras"), **found}
    with _errors.explained(f"'{folder}' cannot be loaded as an ensemble: ", *DAMAGED):
        return {"model": EANN.load(folder), **found}


def _described(path):
    """Returns the arguments of `Classifier` in the file `preset.json`."""
    content = facts.read_json(path)
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}; this version reads {FORMAT}")
        preprocessor = Preprocessor.from_config(content["preprocessor"])
        names, about = list(content["class_names"]), dict(content["about"])
        return {"preprocessor": preprocessor, "class_names": names, "about": about}
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no field {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise ValueError(
            f"'{path}' must be a file that `Classifier.save_to_preset` wrote. Received: {reason}."
        ) from error


def save(classifier, folder, overwrite=False):
    """Writes a classifier to a folder; see `Classifier.save_to_preset`."""
    model = classifier.model
    if isinstance(model, ExportedModel):
        raise ValueError(
            "Only a Keras model can be saved as a preset. Received: a classifier of the exported set in "
            f"'{model.path}'. Copy that folder, which is a preset too."
        )
    if str(folder).lower().startswith("hf:"):
        raise ValueError(f"`folder` must be a folder on this machine. Received: '{folder}'. Use `upload_preset`.")
    folder = _files.check_folder(folder, "preset.json", "a preset", overwrite)
    with _files.writing_folder(folder, overwrite) as new:
        if isinstance(model, AnytimeModel) and model.preprocessor is None:
            model.preprocessor, model.class_names = classifier.preprocessor, classifier.class_names
        model.save(new if isinstance(model, EANN) else new / "model.keras")
        content = {"format": FORMAT, "preprocessor": classifier.preprocessor.get_config()}
        content.update(class_names=classifier.class_names, about=classifier.about)
        _files.to_json(content, new / "preset.json")
        (new / "README.md").write_text(card.text(classifier))
        if (curve := facts.curve(classifier.about)) is not None:
            curve.plot(new / card.PLOT, title=classifier.about.get("name"))
    return folder


def upload(classifier, uri, private=False):
    """Uploads a classifier to the Hugging Face Hub; see `Classifier.upload_preset`."""
    repository, hub = _repository(uri), installed("huggingface_hub", "huggingface_hub")
    with tempfile.TemporaryDirectory() as scratch:
        folder = save(classifier, pathlib.Path(scratch, "preset"))
        (folder / "README.md").write_text(card.text(classifier, uri))
        with _explained(f"'{uri}' cannot be uploaded: "):
            hub.create_repo(repository, private=private, exist_ok=True)
            hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload a classifier")
    return f"https://huggingface.co/{repository}"


def _downloaded(uri):
    """Downloads a preset from the Hugging Face Hub, or finds it in the Hub's cache, and returns its folder."""
    repository, hub = _repository(uri), installed("huggingface_hub", "huggingface_hub")
    with _explained(f"'{uri}' cannot be downloaded: "):
        folder = pathlib.Path(hub.snapshot_download(repository, allow_patterns=list(FILES)))
    if not any((folder / name).is_file() for name in NETWORKS[:2]):
        raise ValueError(f"'{uri}' is not a preset of this library. Expected: {' or '.join(NETWORKS[:2])} in it.")
    return folder


def _repository(uri):
    if not isinstance(uri, str) or not re.fullmatch(r"hf://[\w.-]+/[\w.-]+", uri):
        raise ValueError(f"A preset on the Hugging Face Hub is named hf://user/model. Received: {uri!r}.")
    return uri.removeprefix(HUB)


def _explained(message):
    """Turns errors of huggingface_hub, of its HTTP client and of the system into OSError."""
    return _errors.explained(message, Exception, end=f" {REMEDY}", raised=OSError, form=_first_line)


def _first_line(error):
    lines = str(error).strip().splitlines()
    return f"{(lines[0] if lines else type(error).__name__).rstrip('.')}."
