"""Run one of the paper's experiments, go on where it stopped, and lay its numbers beside the paper's.

  anytime-keras reproduce table1 --quick
  anytime-keras reproduce table1 --dataset=cifar10.npz --seeds=2 --precision=mixed_bfloat16 --time_limit=500
  anytime-keras reproduce page

NAME is table1, table3, table4, table5, figure3, figure5, figure6, proposition, beyond or page. Trainings are kept in
--folder: one that is finished is never run again, and experiments share those that they have in common. When all are
done, the numbers go to --results as NAME.json (NAME_quick.json with --quick), and `page` makes README.md of all that is
there. With KERAS_BACKEND=jax, which needs no TensorFlow, several networks are trained side by side on an accelerator,
and compiled programs are kept in --folder (or JAX_COMPILATION_CACHE_DIR). To take trainings to another machine and
back, leave out .programs and the finished ones' model.keras (figure6 alone needs them), and name data by the same path.
Or take the results alone: --reuse=FOLDER runs no training again that a result there tells, by the same recipe (figure6
trains the networks of ensembles that no result tells).
"""

import pathlib

from absl import flags

FLAGS = flags.FlagValues()
_own = dict(flag_values=FLAGS)
flags.DEFINE_bool("quick", False, "A check of the code in minutes: tiny networks on scikit-learn's digits.", **_own)
flags.DEFINE_integer("epochs", None, "Epochs; 60 by default, 3 if quick.", **_own)
flags.DEFINE_string(
    "seeds", None, "How many seeds, or such a number for each data set: 2,1. 2 by default, 1 if quick.", **_own
)
flags.DEFINE_string(
    "dataset", None, "Data sets, comma-separated: names, .npz files or folders. Default: the experiment's.", **_own
)
flags.DEFINE_string(
    "networks",
    None,
    "ResANNs, such as 5x16,9x16 (figure5: in pairs, small and large). Default: the experiment's.",
    **_own,
)
flags.DEFINE_multi_string("without", None, "A row (figure3: or exit) to leave out; may be given again.", **_own)
flags.DEFINE_multi_string("once", None, "A row of beyond that has the first seed alone; may be given again.", **_own)
flags.DEFINE_integer("batch_size", None, "Images in a batch; 64 by default.", **_own)
flags.DEFINE_string("precision", None, "Keras's dtype policy, such as mixed_bfloat16; float32 by default.", **_own)
flags.DEFINE_string("folder", "runs/reproduce", "Where the trainings are kept.", **_own)
flags.DEFINE_string("results", None, "Where results go. Default: zoo/results of the checkout, or results/.", **_own)
flags.DEFINE_string("reuse", None, "A folder of results whose trainings are taken as they are told there.", **_own)
flags.DEFINE_integer("at_once", None, "Networks side by side on JAX; by default 8 on an accelerator, else 1.", **_own)
flags.DEFINE_float("time_limit", None, "Seconds after which to stop; the same command goes on from there.", **_own)


def run(flags, arguments):
    from anytime_keras import _errors, experiments

    known = [*experiments.EXPERIMENTS, "page"]
    if len(arguments) != 1:
        raise ValueError(f"Name one experiment. Received: {arguments}. Known: {', '.join(known)}.")
    (name,) = arguments
    if name not in known:
        raise ValueError(f"There is no experiment '{name}'. {_errors.nearest(name, known)}")
    results = _results(flags.results)
    if name == "page":
        print(experiments.write_page(results))
        return
    settings = _settings(flags, experiments.EXPERIMENTS[name])
    work = experiments.Work(flags.folder, flags.at_once, flags.time_limit, reuse=flags.reuse)
    from anytime_keras import runtime

    runtime.repeatable()
    path = experiments.reproduce(name, settings, work, results, flags.quick)
    if path is None:
        print("stopped by the time limit: call again to go on")
        return
    experiments.show(path)
    picture = experiments.picture(path)
    print(f"\n{path}" + (f", {picture}" if picture else ""))


def _settings(flags, experiment):
    from anytime_keras.experiments import planning
    from anytime_keras.training.recipe import PRECISIONS

    changes = {name: flags[name].value for name in ("epochs", "batch_size", "precision")}
    if flags.seeds is not None:
        changes["seeds"] = _numbers(flags.seeds)
    if flags.precision is not None and flags.precision not in PRECISIONS:
        raise ValueError(f"--precision must be one of {', '.join(PRECISIONS)}. Received: '{flags.precision}'.")
    if flags.dataset is not None:
        changes["datasets"] = tuple(part.strip() for part in flags.dataset.split(",") if part.strip())
    if flags.networks is not None:
        changes["networks"] = planning.parse_networks(flags.networks)
    changes.update((name, tuple(flags[name].value)) for name in ("without", "once") if flags[name].value is not None)
    if experiment.plan is None and any(value is not None for value in changes.values()):
        given = [
            f"--{name}"
            for name in ("epochs", "seeds", "dataset", "networks", "without", "once", "batch_size", "precision")
        ]
        raise ValueError(f"This experiment trains nothing: leave out {', '.join(given)}.")
    return experiment.settings(flags.quick, **changes)


def _numbers(text):
    try:
        first, *others = map(int, text.split(","))
    except ValueError as error:
        raise ValueError(f"--seeds must be a number, or one for each data set, as 2,1. Received: '{text}'.") from error
    return (first, *others) if others else first


def _results(where):
    if where is not None:
        return pathlib.Path(where)
    import anytime_keras

    checkout = pathlib.Path(anytime_keras.__file__).parents[1]
    return checkout / "zoo" / "results" if (checkout / "setup.cfg").is_file() else pathlib.Path("results")
