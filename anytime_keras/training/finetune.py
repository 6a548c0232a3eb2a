"""`finetune`: trains a network on a folder of images with other classes, starting from its weights."""

import pathlib
import time

import keras
import numpy as np

from anytime_keras import data as data_sets
from anytime_keras import models, zoo
from anytime_keras.data import folder as image_folders
from anytime_keras.preprocessing import Preprocessor
from anytime_keras.training.fit import train
from anytime_keras.training.heads import train_heads
from anytime_keras.training.recipe import GIVEN, Recipe
from anytime_keras.training.run import check_single

HEADS_SHARE = 0.25  # of the time, at most, in which only the heads are trained
WHOLE_RATE = 1 / 3  # the learning rate of all layers, relative to that of the heads alone
AUGMENT = ["pad_crop", "flip", "color"]
LEAST_IMAGES = 10  # with fewer, the validation error is meaningless
CHUNK = 64  # images to decode at once


def finetune(
    model,
    folder,
    minutes=10.0,
    to=None,
    validation=0.2,
    batch_size=32,
    learning_rate=1e-3,
    seed=0,
    verbose=True,
    begin=None,
    name=None,
):
    """Trains a network on a folder of images, starting from its weights, with new last layers for the folder's classes.

    First the exits' heads are trained with all other layers frozen, for at most a quarter of the time, then all layers
    at a lower learning rate with AdaLoss and a cosine schedule. Both parts use label smoothing and AdamW. Images are
    resized, cropped and normalized by the network's own `preprocessor`, then shifted, flipped and changed in color at
    random. A part of the images, stratified by class, is held out for validation.
    Reference for training the heads first: [Kumar et al., ICLR 2022](https://arxiv.org/abs/2202.10054).

    With `to`, writes what `train` writes, and a plot: `model.keras`, `curve.json` and `curve.png` (the validation error
    at each exit against its cost), `data.json`, `recipe.json` and `history.csv`.

    Args:
        model: `AnytimeModel` with a `preprocessor`, or the name of a network of the zoo. A network that is not of a
            family of `ak.models.build`, such as a result of `to_anytime`, shares its layers with the result.
        folder: path of a folder with one folder of images per class (`folder/cat/1.jpg`, `folder/dog/1.jpg`), or with
            folders `train` and `validation` of that form.
        minutes: float, how long everything takes, from reading the images to the saved network.
        to: output directory, which must not contain a run; None to write nothing.
        validation: fraction or number of images to hold out, if the folder has no `validation`.
        batch_size: int.
        learning_rate: float, the highest rate for the heads. The highest rate for all layers is a third of it.
        seed: int, for the split, the new layers and the augmentation.
        verbose: bool, whether to print the recipe, a progress bar and the errors.
        begin: float, the start of the `minutes`, in seconds of `time.monotonic`; None for now.
        name: str, the name of the network in the recipe and in plots; None is the model's own.

    Returns:
        A `Run`, with the network in `model` and its errors on the validation images in `curve`.

    Raises:
        ValueError: if the folder has fewer than 10 images, two images per class, or two classes; if an image cannot be
            decoded (the error names it); if the network has no preprocessor; if `to` contains a run; or as in `train`.

    Example:
    >>> import tempfile, pathlib, numpy as np, anytime_keras as ak
    >>> from PIL import Image
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for number in range(12):
    ...     path = folder / ["dark", "bright"][number % 2] / f"{number}.png"
    ...     path.parent.mkdir(exist_ok=True)
    ...     Image.fromarray(np.full((8, 8), 40 + 160 * (number % 2) + number, "uint8")).save(path)
    >>> run = ak.training.finetune("resann2x16_adaloss_digits", folder, minutes=0.05, verbose=False)
    >>> run.model.class_names, len(run.curve), run.curve.about["split"]
    (['bright', 'dark'], 6, 'validation')
    """
    begin = time.monotonic() if begin is None else begin
    to = None if to is None else pathlib.Path(to)
    if to is not None and any((to / name).exists() for name in ("recipe.json", "model.keras")):
        raise ValueError(
            f"`to` must not contain a run. Received: '{to}', which does. Choose another folder, or remove this one."
        )
    check_single(model)
    name = name or (model if isinstance(model, str) else model.name)
    recipe = recipe_for(name, folder, minutes, validation, batch_size, learning_rate, seed)
    model = zoo.load(model) if isinstance(model, str) else model
    files = image_files(folder)
    if getattr(model, "preprocessor", None) is None:
        raise ValueError(
            "`model` must have a `preprocessor`, which turns images into its inputs. Received: none in the network "
            f"'{model.name}'. Set it: `model.preprocessor = ak.preprocessing.Preprocessor(...)`."
        )
    data = load_images(files, model.preprocessor, recipe)
    keras.utils.set_random_seed(seed)
    model = models.with_classes(model, data.num_classes)
    heads_optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=recipe.optimizer["weight_decay"])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing)
    train_heads(model, data, HEADS_SHARE * 60 * minutes, heads_optimizer, loss, verbose)
    run = train(recipe, to, verbose=verbose, tensorboard=False, begin=begin, model=model, data=data)
    if to is not None:
        run.curve.plot(to / "curve.png")
    return run


