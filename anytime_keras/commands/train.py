"""Train a network from a recipe, with logs, a checkpoint per epoch and exact resumption.

anytime-keras train --model=resann --num_units=9 --channels=16 --dataset=cifar10 --weighting=adaloss --folder=runs/a
anytime-keras train --folder=runs/a --resume
anytime-keras train --dataset=cifar10 --recipe=modern --minutes=60
"""

import json
import pathlib

from absl import flags

from anytime_keras import commands

FLAGS = flags.FlagValues()
_own = dict(flag_values=FLAGS)
flags.DEFINE_string("folder", None, "Output directory. Default: runs/MODEL_DATASET_WEIGHTING.", **_own)
flags.DEFINE_bool("resume", False, "Resume the training run in --folder with its own recipe.", **_own)
flags.DEFINE_string("recipe_file", None, "A recipe as JSON. The flags below override its fields.", **_own)
flags.DEFINE_enum("recipe", "paper", ["paper", "modern"], "Recipe to start from.", **_own)
flags.DEFINE_string("model", "resann", "Name of the network family.", **_own)
flags.DEFINE_integer("num_units", None, "Units per block (ResANN).", **_own)
flags.DEFINE_integer("channels", None, "Filters of the first convolution (ResANN).", **_own)
flags.DEFINE_integer("exit_every", None, "Units between consecutive exits (ResANN).", **_own)
flags.DEFINE_enum(
    "preset", None, ["paper", "authors_code"], "Which to follow where the authors' paper and code differ.", **_own
)
flags.DEFINE_string("model_config", None, "Further arguments of the network, as a JSON object.", **_own)
flags.DEFINE_string("dataset", "digits", "Name of a data set, a directory of images, or an .npz file.", **_own)
flags.DEFINE_string(
    "augment",
    None,
    "Comma-separated augmentation steps, such as pad_crop,flip,rand_augment, or 'none'. An unknown name lists all "
    "steps. keras_cv_... steps need pip install '.[cv]'. Default: the data set's.",
    **_own,
)
flags.DEFINE_float("validation", None, "Fraction (below 1) or number of training images to hold out.", **_own)
flags.DEFINE_integer("image_size", None, "Pixels, height and width to crop images of different sizes to.", **_own)
flags.DEFINE_bool("skip_corrupt", False, "Skip images of a directory that cannot be decoded, with a warning.", **_own)
flags.DEFINE_string("data_dir", None, "Data directory of tensorflow-datasets or tiny-imagenet-200.", **_own)
flags.DEFINE_string(
    "weighting", None, "adaloss, constant, linear, half_end, gradnorm, uncertainty, or single_exit:NUMBER.", **_own
)
flags.DEFINE_float("gamma", None, "AdaLoss: fraction of uniform weight.", **_own)
flags.DEFINE_float("momentum", None, "AdaLoss: momentum of the running means.", **_own)
flags.DEFINE_integer("update_period", None, "AdaLoss: batches between weight updates.", **_own)
flags.DEFINE_integer("epochs", None, "Number of epochs. Default: the recipe's.", **_own)
flags.DEFINE_float("minutes", None, "Minutes of the run, evaluation included; replaces --epochs.", **_own)
flags.DEFINE_string("sizes", None, "Image sizes in pixels with their fractions of the run: 32:0.5,64:0.5.", **_own)
flags.DEFINE_string("init", None, "Initial weights: the directory of a training run, or a model of the zoo.", **_own)
flags.DEFINE_integer("batch_size", None, "Global batch size, over all devices.", **_own)
flags.DEFINE_float("learning_rate", None, "Peak learning rate.", **_own)
flags.DEFINE_float(
    "weight_decay", None, "L2 penalty as in the paper: adds half of this times the squared norm to the loss.", **_own
)
flags.DEFINE_float("label_smoothing", None, "Label smoothing.", **_own)
flags.DEFINE_enum("schedule", None, ["step", "cosine", "constant"], "Learning-rate schedule.", **_own)
flags.DEFINE_string("optimizer", None, "Keras optimizer, such as sgd or adamw.", **_own)
flags.DEFINE_integer("seed", None, "Seed of initialisation, shuffling and augmentation.", **_own)
flags.DEFINE_string("precision", None, "Keras dtype policy, such as mixed_bfloat16.", **_own)
flags.DEFINE_integer("steps_per_execution", None, "Batches per call of the compiled training function.", **_own)
flags.DEFINE_float("ema_momentum", None, "Also evaluate a moving average of the weights, with this momentum.", **_own)
flags.DEFINE_float("distillation", None, "Weight of the distillation loss from the last exit to earlier ones.", **_own)
flags.DEFINE_float("temperature", None, "Temperature of --distillation.", **_own)
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


def _changes(flags, recipe):
    """Returns the recipe with the given flags applied."""
    content = recipe.to_dict()
    if flags["model"].present:
        content["model"]["name"] = flags.model
    for name in ("num_units", "channels", "exit_every", "preset"):
        if flags[name].present:
            content["model"][name] = flags[name].value
    if flags.model_config:
        try:
            content["model"].update(json.loads(flags.model_config))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"--model_config must be a JSON object such as '{{\"num_units\": 5}}'. Received: "
                f"{flags.model_config!r}: {error}."
            ) from error
    if flags["dataset"].present:
        content["data"]["data"] = flags.dataset
    if flags["augment"].present:
        content["data"]["augment"] = [] if flags.augment == "none" else flags.augment
    if flags["validation"].present:
        if flags.validation == 1 or (flags.validation > 1 and flags.validation % 1):
            raise ValueError(
                f"--validation must be a fraction below 1 or an int above 1. Received: {flags.validation}."
            )
        content["data"]["validation"] = flags.validation if flags.validation < 1 else int(flags.validation)
    for name in ("image_size", "data_dir", "skip_corrupt"):
        if flags[name].present:
            content["data"][name] = flags[name].value
    if flags["weighting"].present:
        name, _, exit_name = flags.weighting.partition(":")
        content["weighting"] = {"name": name}
        if exit_name:
            content["weighting"]["exit"] = int(exit_name) if exit_name.lstrip("-").isdigit() else exit_name
    for name in ("gamma", "momentum", "update_period"):
        if flags[name].present:
            content["weighting"][name] = flags[name].value
    for flag, name in (("distillation", "weight"), ("temperature", "temperature")):
        if flags[flag].present:
            content["distillation"] = {**(content["distillation"] or {}), name: flags[flag].value}
    for name in ("schedule", "optimizer"):
        if flags[name].present and flags[name].value != content[name]["name"]:
            content[name] = {"name": flags[name].value}
    for name in (
        "epochs",
        "batch_size",
        "learning_rate",
        "weight_decay",
        "label_smoothing",
        "seed",
        "precision",
        "steps_per_execution",
        "ema_momentum",
        "init",
    ):
        if flags[name].present:
            content[name] = flags[name].value
    if flags["sizes"].present:
        content["sizes"] = _sizes(flags.sizes)
    recipe = type(recipe).from_dict(content)
    return recipe if flags.minutes is None else recipe.with_minutes(flags.minutes)


def _sizes(text):
    """
    >>> _sizes("32:0.5,64:0.5")
    [[32, 0.5], [64, 0.5]]
    """
    try:
        pairs = [pair.split(":") for pair in text.split(",")]
        return [[int(side), float(share)] for side, share in pairs]
    except ValueError as error:
        raise ValueError(f"--sizes must look like --sizes=32:0.5,48:0.3,64:0.2. Received: --sizes={text}.") from error
