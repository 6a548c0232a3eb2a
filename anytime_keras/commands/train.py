"""Train a network from a recipe, with logs, a checkpoint per epoch and exact resumption.

anytime-keras train --model=resann --num_units=9 --channels=16 --dataset=cifar10 --weighting=adaloss --folder=runs/a
anytime-keras train --folder=runs/a --resume
anytime-keras train --dataset=cifar10 --recipe=modern --minutes=60 --set=label_smoothing=0.2 --set=model.exit_every=3

--set changes any field of the recipe by its path; the value is JSON or text. `recipe.json` in a run's directory shows
all fields. Examples: --set=precision=mixed_bfloat16, --set=weighting.momentum=0.99, --set=distillation.weight=0.5,
--set='weighting.gamma=[1.0,0.05]', --set='sizes=[[32,0.5],[64,0.5]]'.

--augment replaces the data set's augmentation; an unknown name lists all steps. Steps named keras_cv_... need
pip install '.[cv]'. --strategy selects the devices: "mirrored" this machine's GPUs, "multi_worker" the machines in
TF_CONFIG, "tpu" a TPU, "data_parallel" all devices (KERAS_BACKEND=jax). Results equal those of one device.
"""

import json
import pathlib

from absl import flags

import anytime_keras as ak
from anytime_keras import commands, runtime
from anytime_keras.commands import overrides
from anytime_keras.training import Recipe, strategy

FLAGS = flags.FlagValues()
_own = dict(flag_values=FLAGS)
flags.DEFINE_string("folder", None, "Output directory. Default: runs/MODEL_DATASET_WEIGHTING.", **_own)
flags.DEFINE_bool("resume", False, "Resume the run in --folder with its recipe, which other flags must match.", **_own)
flags.DEFINE_string("recipe_file", None, "A recipe as JSON. The flags below override its fields.", **_own)
flags.DEFINE_enum("recipe", "paper", ["paper", "modern"], "Recipe to start from: `Recipe.paper` or `.modern`.", **_own)
flags.DEFINE_string("model", "resann", "Name of the network family.", **_own)
flags.DEFINE_integer("num_units", None, "Units per block (ResANN).", **_own)
flags.DEFINE_integer("channels", None, "Filters of the first convolution (ResANN).", **_own)
flags.DEFINE_string("dataset", "digits", "Name of a data set, a directory of images, or an .npz file.", **_own)
flags.DEFINE_string("augment", None, "Augmentation steps such as pad_crop,flip, or 'none'; see above.", **_own)
flags.DEFINE_string("validation", None, "Fraction or number of images to hold out, or 'last' as in the paper.", **_own)
flags.DEFINE_integer("image_size", None, "Pixels, height and width to crop images of different sizes to.", **_own)
flags.DEFINE_bool("skip_corrupt", False, "Skip images of a directory that cannot be decoded, with a warning.", **_own)
flags.DEFINE_string("data_dir", None, "Data directory of tensorflow-datasets or tiny-imagenet-200.", **_own)
SCHEMES = "adaloss, constant, linear, half_end, gradnorm, uncertainty, or single_exit:NUMBER."
flags.DEFINE_string("weighting", None, SCHEMES, **_own)
flags.DEFINE_float("gamma", None, "AdaLoss: fraction of uniform weight. For a pair, see --set above.", **_own)
flags.DEFINE_integer("epochs", None, "Number of epochs. Default: the recipe's.", **_own)
flags.DEFINE_float("minutes", None, "Minutes of the run, evaluation included; replaces --epochs.", **_own)
flags.DEFINE_string("init", None, "Initial weights: the directory of a training run, or a model of the zoo.", **_own)
flags.DEFINE_integer("batch_size", None, "Global batch size, over all devices.", **_own)
flags.DEFINE_float("learning_rate", None, "Peak learning rate.", **_own)
flags.DEFINE_integer("seed", None, "Seed of initialisation, shuffling and augmentation.", **_own)
flags.DEFINE_multi_string("set", [], "A field of the recipe to change, such as --set=optimizer.momentum=0.8.", **_own)
flags.DEFINE_enum("engine", "fit", ["fit", "scan"], "Keras's fit, or one program per epoch (JAX only).", **_own)
flags.DEFINE_enum("strategy", "none", strategy.NAMES, "The devices that share each batch; see above.", **_own)
flags.DEFINE_float("time_limit", None, "Seconds after which to stop with a checkpoint; --resume continues.", **_own)
flags.DEFINE_integer("checkpoint_every", None, "Epochs between checkpoints: 1, or by time with --minutes.", **_own)
flags.DEFINE_bool("tensorboard", True, "Write TensorBoard logs.", **_own)