def recipe_for(name, folder, minutes, validation, batch_size, learning_rate, seed):
    """Returns the recipe for all layers, or raises ValueError if an argument of `finetune` is not valid."""
    return Recipe(
        model={"name": GIVEN, "from": name},
        data={"data": str(folder), "validation": validation, "test": 0, "augment": AUGMENT},
        optimizer={"name": "adamw", "weight_decay": 0.01},
        learning_rate=WHOLE_RATE * learning_rate,
        schedule={"name": "cosine", "warmup": 0.1},
        weight_decay=0.0,
        label_smoothing=0.1,
        batch_size=batch_size,
        seed=seed,
        minutes=minutes,
    )


def image_files(folder):
    """Returns the `Source` of a folder's image files, or raises ValueError if they are too few to train on."""
    if not pathlib.Path(folder).is_dir():
        raise ValueError(f"There is no folder '{folder}'. Pass a folder with one folder of images per class.")
    source = image_folders.load(folder, image_size=(1, 1))  # files are only listed
    train = source.splits["train"]
    if len(source.class_names) < 2:
        raise ValueError(
            f"'{folder}' must contain a folder of images for each of at least two classes. Received: "
            f"{source.class_names}. Add a folder."
        )
    if len(train) < LEAST_IMAGES:
        raise ValueError(
            f"'{folder}' must contain at least {LEAST_IMAGES} images. Received: {len(train)}. Add images, if possible "
            "30 per class."
        )
    counts = np.bincount(train.labels, minlength=len(source.class_names))
    if counts.min() < 2:
        raise ValueError(
            "Each class needs at least two images, because one may be held out for validation. Received: "
            f"{counts.min()} of class '{source.class_names[counts.argmin()]}' in '{folder}'. Add images, or remove the "
            "class."
        )
    return source


def load_images(source, preprocessor, recipe):
    """Returns the `DataSet` of a `Source` of image files, resized and cropped as a network's preprocessor does."""
    raw = Preprocessor.from_config({**preprocessor.get_config(), "mean": 0.0, "std": 1.0})
    arrays = {"class_names": source.class_names}
    for split, examples in source.splits.items():
        images = np.empty((len(examples), *preprocessor.image_shape), "uint8")
        for start in range(0, len(examples), CHUNK):
            images[start : start + CHUNK] = np.rint(255 * raw(examples.paths[start : start + CHUNK]))
        arrays.update({f"x_{split}": images, f"y_{split}": examples.labels})
    options = {name: recipe.data[name] for name in ("validation", "test", "augment")}
    options.update(seed=recipe.seed, split_seed=recipe.seed, one_hot=recipe.label_smoothing > 0)
    data = data_sets.load(arrays, recipe.batch_size, **options)
    data.name = source.name
    data.normalize(preprocessor.mean, preprocessor.std)
    return data
