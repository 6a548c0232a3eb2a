"""Answer images with a trained network: by a deadline, within a budget, or better and better.

  anytime-keras predict runs/a cat.png dog.png --deadline_ms=5

Arguments: the folder of a training (or the .keras file in it), then image files. An image of another size than the
network's is scaled, and its middle cut out.
"""

import json
import pathlib

from absl import flags

FLAGS = flags.FlagValues()
_own = dict(flag_values=FLAGS)
flags.DEFINE_float("deadline_ms", None, "Milliseconds for each image.", **_own)
flags.DEFINE_float("budget_macs", None, "Multiply-accumulates for each image.", **_own)
flags.DEFINE_bool("stream", False, "Print the answer of every exit as it comes.", **_own)


def run(flags, arguments):
    if len(arguments) < 2:
        raise ValueError("Name a trained network and one image or more: anytime-keras predict runs/a cat.png")
    limits = [name for name in ("deadline_ms", "budget_macs") if flags[name].value is not None]
    limits += ["stream"] if flags.stream else []
    if len(limits) > 1:
        raise ValueError(f"Give one of --deadline_ms, --budget_macs and --stream. Received: {limits}.")
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
            raise ValueError("shapes do not fit")
        return {"shape": shape, **{name: about[name] for name in ("mean", "std", "class_names")}}
    except FileNotFoundError as error:
        raise ValueError(
            f"'{path}' is missing: it says how images are normalised and what the classes are called. "
            f"Name a folder that `anytime-keras train` or `anytime-keras demo` wrote."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{path}' is not what `anytime-keras train` writes: {error}.") from error


def _image(path, about):
    """Returns one image as the network takes it, shape (1, height, width, channels)."""
    from anytime_keras.data import crops

    if not pathlib.Path(path).is_file():
        raise ValueError(f"There is no image '{path}'.")
    *size, channels = about["shape"]
    image = crops.decode(path, path, channels)
    pixels = crops.to_array(image) if [image.height, image.width] == size else crops.center_crop(image, size)
    return ((pixels[None] / 255 - about["mean"]) / about["std"]).astype("float32")