def run(flags, arguments):
    if arguments:
        raise ValueError(f"Unexpected arguments: {arguments}. Pass flags as --epochs=10.")
    runtime.repeatable()
    strategy = ak.training.choose_strategy(flags.strategy)  # before TensorFlow creates anything
    recipe = _recipe(flags)
    folder = flags.folder or pathlib.Path(
        "runs", "_".join([recipe.model["name"], pathlib.Path(str(recipe.data["data"])).stem, recipe.weighting["name"]])
    )
    own = ("resume", "tensorboard", "engine", "time_limit", "checkpoint_every")
    options = {name: flags[name].value for name in own}
    run = ak.training.train(recipe, folder, strategy=strategy, begin=commands.begin, **options)
    print(f"\n{'checkpoint' if run.curve is None else 'results'} in {folder}")


FIELDS = {"model": "model.name", "dataset": "data.data", "gamma": "weighting.gamma"}  # the recipe's, by flag
FIELDS |= {name: f"model.{name}" for name in ("num_units", "channels")}
FIELDS |= {name: f"data.{name}" for name in ("image_size", "data_dir", "skip_corrupt")}
FIELDS |= {name: name for name in ("epochs", "batch_size", "learning_rate", "seed", "init")}


def _recipe(flags):
    """Returns the recipe of the flags. With --resume it is that of the run in --folder, which the flags must match."""
    saved = pathlib.Path(flags.folder or "", "recipe.json")
    before = Recipe.from_json(saved) if flags.resume and flags.folder and saved.exists() else None
    if flags.recipe_file:
        start = Recipe.from_json(flags.recipe_file)
    elif before is None or flags["recipe"].present:
        kind = Recipe.paper if flags.recipe == "paper" else Recipe.modern
        start = kind({"name": flags.model}, {"data": flags.dataset})
    else:
        start = before
    recipe = _changes(flags, start)
    if before is not None and recipe != before:
        differing = [name for name, value in before.to_dict().items() if value != recipe.to_dict()[name]]
        raise ValueError(
            f"'{flags.folder}' contains a run with a different recipe: {', '.join(differing)} differ. Omit the flags, "
            "or choose another --folder."
        )
    return recipe


def _changes(flags, recipe):
    """Returns the recipe with the given flags applied."""
    settings = []
    if flags.weighting:
        name, _, exit_name = flags.weighting.partition(":")
        number = int(exit_name) if exit_name.lstrip("-").isdigit() else exit_name
        settings.append(f"weighting={json.dumps({'name': name, **({'exit': number} if exit_name else {})})}")
    if flags.augment:
        settings.append(f"data.augment={'[]' if flags.augment == 'none' else flags.augment}")
    if flags.validation:
        settings.append(f"data.validation={flags.validation}")
    settings += [f"{field}={json.dumps(flags[name].value)}" for name, field in FIELDS.items() if flags[name].present]
    recipe = type(recipe).from_dict(overrides.changed(recipe.to_dict(), [*settings, *flags.set]))
    return recipe if flags.minutes is None else recipe.with_minutes(flags.minutes)
