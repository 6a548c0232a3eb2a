"""List, show and measure the zoo's trained networks.

anytime-keras zoo list --trained
anytime-keras zoo show resann2x16_adaloss_digits
anytime-keras zoo evaluate resann2x16_adaloss_digits
anytime-keras zoo table --readme=README.md
anytime-keras zoo plot --data=cifar10 --picture=zoo/cifar10.png

`table` prints the README's table, or puts it into a file between its markers; `plot` draws the curves in the manifests.
"""

import pathlib

from absl import flags

from anytime_keras import _errors

FLAGS = flags.FlagValues()
_own = dict(flag_values=FLAGS)
flags.DEFINE_string("architecture", None, "list: only networks of this architecture.", **_own)
flags.DEFINE_string("data", None, "list, plot: only networks for this data set.", **_own)
flags.DEFINE_string("weighting", None, "list: only networks trained with this weighting.", **_own)
flags.DEFINE_bool("trained", None, "list: only networks that have weights (--notrained: that have none).", **_own)
flags.DEFINE_string("weights", "default", "evaluate: which weights of the network.", **_own)
flags.DEFINE_string("data_dir", None, "evaluate: where data sets lie.", **_own)
flags.DEFINE_string("picture", None, "plot: where to save it (.png, .pdf, .svg).", **_own)
flags.DEFINE_string("readme", None, "table: the file to put it into.", **_own)

ACTIONS = {"list": 0, "show": 1, "evaluate": 1, "table": 0, "plot": 0}  # and how many names each takes


def run(flags, arguments):
    action, *names = arguments or [None]
    if action not in ACTIONS:
        raise ValueError(f"Say what to do: zoo {' | '.join(ACTIONS)}. {_errors.nearest(action, ACTIONS)}")
    if len(names) != ACTIONS[action]:
        raise ValueError(f"`zoo {action}` takes {ACTIONS[action]} names. Received: {names}.")
    {"list": _list, "show": _show, "evaluate": _evaluate, "table": _table, "plot": _plot}[action](flags, *names)


def _list(flags):
    from anytime_keras import zoo

    conditions = ("architecture", "data", "weighting", "trained")
    filters = {key: flags[key].value for key in conditions if flags[key].value is not None}
    names = zoo.list(**filters)
    width = max(map(len, names), default=0)
    for name in names:
        manifest = zoo.show(name)
        labels = [label if entry.trained else f"{label} (not trained)" for label, entry in manifest.weights.items()]
        print(f"{name:<{width}}  {', '.join(labels)}")


def _show(flags, name):
    from anytime_keras import zoo

    print(zoo.show(name))


def _evaluate(flags, name):
    from anytime_keras import zoo

    curve = zoo.evaluate(name, flags.weights, data_dir=flags.data_dir)
    stated = [f"{100 * (1 - accuracy):.2f}" for accuracy in curve.about["manifest"]]
    print(f"{name}: {curve.about['images']} {curve.about['split']} images")
    print(curve.table({"manifest's error (%)": stated}))


def _table(flags):
    from anytime_keras.zoo import readme

    if flags.readme is None:
        print(readme.table(), end="")
        return
    path = pathlib.Path(flags.readme)
    path.write_text(readme.put_into(path.read_text()))


def _plot(flags):
    from anytime_keras import evaluation, zoo

    if flags.data is None or flags.picture is None:
        raise ValueError("`zoo plot` needs `--data` and `--picture`: curves are compared on the same images.")
    manifests = [zoo.show(name) for name in zoo.list(data=flags.data, trained=True)]
    curves = [
        manifest.curve(label)
        for manifest in manifests
        for label, entry in manifest.weights.items()
        if entry.trained and entry.content["data"]["name"] == flags.data
    ]
    if not curves:
        raise ValueError(f"No network of the zoo has been trained on '{flags.data}' yet.")
    about = curves[0].about
    evaluation.plot_curves(curves, flags.picture, title=f"{about['images']:,} {about['split']} images of {flags.data}")
    print(f"picture in {flags.picture}")
