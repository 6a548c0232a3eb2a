"""List, show, measure and train the zoo's networks.

anytime-keras zoo list --trained
anytime-keras zoo show resann2x16_adaloss_digits
anytime-keras zoo evaluate resann2x16_adaloss_digits
anytime-keras zoo table --readme=README.md
anytime-keras zoo plot --data=cifar10 --picture=zoo/cifar10.png

anytime-keras zoo train msdnet33_adaloss --minutes=150 --publish
anytime-keras zoo pack msdnet33_adaloss --folder=parts --part_mb=58
anytime-keras zoo ensemble eann_2x16_5x16_adaloss --members=resann2x16_adaloss,resann5x16_adaloss --weights=cifar100

`train` trains one cycle by the recipe in the network's manifest. It starts from the existing weights, resumes a cycle
that was stopped, and with --publish publishes the result if it is better on validation images. `pack` writes the
network's images as files for another machine, where `zoo train --data_parts=parts` reads them. `ensemble` combines
trained networks into an EANN: it selects the exits on validation images, measures them on test images and writes the
manifest. Run it again, without --members, after a member has been trained again.

`table` prints the README's table, or writes it between the markers of a file. `plot` draws the curves in the manifests.
"""

import pathlib

from absl import flags

import anytime_keras as ak
from anytime_keras import _errors, _tables, commands, runtime
from anytime_keras.commands import overrides
from anytime_keras.zoo import catalog, loading, readme

FLAGS = flags.FlagValues()
_own = dict(flag_values=FLAGS)
flags.DEFINE_string("architecture", None, "list: only networks of this architecture.", **_own)
flags.DEFINE_string("data", None, "list, plot: only this data set. train, pack, ensemble: file or folder.", **_own)
flags.DEFINE_string("weighting", None, "list: only networks trained with this weighting.", **_own)
flags.DEFINE_bool("trained", None, "list: only networks that have weights (--notrained: that have none).", **_own)
flags.DEFINE_string("weights", "default", "evaluate, train, pack, ensemble: label of the network's weights.", **_own)
flags.DEFINE_list("members", None, "ensemble: names of networks of the zoo, smallest first.", **_own)
flags.DEFINE_string("data_dir", None, "evaluate, train, pack, ensemble: directory of the data sets.", **_own)
flags.DEFINE_float("minutes", None, "train: duration of the run. Default: the recipe's.", **_own)
flags.DEFINE_bool("publish", False, "train: publish the weights if they are better than the current ones.", **_own)
flags.DEFINE_string("zoo", None, "train, ensemble: the zoo to publish to. Default: the checkout's.", **_own)
flags.DEFINE_bool("from_scratch", False, "train: start from random weights instead of the published ones.", **_own)
flags.DEFINE_string("replace", None, "train: publish without a comparison; the reason, for the lineage.", **_own)
flags.DEFINE_string("data_parts", None, "train: a folder that `zoo pack` wrote.", **_own)
flags.DEFINE_string("folder", None, "train, pack: output folder. Default: runs/NAME_LABEL/cycle-N; parts/.", **_own)
flags.DEFINE_multi_string("set", [], "train: a field of the recipe to change, such as --set=model.num_units=9.", **_own)
flags.DEFINE_enum("engine", "fit", ["fit", "scan"], "train: see `train --help`; scan needs KERAS_BACKEND=jax.", **_own)
flags.DEFINE_float("part_mb", 58.0, "pack: maximum size of a file, in 10**6 bytes.", **_own)
flags.DEFINE_bool("tensorboard", True, "train: write TensorBoard's logs.", **_own)
flags.DEFINE_string("picture", None, "plot: where to save it (.png, .pdf, .svg).", **_own)
flags.DEFINE_string("readme", None, "table: the file to put it into.", **_own)


def run(flags, arguments):
    action, *names = arguments or [None]
    if action not in ACTIONS:
        hint = "" if action is None else f" Received: '{action}'. {_errors.guess(action, ACTIONS)}".rstrip()
        raise ValueError(f"Name an action: zoo {' | '.join(ACTIONS)}.{hint}")
    function, count = ACTIONS[action]
    if len(names) != count:
        expected = f"the name of one network, such as `zoo {action} resann5x16_adaloss`" if count else "no names"
        raise ValueError(f"`zoo {action}` takes {expected}. Received: {names}.")
    function(flags, *names)


