"""Measure a trained network at every exit and plot error against cost, for one or more networks.

  anytime-keras evaluate runs/a --dataset=cifar10 --plot=curve.png
  anytime-keras evaluate runs/a/curve.json runs/b/curve.json --plot=both.png

Arguments: directories of training runs, saved models (.keras), or curves (.json).
"""

import pathlib

from absl import flags

import anytime_keras as ak
from anytime_keras.commands import loading
from anytime_keras.data import crops
from anytime_keras.evaluation.curve import COSTS

FLAGS = flags.FlagValues()
_own = dict(flag_values=FLAGS)
flags.DEFINE_string("dataset", None, "Data set to measure on. Default: the recipe's.", **_own)
flags.DEFINE_string("data_dir", None, "Data directory of tensorflow-datasets.", **_own)
flags.DEFINE_integer("image_size", None, "Pixels, height and width to crop images of different sizes to.", **_own)
flags.DEFINE_enum("split", "test", ["test", "validation"], "Images to measure on.", **_own)
flags.DEFINE_bool("latency", False, "Also measure the latency of each exit.", **_own)
flags.DEFINE_enum("cost", "with_all_heads", COSTS, "The plot's cost axis.", **_own)
flags.DEFINE_string("plot", None, "File for a plot of all curves (.png, .pdf, .svg).", **_own)
flags.DEFINE_string("json", None, "File for the last measured curve.", **_own)


def run(flags, arguments):
    if not arguments:
        raise ValueError("Name what to evaluate: a run's directory, a saved model (.keras) or a curve (.json).")
    if flags.plot and pathlib.Path(flags.plot).suffix not in (".png", ".pdf", ".svg"):
        raise ValueError(f"--plot must end in .png, .pdf or .svg. Received: {flags.plot}.")
    if flags.json and not pathlib.Path(flags.json).parent.is_dir():
        raise ValueError(f"--json must be in an existing directory. Received: {flags.json}.")
    curves = [_curve(flags, pathlib.Path(argument)) for argument in arguments]
    for curve in curves:
        print(f"{curve.name}: {curve.about.get('split', '')} {curve.about.get('images', '')} images\n{curve.table()}\n")
    if flags.json:
        curves[-1].to_json(flags.json)
    if flags.plot:
        ak.evaluation.plot_curves(curves, flags.plot, flags.cost)
        print(f"plot in {flags.plot}")


def _curve(flags, path):
    if path.suffix == ".json":
        return ak.Curve.from_json(path)
    model, data = loading.model_and_data(path, flags)
    images = data.test if flags.split == "test" else data.validation
    if images is None:
        raise ValueError(f"Data set '{data.name}' has no {flags.split} images.")
    latency = flags.latency or flags.cost == "latency"
    with crops.corrupt_images_named():
        curve = ak.evaluate(model, images, latency=latency, name=path.stem)
    curve.about.update(data=data.describe(), split=flags.split)
    return curve
