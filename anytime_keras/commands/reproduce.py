"""Run or resume one of the paper's experiments and compare the numbers with the paper's.

  anytime-keras reproduce table1 --quick
  anytime-keras reproduce table1 --dataset=cifar10.npz --seeds=2 --precision=mixed_bfloat16 --time_limit=500
  anytime-keras reproduce page

NAME is table1, table3, table4, table5, figure3, figure5, figure6, proposition, beyond or page. Training runs are stored
in --folder. A finished run is never repeated, and experiments share runs of the same recipe. When all runs of an
experiment are finished, its numbers are written to --results as NAME.json (NAME_quick.json with --quick). `page` writes
the tables and plots of all results into README.md there, and keeps its other text.

KERAS_BACKEND=jax needs no TensorFlow. On an accelerator it trains several networks side by side; compiled programs are
cached in --folder (or JAX_COMPILATION_CACHE_DIR).

To move runs to another machine, copy --folder without .programs and without the finished runs' model.keras, which only
figure6 needs, and use the same path for the data. Alternatively copy the results only: --reuse=FOLDER skips runs whose
results are in FOLDER, matched by recipe. figure6 still trains the members of ensembles that have no stored result.
"""

import pathlib

from absl import flags

FLAGS = flags.FlagValues()
_own = dict(flag_values=FLAGS)
flags.DEFINE_bool("quick", False, "Check the code in minutes, with tiny networks on scikit-learn's digits.", **_own)
flags.DEFINE_integer("epochs", None, "Number of epochs. Default: 60, or 3 with --quick.", **_own)
flags.DEFINE_string(
    "seeds", None, "Number of seeds, or one per data set such as 2,1. Default: 2, or 1 with --quick.", **_own
)
flags.DEFINE_string(
    "dataset", None, "Comma-separated data sets: names, .npz files or directories. Default: the experiment's.", **_own
)
flags.DEFINE_string(
    "networks",
    None,
    "ResANNs, such as 5x16,9x16 (figure5: pairs of a small and a large one). Default: the experiment's.",
    **_own,
)
flags.DEFINE_multi_string("without", None, "A row to omit; repeatable.", **_own)
flags.DEFINE_multi_string("once", None, "A row to run with the first seed only; repeatable.", **_own)
flags.DEFINE_integer("batch_size", None, "Batch size. Default: 64.", **_own)
flags.DEFINE_string("precision", None, "Keras dtype policy, such as mixed_bfloat16. Default: float32.", **_own)
flags.DEFINE_string("folder", "runs/reproduce", "Directory of the training runs.", **_own)
flags.DEFINE_string("results", None, "Directory of results. Default: zoo/results of the checkout or results/.", **_own)
flags.DEFINE_string("reuse", None, "Directory of results; runs recorded there are skipped.", **_own)
flags.DEFINE_integer("at_once", None, "Networks trained together (JAX). Default: 8 on an accelerator, else 1.", **_own)
flags.DEFINE_float("time_limit", None, "Seconds after which to stop; run the same command to resume.", **_own)


def run(flags, arguments):
    from anytime_keras import _errors, experiments

    known = [*experiments.EXPERIMENTS, "page"]
    if len(arguments) != 1:
        raise ValueError(f"Name exactly one experiment: {', '.join(known)}. Received: {arguments}.")
    (name,) = arguments
    if name not in known:
        raise ValueError(f"Unknown experiment '{name}'. {_errors.nearest(name, known)}")
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
        print("Stopped by the time limit. Run the same command to resume.")
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
        raise ValueError(f"This experiment trains nothing and takes none of {', '.join(given)}. Omit them.")
    return experiment.settings(flags.quick, **changes)


def _numbers(text):
    try:
        first, *others = map(int, text.split(","))
    except ValueError as error:
        raise ValueError(f"--seeds must be a number, or one per data set such as 2,1. Received: '{text}'.") from error
    return (first, *others) if others else first


def _results(where):
    if where is not None:
        return pathlib.Path(where)
    import anytime_keras

    checkout = pathlib.Path(anytime_keras.__file__).parents[1]
    return checkout / "zoo" / "results" if (checkout / "setup.cfg").is_file() else pathlib.Path("results")