def _list(flags):
    conditions = ("architecture", "data", "weighting", "trained")
    filters = {key: flags[key].value for key in conditions if flags[key].value is not None}
    found = catalog.entries(**filters)
    print(catalog.table(found) if found else "no network of the zoo matches these flags")


def _show(flags, name):
    manifest = ak.zoo.show(name)
    print(catalog.table([found for found in catalog.entries() if found[0].name == name]))
    print(f"\n{manifest}")


def _evaluate(flags, name):
    curve = ak.zoo.evaluate(name, flags.weights, data_dir=flags.data_dir)
    stated = [f"{100 * (1 - accuracy):.2f}" for accuracy in curve.about["manifest"]]
    print(f"{name}: {curve.about['images']} {curve.about['split']} images")
    print(curve.table({"manifest's error (%)": stated}))


def _train(flags, name):
    runtime.repeatable()
    entry = ak.zoo.show(name).pick(flags.weights)
    own = ("minutes", "folder", "publish", "data", "data_dir", "from_scratch", "replace", "engine", "tensorboard")
    options = {key: flags[key].value for key in own}
    options.update(to=flags.zoo, parts=flags.data_parts, begin=commands.begin)
    changes = overrides.changed(entry.content["recipe"] or {}, flags.set)
    cycle = ak.training.train_cycle(name, entry.label, changes=changes, **options)
    before = [f"{100 * error:.2f}" for error in cycle.before] if cycle.before else ["-"] * len(cycle.after)
    after = [f"{100 * error:.2f}" for error in cycle.after]
    rows = list(map(list, zip(cycle.run.model.exit_names, before, after)))
    print(f"\nerrors on validation images\n{_tables.table(['exit', 'before (%)', 'after (%)'], rows)}")
    if cycle.manifest is not None:
        print(f"\npublished\n{cycle.manifest}")
    elif flags.publish:
        print("\nnot published, because the mean error did not fall or that of the last exit rose")


def _pack(flags, name):
    entry = ak.zoo.show(name).pick(flags.weights)
    if entry.content["recipe"] is None:
        raise ValueError(f"The manifest of '{name}' has no recipe, so its data is not known.")
    arguments = ak.training.Recipe.from_dict(entry.content["recipe"]).data
    arguments.update({key: flags[key].value for key in ("data", "data_dir") if flags[key].value is not None})
    for path in ak.data.pack(ak.data.load(**arguments), flags.folder or "parts", flags.part_mb):
        print(f"{path}  {path.stat().st_size:,} bytes")


def _ensemble(flags, name):
    label, members = flags.weights, flags.members
    if not members:
        if name not in ak.zoo.list(architecture="eann"):
            raise ValueError(f"`zoo ensemble` needs --members, because the zoo has no ensemble '{name}' yet.")
        entry = ak.zoo.show(name).pick(label)
        label, members = entry.label, [member for member, _ in entry.members]
    label = ak.zoo.show(members[-1]).pick(label).label
    data = loading.data_set(members[-1], label, flags.data, flags.data_dir)
    print(ak.zoo.publish_ensemble(name, members, data, label, flags.zoo))


def _table(flags):
    if flags.readme is None:
        print(readme.table(), end="")
        return
    path = pathlib.Path(flags.readme)
    path.write_text(readme.put_into(path.read_text()))


def _plot(flags):
    if flags.data is None or flags.picture is None:
        raise ValueError("`zoo plot` needs --data and --picture. Its curves are of networks for one data set.")
    found = catalog.entries(data=flags.data, trained=True)
    curves = [manifest.curve(entry.label) for manifest, entry, _ in found]
    if not curves:
        raise ValueError(f"The zoo has no network trained on '{flags.data}'. `zoo list --trained` lists the networks.")
    about = curves[0].about
    title = f"{about['images']:,} {about['split']} images of {flags.data}"
    ak.evaluation.plot_curves(curves, flags.picture, title=title)
    print(f"plot in {flags.picture}")


# Each action, with the number of names that it takes.
ACTIONS = {"list": (_list, 0), "show": (_show, 1), "evaluate": (_evaluate, 1), "train": (_train, 1)}
ACTIONS |= {"pack": (_pack, 1), "ensemble": (_ensemble, 1), "table": (_table, 0), "plot": (_plot, 0)}
