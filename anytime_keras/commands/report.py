"""Write one page about a trained network: its exits, early exit, calibration, and what to use when.

  anytime-keras report resann5x16_adaloss --folder=report
  anytime-keras report runs/a --smaller=runs/b,small.keras

Argument: a network of the zoo, the directory of a training run, or a saved model (.keras). Temperatures and thresholds
are fitted on validation images and measured on test images.
"""

import pathlib

from absl import flags

import anytime_keras as ak
from anytime_keras.classifier import presets
from anytime_keras.commands import loading

FLAGS = flags.FlagValues()
_own = dict(flag_values=FLAGS)
flags.DEFINE_string("dataset", None, "Data set to measure on. Default: that of the training.", **_own)
flags.DEFINE_string("data_dir", None, "Data directory of tensorflow-datasets.", **_own)
flags.DEFINE_integer("image_size", None, "Pixels, height and width to crop images of different sizes to.", **_own)
flags.DEFINE_string("weights", "default", "For the zoo: the label of the weights, such as cifar100.", **_own)
flags.DEFINE_list("smaller", [], "Networks to compare at equal time: names or paths, separated by commas.", **_own)
flags.DEFINE_float("confidence", 0.95, "Confidence of the promises, from 0 to 1.", **_own)
flags.DEFINE_string("folder", "report", "Output directory; results of an earlier report are replaced.", **_own)


def run(flags, arguments):
    if len(arguments) != 1:
        raise ValueError(f"Name one network: of the zoo, a run's directory, or a .keras file. Received: {arguments}.")
    if not 0 < flags.confidence < 1:
        raise ValueError(f"--confidence must be between 0 and 1. Received: {flags.confidence}.")
    if pathlib.Path(flags.folder).is_file():
        raise ValueError(f"--folder must be a directory. Received: the file '{flags.folder}'.")
    name, validation = arguments[0], None
    if pathlib.Path(name).exists():
        model, data = loading.model_and_data(name, flags)
    else:
        model = ak.zoo.load(name, flags.weights)
        data = ak.zoo.loading.data_set(name, flags.weights, flags.dataset, flags.data_dir)
        if not ak.zoo.loading.holds_out(name, flags.weights, data):
            print(f"The network was not trained on this split of {data.name}, so its validation images may have been")
            print("training images. Thresholds are fitted on half of the test images and measured on the other half.")
            validation = 0.5
    smaller = {}
    for other in map(pathlib.Path, flags.smaller):
        loaded = presets.load_keras(loading.model_file(other)) if other.exists() else ak.zoo.load(str(other))
        smaller[other.stem] = loaded
    found = ak.report(model, data, validation, smaller, flags.confidence, name=pathlib.Path(name).stem)
    folder = found.save(flags.folder)
    print("\n".join(f"- {text}" for text in found.advice()))
    print(f"report in {folder / 'report.html'}")
