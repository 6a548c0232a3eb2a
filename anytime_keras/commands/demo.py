"""Train an anytime network on bundled handwritten digits, measure its exits, and predict under three budgets.

  anytime-keras demo

Then a trained network of the zoo classifies a few photographs. Works offline. Writes the trained network, its curve,
its plot and a picture of the photographs to --folder.
"""

import pathlib

import keras
import numpy as np
from absl import flags

import anytime_keras as ak
from anytime_keras import _tables, runtime
from anytime_keras.evaluation.evaluate import batches

FLAGS = flags.FlagValues()
_own = dict(flag_values=FLAGS)
flags.DEFINE_string("folder", "anytime_demo", "Output directory; results of an earlier demo are replaced.", **_own)
flags.DEFINE_integer("epochs", 30, "Number of epochs.", lower_bound=1, **_own)
flags.DEFINE_integer("seed", 0, "Seed of initialisation, shuffling and augmentation.", lower_bound=0, **_own)
flags.DEFINE_integer("images", 8, "Number of test images to predict.", lower_bound=1, **_own)

BUDGETS = (0.25, 0.5, 1.0)  # fractions of the last exit's MACs
# Networks for photographs, best first. The first is too large for the wheel, so only a checkout has its weights.
NAMES = ("msdnet33_adaloss", "resann5x16_adaloss")


def run(flags, arguments):
    if arguments:
        raise ValueError(f"Unexpected arguments: {arguments}. Pass flags as --epochs=10.")
    folder = pathlib.Path(flags.folder)
    if (folder / "checkpoints").exists():
        raise ValueError(f"'{folder}' contains a training run of `anytime-keras train`. Choose another --folder.")
    recipe = digits_recipe(flags.epochs, flags.seed)
    print("Training a ResANN with AdaLoss on scikit-learn's handwritten digits.\n")
    trained = ak.training.train(recipe, verbose=False, callbacks=[ak.training.ProgressBar()])
    images, labels = map(np.concatenate, zip(*map(runtime.finish, batches(trained.data.test))))
    seconds = ak.evaluation.latencies(trained.model, images[:1])
    columns = {
        "loss weight": trained.weighting.weights.tolist(),
        "latency (ms)": [1e3 * seconds[point.exit] for point in trained.curve],
    }
    print(f"\n{len(images)} test images, at each exit:\n{trained.curve.table(columns)}\n")
    _answer(trained.model, images, labels, flags.images)
    trained.save(folder)
    picture = folder / "curve.png"
    trained.curve.plot(picture, title=f"{len(images)} test images of handwritten digits")
    print(f"\nPlot of error against cost: {picture}. To predict with the saved network:")
    print(f"  anytime-keras predict {folder} IMAGE.png --deadline_ms=5\n")
    name_photos(folder / "photos.png")


def digits_recipe(epochs, seed):
    """Returns the paper's recipe with a schedule and a length that were chosen on validation images."""
    return ak.training.Recipe(
        model={"name": "resann", "num_units": 2, "channels": 16},
        data={"data": "digits", "augment": ["pad_crop"]},
        weighting={"name": "adaloss", "gamma": [1.0, 0.05]},
        schedule={"name": "cosine", "warmup_epochs": 2},
        epochs=epochs,
        batch_size=32,
        seed=seed,
    )


def _answer(model, images, labels, count):
    """Prints predictions under each budget, starting with the images on which the exits disagree."""
    predictor = ak.Predictor(model, example=images)
    last = model.exits[-1].macs
    answers = [predictor.predict(images, budget=share * last) for share in BUDGETS]
    differ = np.array([answer.classes != answers[-1].classes for answer in answers]).any(axis=0)
    chosen = np.argsort(~differ, kind="stable")[:count]
    print(f"Predictions for {count} of them under {len(BUDGETS)} budgets of multiply-accumulates (MACs):")
    headings = [f"{share * last / 1e3:,.0f}k MACs ({answer.exit})" for share, answer in zip(BUDGETS, answers)]
    rows = []
    for image in chosen:
        cells = [f"{answer.classes[image]} ({100 * answer.confidence[image]:.0f}% sure)" for answer in answers]
        rows.append([str(labels[image]), *cells])
    print(_tables.table(["truth", *headings], rows))


def name_photos(path):
    """Classifies photographs with a network of the zoo under each budget; prints and draws the answers."""
    name = next(name for name in NAMES if name in ak.zoo.list(loads=True))
    exits = ak.zoo.show(name).pick().content["exits"]
    budgets = [share * exits[-1]["with_head"] for share in BUDGETS]
    # Only the exits that answer within the budgets, on the backend itself, so that the network is prepared quickly.
    chosen = [[exit["name"] for exit in exits if exit["with_head"] <= budget][-1] for budget in budgets]
    engine = keras.backend.backend()
    classifier = ak.Classifier.from_preset(name, exits=list(dict.fromkeys(chosen)), engine=engine)
    classes = f"{len(classifier.class_names)} classes of {classifier.about['data']['name']}"
    print(f"Photographs, classified by the zoo's '{name}' into the {classes}:")
    headings = [f"{budget / 1e6:.1f}M MACs ({exit})" for budget, exit in zip(budgets, chosen)]
    images = ak.data.photos()
    answers = [[classifier(image, budget=budget) for budget in budgets] for image in images.values()]
    rows = []
    for title, found in zip(images, answers):
        rows.append([title, *(f"{short(each.label)} ({100 * each.confidence[0]:.0f}% sure)" for each in found)])
    print(_tables.table(["photograph", *headings], rows))
    ak.evaluation.plot_photos(list(images.values()), answers, headings, path)
    print(f"Picture of the answers: {path}")


def short(label):
    """Returns the first of a label's names."""
    return label.split(",")[0]
