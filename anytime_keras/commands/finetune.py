"""Train a network on your own folder of images, starting from its weights.

  anytime-keras finetune msdnet33_adaloss photos --minutes=10
  anytime-keras predict runs/photos_msdnet33_adaloss photo.jpg

Arguments: a network, then a folder with one folder of images per class (photos/cat/1.jpg, photos/dog/1.jpg). The
network is a name of the zoo, the folder of a training run or of a saved preset, a .keras file, or hf://user/model. A
fifth of the images is held out to measure the error at each exit.
"""

import pathlib

from absl import flags

import anytime_keras as ak
from anytime_keras import commands, runtime
from anytime_keras.training.finetune import image_files, recipe_for

FLAGS = flags.FlagValues()
_own = dict(flag_values=FLAGS)
flags.DEFINE_float("minutes", 10.0, "Duration, from start to end.", **_own)
flags.DEFINE_string("folder", None, "Output folder. Default: runs/IMAGES_NETWORK.", **_own)
flags.DEFINE_float("validation", 0.2, "Fraction of the images to hold out, if there is no folder `validation`.", **_own)
flags.DEFINE_integer("batch_size", 32, "Images per step.", **_own)
flags.DEFINE_float("learning_rate", 1e-3, "Highest learning rate of the heads; a third for all layers.", 0, **_own)
flags.DEFINE_integer("seed", 0, "Seed of the split, the new layers and the augmentation.", **_own)
flags.DEFINE_string("weights", "default", "For names of the zoo, the label of the weights.", **_own)


def run(flags, arguments):
    if len(arguments) != 2:
        raise ValueError(f"Name a network and a folder, such as `msdnet33_adaloss photos`. Received: {arguments}.")
    network, images = arguments
    runtime.repeatable()
    options = {name: flags[name].value for name in ("validation", "batch_size", "learning_rate", "seed")}
    recipe_for(network, images, flags.minutes, **options)  # both fail before the network is loaded
    image_files(images)
    to = pathlib.Path(flags.folder or pathlib.Path("runs", f"{_stem(images)}_{_stem(network)}"))
    if to.is_file():
        raise ValueError(f"--folder must be a directory. Received: the file '{to}'.")
    classifier = ak.Classifier.from_preset(network, flags.weights)
    classifier.finetune(images, flags.minutes, to, begin=commands.begin, **options)
    print(f"\nnetwork, curve and plot in {to}: anytime-keras predict {to} IMAGE")


def _stem(path):
    return pathlib.Path(path.rstrip("/")).resolve().stem
