"""Classify images: by a deadline, within a budget, or exit by exit.

  anytime-keras predict resann5x16_adaloss cat.jpg dog.png --deadline_ms=5
  anytime-keras predict runs/a "photos/*.jpg" --top=5 --json

Arguments: a network, then images. The network is a name of the zoo, the folder of a training, of a saved preset or of
an exported set, a .keras file, or hf://user/model. The images are files, folders and patterns such as "*.png".
Of several images, those that cannot be decoded are reported, the others are classified, and the exit status is 1.
"""

import contextlib
import glob
import json
import os
import pathlib
import sys

import numpy as np
from absl import flags

import anytime_keras as ak
from anytime_keras.data import crops, folder
from anytime_keras.preprocessing import decoding

FLAGS = flags.FlagValues()
_own = dict(flag_values=FLAGS)
flags.DEFINE_float("deadline_ms", None, "Milliseconds for each image, with decoding and preprocessing.", 0.0, **_own)
flags.DEFINE_float("budget_macs", None, "Budget for each image, in multiply-accumulates.", lower_bound=0.0, **_own)
flags.DEFINE_bool("stream", False, "Print each exit's answer as soon as it is available.", **_own)
flags.DEFINE_integer("top", 1, "Number of classes to name, likeliest first.", lower_bound=1, **_own)
flags.DEFINE_bool("json", False, "Print a JSON list with an object for each answer.", **_own)
flags.DEFINE_string("weights", "default", "For names of the zoo, the label of the weights.", **_own)
flags.DEFINE_string("engine", None, "Runtime of the network. Default: that of `ak.Predictor`.", **_own)


def run(flags, arguments):
    if len(arguments) < 2:
        raise ValueError("Name a trained network and at least one image: anytime-keras predict runs/a cat.png")
    limits = [name for name in ("deadline_ms", "budget_macs") if flags[name].value is not None]
    limits += ["stream"] if flags.stream else []
    if len(limits) > 1:
        raise ValueError(f"Give at most one of --deadline_ms, --budget_macs and --stream. Received: {limits}.")
    network, *images = arguments
    options = {} if flags.engine is None else {"engine": flags.engine}
    classifier = ak.Classifier.from_preset(network, flags.weights, **options)
    paths = image_files(images)
    skipped = (crops.CorruptImage,) if len(paths) > 1 else ()
    for path in paths:
        with contextlib.suppress(*skipped):
            decoding.check_file(path)  # by its header, before the network is prepared
            decoding.check_size(crops.stored_size(path), f"'{path}'")
    if flags.budget_macs is not None:  # compiles the exit, which does not count as time for an image
        _answers(classifier, np.zeros(classifier.preprocessor.image_shape, "uint8"), flags)
    records, corrupt, width = [], [], max(map(len, paths))
    for path in paths:
        try:
            for answer in _answers(classifier, path, flags):
                if flags.json:
                    records.append({"image": path, **answer.to_dict(flags.top)})
                else:
                    print(_text(path, answer, flags.top, width), flush=True)
        except skipped as error:
            corrupt.append(path)
            if flags.json:
                records.append({"image": path, "error": str(error)})
            else:
                print(error, file=sys.stderr)
    if flags.json:
        print(json.dumps(records, indent=1))
    if corrupt:
        raise ValueError(
            f"{len(corrupt)} of {len(paths)} images cannot be decoded, such as '{corrupt[0]}'. Replace or remove them. "
            "The others were classified."
        )


def image_files(arguments):
    """Returns the paths of images in a list of files, folders and patterns, including files that do not exist."""
    paths = []
    for argument in arguments:
        if argument and pathlib.Path(argument).is_dir():
            found = folder.list_images(pathlib.Path(argument))
            if not found:
                known = ", ".join(folder.EXTENSIONS)
                raise ValueError(f"The folder '{argument}' contains no images. Known file types: {known}.")
        elif glob.has_magic(argument) and not pathlib.Path(argument).exists():
            found = sorted(glob.glob(argument, recursive=True))
            if not found:
                raise ValueError(f"No file matches '{argument}'.")
        else:
            found = [argument]
        paths += found
    return paths


def _answers(classifier, path, flags):
    if flags.stream:
        return classifier.stream(path)
    if flags.deadline_ms is not None:
        return [classifier(path, deadline=flags.deadline_ms / 1e3)]
    return [classifier(path, budget=flags.budget_macs)]


def _text(path, answer, top, width):
    path = os.fsencode(path).decode(errors="replace")  # names of files need not be text
    when = f"{answer.exit}  {1e3 * answer.seconds:.2f} ms{'  late' if answer.late else ''}"
    if top == 1:
        return f"{path:<{width}}  {answer.label} ({100 * answer.confidence[0]:.1f}% sure)  {when}"
    lines = [f"  {100 * probability:5.1f}%  {label}" for label, probability in answer.top(top)]
    return "\n".join([f"{path:<{width}}  {when}", *lines])
