"""Classify images with a trained network: by a deadline, within a budget, or exit by exit.

  anytime-keras predict runs/a cat.png dog.png --deadline_ms=5

Arguments: the directory of a training run (or the .keras file in it), then image files. An image that differs in size
from the network's input is scaled and center-cropped.
"""

import json
import pathlib

from absl import flags

FLAGS = flags.FlagValues()
_own = dict(flag_values=FLAGS)
flags.DEFINE_float("deadline_ms", None, "Deadline for each image, in milliseconds.", **_own)
flags.DEFINE_float("budget_macs", None, "Budget for each image, in multiply-accumulates.", **_own)
flags.DEFINE_bool("stream", False, "Print each exit's answer as soon as it is available.", **_own)


def run(flags, arguments):
    if len(arguments) < 2:
        raise ValueError("Name a trained network and at least one image: anytime-keras predict runs/a cat.png")
    limits = [name for name in ("deadline_ms", "budget_macs") if flags[name].value is not None]
    limits += ["stream"] if flags.stream else []
    if len(limits) > 1:
        raise ValueError(f"Give at most one of --deadline_ms, --budget_macs and --stream. Received: {limits}.")
    from anytime_keras import Predictor
    from anytime_keras.commands import loading

    file = loading.model_file(arguments[0])
    about = _description(file)
    images = [(name, _image(name, about)) for name in arguments[1:]]
    predictor = Predictor(loading.load_model(file), example=images[0][1])
    width = max(len(name) for name, _ in images)
    for name, image in images:
        if flags.stream:
            answers = predictor.stream(image)
        elif flags.deadline_ms is not None:
            answers = [predictor.predict(image, deadline=flags.deadline_ms / 1e3)]
        else:
            answers = [predictor.predict(image, budget=flags.budget_macs)]
        for answer in answers:
            print(
                f"{name:<{width}}  {about['class_names'][answer.classes[0]]} ({100 * answer.confidence[0]:.1f}% sure)  "
                f"{answer.exit}  {1e3 * answer.seconds:.2f} ms{'  late' if answer.late else ''}"
            )


def _description(file):
    path = file.parent / "data.json"
    try:
        about = json.loads(path.read_text())
        shape = tuple(about["image_shape"])
        if len(shape) != 3 or len(about["class_names"]) != about["num_classes"]:
            raise ValueError("inconsistent `image_shape`, `class_names` or `num_classes`")
        return {"shape": shape, **{name: about[name] for name in ("mean", "std", "class_names")}}
    except FileNotFoundError as error:
        raise ValueError(
            f"'{path}' is missing. It contains the class names and the normalisation of images. "
            f"Name a directory written by `anytime-keras train` or `anytime-keras demo`."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{path}' must be a file written by `anytime-keras train`. Received: {error!r}.") from error


def _image(path, about):
    """Returns one image as the network's input, shape (1, height, width, channels)."""
    from anytime_keras.data import crops

    if not pathlib.Path(path).is_file():
        raise ValueError(f"There is no image '{path}'.")
    *size, channels = about["shape"]
    image = crops.decode(path, path, channels)
    pixels = crops.to_array(image) if [image.height, image.width] == size else crops.center_crop(image, size)
    return ((pixels[None] / 255 - about["mean"]) / about["std"]).astype("float32")
