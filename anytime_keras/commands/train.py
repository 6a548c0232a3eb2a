"""Train a network from a recipe, with logs, a checkpoint per epoch and exact resumption.

anytime-keras train --model=resann --num_units=9 --channels=16 --dataset=cifar10 --weighting=adaloss --folder=runs/a
anytime-keras train --folder=runs/a --resume
anytime-keras train --dataset=cifar10 --recipe=modern --minutes=60 --set=label_smoothing=0.2 --set=model.exit_every=3

--set changes any field of the recipe by its path; the value is JSON or a word. `recipe.json` in a run's directory shows
all fields. Examples: --set=precision=mixed_bfloat16, --set=weighting.momentum=0.99, --set=distillation.weight=0.5,
--set='weighting.gamma=[1.0,0.05]', --set='sizes=[[32,0.5],[64,0.5]]'.
"""

import json
import pathlib

from absl import flags

from anytime_keras import commands
from anytime_keras.commands import overrides

FLAGS = flags.FlagValues()
_own = dict(flag_values=FLAGS)
flags.DEFINE_string("folder", None, "Output directory. Default: runs/MODEL_DATASET_WEIGHTING.", **_own)
flags.DEFINE_bool("resume", False, "Resume the training run in --folder with its own recipe.", **_own)
flags.DEFINE_string("recipe_file", None, "A recipe as JSON. The flags below override its fields.", **_own)
flags.DEFINE_enum("recipe", "paper", ["paper", "modern"], "Recipe to start from.", **_own)
flags.DEFINE_string("model", "resann", "Name of the network family.", **_own)
flags.DEFINE_integer("num_units", None, "Units per block (ResANN).", **_own)
flags.DEFINE_integer("channels", None, "Filters of the first convolution (ResANN).", **_own)
flags.DEFINE_string("dataset", "digits", "Name of a data set, a directory of images, or an .npz file.", **_own)
flags.DEFINE_string(
    "augment",
    None,
    "Comma-separated augmentation steps, such as pad_crop,flip,rand_augment, or 'none'. An unknown name lists all "
    "steps. keras_cv_... steps need pip install '.[cv]'. Default: the data set's.",
    **_own,
)
flags.DEFINE_string(
    "validation", None, "Fraction (below 1) or number of training images to hold out, or 'last' as the paper.", **_own
)
flags.DEFINE_integer("image_size", None, "Pixels, height and width to crop images of different sizes to.", **_own)
flags.DEFINE_bool("skip_corrupt", False, "Skip images of a directory that cannot be decoded, with a warning.", **_own)
flags.DEFINE_string("data_dir", None, "Data directory of tensorflow-datasets or tiny-imagenet-200.", **_own)
flags.DEFINE_string(
    "weighting", None, "adaloss, constant, linear, half_end, gradnorm, uncertainty, or single_exit:NUMBER.", **_own
)
flags.DEFINE_float("gamma", None, "AdaLoss: fraction of uniform weight. For a pair, see --set above.", **_own)
flags.DEFINE_integer("epochs", None, "Number of epochs. Default: the recipe's.", **_own)
flags.DEFINE_float("minutes", None, "Minutes of the run, evaluation included; replaces --epochs.", **_own)
flags.DEFINE_string("init", None, "Initial weights: the directory of a training run, or a model of the zoo.", **_own)
flags.DEFINE_integer("batch_size", None, "Global batch size, over all devices.", **_own)
flags.DEFINE_float("learning_rate", None, "Peak learning rate.", **_own)
flags.DEFINE_integer("seed", None, "Seed of initialisation, shuffling and augmentation.", **_own)
flags.DEFINE_multi_string("set", [], "A field of the recipe to change, such as --set=optimizer.momentum=0.8.", **_own)
flags.DEFINE_enum(
    "engine", "fit", ["fit", "scan"], "Keras's fit, or one program per epoch (KERAS_BACKEND=jax only).", **_own
)
flags.DEFINE_enum(
    "strategy",
    "none",
    ["none", "mirrored", "multi_worker", "tpu", "data_parallel"],
    "none: one device. mirrored: this machine's GPUs. multi_worker: the machines in TF_CONFIG. tpu: a TPU. "
    "data_parallel: all devices (KERAS_BACKEND=jax only). Devices share each batch; results equal one device's.",
    **_own,
)
flags.DEFINE_float("time_limit", None, "Seconds after which to stop with a checkpoint; --resume continues.", **_own)
flags.DEFINE_integer(
    "checkpoint_every", None, "Epochs between checkpoints. Default: 1, or by time with --minutes.", **_own
)
flags.DEFINE_bool("tensorboard", True, "Write TensorBoard logs.", **_own)


def run(flags, arguments):
    if arguments:
        raise ValueError(f"Unexpected arguments: {arguments}. Pass flags as --epochs=10.")
    from anytime_keras import runtime
    from anytime_keras.training import Recipe, choose_strategy, train

    runtime.repeatable()
    strategy = choose_strategy(flags.strategy)  # before TensorFlow creates anything
    if flags.resume and flags.folder and (pathlib.Path(flags.folder) / "recipe.json").exists():
        recipe = Recipe.from_json(pathlib.Path(flags.folder) / "recipe.json")
        changed = _changes(flags, recipe)
        if changed != recipe:
            raise ValueError(
                f"'{flags.folder}' contains a run with a different recipe. Omit the flags, or choose another --folder."
            )
    elif flags.recipe_file:
        recipe = _changes(flags, Recipe.from_json(flags.recipe_file))
    else:
        start = Recipe.paper if flags.recipe == "paper" else Recipe.modern
        recipe = _changes(flags, start({"name": flags.model}, {"data": flags.dataset}))
    folder = flags.folder or pathlib.Path(
        "runs", "_".join([recipe.model["name"], pathlib.Path(str(recipe.data["data"])).stem, recipe.weighting["name"]])
    )
    run = train(
        recipe,
        folder,
        resume=flags.resume,
        tensorboard=flags.tensorboard,
        engine=flags.engine,
        time_limit=flags.time_limit,
        checkpoint_every=flags.checkpoint_every,
        strategy=strategy,
        begin=commands.begin,
    )
    print(f"\n{'checkpoint' if run.curve is None else 'results'} in {folder}")


# The recipe's field that each flag sets.
FIELDS = {"model": "model.name", "num_units": "model.num_units", "channels": "model.channels", "dataset": "data.data"}
FIELDS |= {name: f"data.{name}" for name in ("image_size", "data_dir", "skip_corrupt")}
FIELDS |= {"gamma": "weighting.gamma"}
FIELDS |= {name: name for name in ("epochs", "batch_size", "learning_rate", "seed", "init")}


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
