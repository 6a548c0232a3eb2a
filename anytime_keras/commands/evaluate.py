"""Measure a trained network at every exit, and draw error against cost, over other curves if there are.

  anytime-keras evaluate runs/a --dataset=cifar10 --plot=curve.png
  anytime-keras evaluate runs/a/curve.json runs/b/curve.json --plot=both.png

Arguments: folders of trainings, saved models (.keras), or curves (.json).
"""

import pathlib

from absl import flags

FLAGS = flags.FlagValues()
_own = dict(flag_values=FLAGS)
flags.DEFINE_string("dataset", None, "Data to measure on. Default: that of the training's recipe.", **_own)
flags.DEFINE_string("data_dir", None, "Where tensorflow-datasets keeps its data.", **_own)
flags.DEFINE_integer("image_size", None, "Side in pixels to crop images of different sizes to.", **_own)
flags.DEFINE_enum("split", "test", ["test", "validation"], "Images to measure on.", **_own)
flags.DEFINE_bool("latency", False, "Also measure the time to each exit.", **_own)
flags.DEFINE_enum(
    "cost", "with_all_heads", ["with_all_heads", "with_head", "backbone", "latency"], "The picture's cost axis.", **_own
)
flags.DEFINE_string("plot", None, "Where to save a picture of all curves (.png, .pdf, .svg).", **_own)
flags.DEFINE_string("json", None, "Where to save the last curve that was measured.", **_own)


def run(flags, arguments):
    if not arguments:
        raise ValueError("Name what to evaluate: a training's folder, a saved model (.keras) or a curve (.json).")
    from anytime_keras import evaluation

    _check_places(flags)
    curves = [_curve(flags, pathlib.Path(argument)) for argument in arguments]
    for curve in curves:
        print(f"{curve.name}: {curve.about.get('split', '')} {curve.about.get('images', '')} images\n{curve.table()}\n")
    if flags.json:
        curves[-1].to_json(flags.json)
    if flags.plot:
        evaluation.plot_curves(curves, flags.plot, flags.cost)
        print(f"picture in {flags.plot}")


def _check_places(flags):
    """Raises before the work is done where its result could not be written."""
    if flags.plot and pathlib.Path(flags.plot).suffix not in (".png", ".pdf", ".svg"):
        raise ValueError(f"--plot must end in .png, .pdf or .svg. Received: {flags.plot}.")
    if flags.json and not pathlib.Path(flags.json).parent.is_dir():
        raise ValueError(f"--json names a folder that is not there. Received: {flags.json}.")


def _curve(flags, path):
    from anytime_keras import evaluation
    from anytime_keras.commands import loading
    from anytime_keras.data import crops

    if path.suffix == ".json":
        return evaluation.Curve.from_json(path)
    model, data = loading.model_and_data(path, flags)
    images = data.test if flags.split == "test" else data.validation
    if images is None:
        raise ValueError(f"'{data.name}' has no {flags.split} images.")
    latency = flags.latency or flags.cost == "latency"
    with crops.corruption_told():
        curve = evaluation.evaluate(model, images, latency=latency, name=path.stem)
    curve.about.update(data=data.describe(), split=flags.split)
    return curve
