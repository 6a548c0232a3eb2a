"""List, show, measure and train the zoo's networks.

anytime-keras zoo list --trained
anytime-keras zoo show resann2x16_adaloss_digits
anytime-keras zoo evaluate resann2x16_adaloss_digits
anytime-keras zoo table --readme=README.md
anytime-keras zoo plot --data=cifar10 --picture=zoo/cifar10.png

anytime-keras zoo train msdnet33_adaloss --minutes=150 --publish
anytime-keras zoo pack msdnet33_adaloss --folder=parts --part_mb=58

`train` trains one cycle by the recipe in the network's manifest: it starts from the weights that are there, resumes a
cycle that was stopped, and publishes the result with --publish if it is better on validation images. `pack` writes the
network's images as files for another machine, where `zoo train --data=parts` reads them.

`table` prints the README's table, or writes it between the markers of a file. `plot` draws the curves in the manifests.
"""

import pathlib

from absl import flags

from anytime_keras import _errors, commands
from anytime_keras.commands import overrides

FLAGS = flags.FlagValues()
_own = dict(flag_values=FLAGS)
flags.DEFINE_string("architecture", None, "list: only networks of this architecture.", **_own)
flags.DEFINE_string(
    "data", None, "list, plot: only networks for this data set. train, pack: a file or folder with the images.", **_own
)
flags.DEFINE_string("weighting", None, "list: only networks trained with this weighting.", **_own)
flags.DEFINE_bool("trained", None, "list: only networks that have weights (--notrained: that have none).", **_own)
flags.DEFINE_string("weights", "default", "evaluate, train, pack: label of the network's weights.", **_own)
flags.DEFINE_string("data_dir", None, "evaluate, train, pack: directory of the data sets.", **_own)
flags.DEFINE_float("minutes", None, "train: duration of the run. Default: the recipe's.", **_own)
flags.DEFINE_bool("publish", False, "train: publish the weights if they are better than the current ones.", **_own)
flags.DEFINE_string("zoo", None, "train: the zoo to publish to. Default: the checkout's.", **_own)
flags.DEFINE_bool("from_scratch", False, "train: start from random weights instead of the published ones.", **_own)
flags.DEFINE_string("data_parts", None, "train: a folder that `zoo pack` wrote.", **_own)
flags.DEFINE_string("folder", None, "train, pack: output folder. Default: runs/NAME_LABEL/cycle-N; parts/.", **_own)
flags.DEFINE_multi_string("set", [], "train: a field of the recipe to change, such as --set=model.num_units=9.", **_own)
flags.DEFINE_enum("engine", "fit", ["fit", "scan"], "train: see `train --help`; scan needs KERAS_BACKEND=jax.", **_own)
flags.DEFINE_float("part_mb", 58.0, "pack: maximum size of a file, in 10**6 bytes.", **_own)
flags.DEFINE_bool("tensorboard", True, "train: write TensorBoard's logs.", **_own)
flags.DEFINE_string("picture", None, "plot: where to save it (.png, .pdf, .svg).", **_own)
flags.DEFINE_string("readme", None, "table: the file to put it into.", **_own)

# Each action, with the number of names that it takes.
ACTIONS = {"list": 0, "show": 1, "evaluate": 1, "train": 1, "pack": 1, "table": 0, "plot": 0}


def run(flags, arguments):
    action, *names = arguments or [None]
    if action not in ACTIONS:
        raise ValueError(f"Name an action: zoo {' | '.join(ACTIONS)}. {_errors.nearest(action, ACTIONS)}")
    if len(names) != ACTIONS[action]:
        raise ValueError(f"`zoo {action}` takes {ACTIONS[action]} names. Received: {names}.")
    functions = {
        "list": _list,
        "show": _show,
        "evaluate": _evaluate,
        "train": _train,
        "pack": _pack,
        "table": _table,
        "plot": _plot,
    }
    functions[action](flags, *names)


def _list(flags):
    from anytime_keras.zoo import catalog

    conditions = ("architecture", "data", "weighting", "trained")
    filters = {key: flags[key].value for key in conditions if flags[key].value is not None}
    found = catalog.entries(**filters)
    print(catalog.table(found) if found else "no network of the zoo meets these conditions")


def _show(flags, name):
    from anytime_keras import zoo
    from anytime_keras.zoo import catalog

    manifest = zoo.show(name)
    print(catalog.table([found for found in catalog.entries() if found[0].name == name]))
    print(f"\n{manifest}")


def _evaluate(flags, name):
    from anytime_keras import zoo

    curve = zoo.evaluate(name, flags.weights, data_dir=flags.data_dir)
    stated = [f"{100 * (1 - accuracy):.2f}" for accuracy in curve.about["manifest"]]
    print(f"{name}: {curve.about['images']} {curve.about['split']} images")
    print(curve.table({"manifest's error (%)": stated}))


def _train(flags, name):
    from anytime_keras import runtime, training, zoo

    runtime.repeatable()
    entry = zoo.show(name).pick(flags.weights)
    cycle = training.train_cycle(
        name,
        entry.label,
        minutes=flags.minutes,
        folder=flags.folder,
        publish=flags.publish,
        to=flags.zoo,
        data=flags.data,
        data_dir=flags.data_dir,
        parts=flags.data_parts,
        changes=overrides.changed(entry.content["recipe"] or {}, flags.set),
        from_scratch=flags.from_scratch,
        engine=flags.engine,
        tensorboard=flags.tensorboard,
        begin=commands.begin,
    )
    before = [f"{100 * error:.2f}" for error in cycle.before] if cycle.before else ["-"] * len(cycle.after)
    print(f"\nerrors on validation images\n{'exit':<10}{'before (%)':>12}{'after (%)':>12}")
    for exit, old, new in zip(cycle.run.model.exit_names, before, cycle.after):
        print(f"{exit:<10}{old:>12}{100 * new:>12.2f}")
    if cycle.manifest is not None:
        print(f"\npublished\n{cycle.manifest}")
    elif flags.publish:
        print("\nnot published: the mean error must fall, and that of the last exit must not rise")


def _pack(flags, name):
    from anytime_keras import data as data_sets
    from anytime_keras import zoo
    from anytime_keras.training import Recipe

    entry = zoo.show(name).pick(flags.weights)
    if entry.content["recipe"] is None:
        raise ValueError(f"The manifest of '{name}' has no recipe, so its data is not known.")
    arguments = Recipe.from_dict(entry.content["recipe"]).data
    arguments.update({key: flags[key].value for key in ("data", "data_dir") if flags[key].value is not None})
    for path in data_sets.pack(data_sets.load(**arguments), flags.folder or "parts", flags.part_mb):
        print(f"{path}  {path.stat().st_size:,} bytes")


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
        raise ValueError("`zoo plot` needs `--data` and `--picture`, because curves must be of the same images.")
    manifests = [zoo.show(name) for name in zoo.list(data=flags.data, trained=True)]
    curves = [
        manifest.curve(label)
        for manifest in manifests
        for label, entry in manifest.weights.items()
        if entry.trained and entry.content["data"]["name"] == flags.data
    ]
    if not curves:
        raise ValueError(f"The zoo has no network trained on '{flags.data}'. `zoo list --trained` lists the networks.")
    about = curves[0].about
    evaluation.plot_curves(curves, flags.picture, title=f"{about['images']:,} {about['split']} images of {flags.data}")
    print(f"plot in {flags.picture}")
