"""Run or resume one of the paper's experiments and compare the numbers with the paper's.

  anytime-keras reproduce table1 --quick
  anytime-keras reproduce table1 --dataset=cifar10.npz --seeds=2 --precision=mixed_bfloat16 --time_limit=500
  anytime-keras reproduce images --dataset=cifar10.npz --side=16 --train=5000
  anytime-keras reproduce page

NAME is an experiment, images or page. Training runs are stored in --folder, and the result is written to --results as
NAME.json (NAME_quick.json with --quick) after each of them. A run that either directory contains is never repeated, and
experiments share runs of the same recipe; only ensembles (figure6, figure6b) need their networks in --folder.

--networks takes names with arguments as well: 'resann50; msdnet:blocks=[2,2],exit_every=2'. Figures 1, 5 and 5de need
pairs of a small and a large one. In figure6b, those with several exits make an EANN, or are shown as they are if there
is only one, and those with one exit make a linear ensemble for each family.

`images` writes small images of the same data set, NAME_16px.npz, to the current directory. `page` writes the tables and
plots of all results into README.md in the same directory, and keeps its other text.

KERAS_BACKEND=jax needs no TensorFlow. On an accelerator it trains several networks side by side; compiled programs are
cached in --folder (or JAX_COMPILATION_CACHE_DIR).
"""

import pathlib

from absl import flags

from anytime_keras import _tables, runtime
from anytime_keras._errors import check_known
from anytime_keras.data.small_images import small_images
from anytime_keras.experiments import report, runs
from anytime_keras.experiments.catalog import EXPERIMENTS
from anytime_keras.zoo import places

FLAGS = flags.FlagValues()
_own = dict(flag_values=FLAGS)
flags.DEFINE_bool("quick", False, "Check the code in a minute, with tiny networks on scikit-learn's digits.", **_own)
flags.DEFINE_string("epochs", None, "Epochs, or data sets' epochs such as cifar10:300,svhn_cropped:60.", **_own)
flags.DEFINE_string("seeds", None, "Number of seeds, or data sets' numbers such as cifar10:2,cifar100:1.", **_own)
flags.DEFINE_string("dataset", None, "Comma-separated data sets: names, .npz files or directories.", **_own)
flags.DEFINE_string("networks", None, "Networks, such as 5x16,9x16 (ResANNs); see above.", **_own)
flags.DEFINE_integer("batch_size", None, "Batch size.", **_own)
flags.DEFINE_string("precision", None, "Keras dtype policy, such as mixed_bfloat16. Default: float32.", **_own)
flags.DEFINE_string("folder", "runs/reproduce", "Directory of the training runs.", **_own)
flags.DEFINE_string("results", None, "Directory of results. Default: zoo/results of the checkout or results/.", **_own)
flags.DEFINE_integer("at_once", None, "Networks trained together (JAX). Default: 8 on accelerators, else 1.", 1, **_own)
flags.DEFINE_float("time_limit", None, "Seconds after which to stop; run the same command to resume.", 0, **_own)
flags.DEFINE_integer("side", 16, "images: height and width.", **_own)
flags.DEFINE_integer("train", 5000, "images: number of training images to keep.", **_own)
flags.DEFINE_integer("validation", 2000, "images: number of validation images to keep.", **_own)

SETTINGS = ("epochs", "seeds", "dataset", "networks", "batch_size", "precision")


def run(flags, arguments):
    known = [*EXPERIMENTS, "images", "page"]
    if len(arguments) != 1:
        raise ValueError(f"Name exactly one experiment: {', '.join(known)}. Received: {arguments}.")
    (name,) = arguments
    check_known([name], known, "Unknown experiment '{}'.")
    results = _results(flags.results)
    if name == "page":
        print(report.write_page(results))
        return
    if name == "images":
        if flags.dataset is None or not pathlib.Path(flags.dataset).is_file():
            raise ValueError(f"--dataset must be the .npz file of a data set. Received: {flags.dataset}.")
        print(small_images(flags.dataset, ".", flags.side, flags.train, flags.validation))
        return
    chosen = _settings(flags, EXPERIMENTS[name])
    trained = runs.Runs(flags.folder, results, flags.at_once, flags.time_limit)
    runtime.repeatable()
    path, complete = report.reproduce(name, chosen, trained, results, flags.quick)
    if not complete:
        print("Stopped by the time limit. Run the same command to resume.")
        return
    print(f"{_text(path)}\n\n{path}")


def _settings(flags, experiment):
    given = {name: flags[name].value for name in SETTINGS if flags[name].value is not None}
    if not experiment.rows and given:
        raise ValueError(f"This experiment trains nothing. Omit {', '.join(f'--{name}' for name in given)}.")
    given.update((name, _numbers(name, given[name])) for name in ("epochs", "seeds") if name in given)
    if "dataset" in given:
        given["datasets"] = _split(given.pop("dataset"))
    if "networks" in given:  # whose arguments may contain commas
        given["networks"] = _split(given["networks"], ";" if ":" in given["networks"] else ",")
    return experiment.settings(flags.quick, **given)


def _text(path):
    content = report.read(path)
    title = f"{content['experiment']}: {content['title']}{' (quick check)' if content['quick'] else ''}"
    return f"{title}\n\n{_tables.table(*content['table'])}"


def _split(text, separator=","):
    return tuple(part.strip() for part in text.split(separator) if part.strip())


def _numbers(name, text):
    """Parses a number, or a number for each data set."""
    parts = [part.rpartition(":") for part in text.split(",")]
    numbers = {dataset.strip(): int(number) for dataset, _, number in parts if number.strip().isdecimal()}
    if len(numbers) < len(parts) or 0 in numbers.values() or ("" in numbers and len(parts) > 1):
        example = "cifar10:3,cifar100:2"
        raise ValueError(f"--{name} must be above 0, or one number per data set such as {example}. Received: '{text}'.")
    return numbers.get("", numbers)


def _results(where):
    own = places.own().path
    default = "results" if own.name == "_zoo" else own / "results"  # an installed package, or a checkout
    return pathlib.Path(default if where is None else where)
