"""Finetunes a network on a folder of 90 photos, beside the same training from scratch; `results/finetuning.json`.

    python -m tests.benchmarks.finetuning --data=cifar100.npz

Takes twice `--minutes`. The photos are training images of CIFAR-100 of three classes that the network has not learnt,
30 of each, enlarged to 256 x 256 pixels and saved as JPEG. `anytime-keras finetune` runs in a process of its own, and
its time is taken from start to end. Then the same architecture is trained from random weights on the same folder, with
the same recipe and for the same time, but all layers from the start and at the higher learning rate that `finetune`
uses for new layers. Both are measured on the test images of the three classes, through `Classifier`.

Contents of the file, for `finetuned` and `from_scratch`:
    seconds            from start to end, imports and loading included for `finetuned`
    epochs             of the training of all layers
    accuracies         dict from exit to accuracy on the test photos, a fraction
and `gain`, the accuracy at the last exit finetuned minus that from scratch, in percentage points.
"""

import csv
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
from PIL import Image

import anytime_keras as ak
from anytime_keras.training.finetune import image_files, load_images
from tests.benchmarks.measuring import parser, write

CLASSES = ("orchid", "rose", "sunflower")  # Tiny ImageNet has no flowers
SIDE = 256
SCRATCH_RATE = 1e-3


def main():
    made = parser(__doc__, seconds=0)
    made.add_argument("--data", required=True, help="an .npz file of CIFAR-100, with `class_names`")
    made.add_argument("--network", default="msdnet33_adaloss")
    made.add_argument("--minutes", type=float, default=10.0)
    made.add_argument("--images", type=int, default=30, help="of each class")
    made.add_argument("--seed", type=int, default=0)
    flags = made.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos, test, run = (pathlib.Path(folder, name) for name in ("photos", "test", "run"))
        with np.load(flags.data) as file:
            save(file, "train", photos, flags.images)
            truth = save(file, "test", test)
        table = {"classes": CLASSES, "finetuned": finetuned(flags, photos, run)}
        classifier = ak.Classifier.from_preset(run, engine=keras.backend.backend())
        table["finetuned"]["accuracies"] = accuracies(classifier, truth)
        print(table, flush=True)
        classifier, table["from_scratch"] = from_scratch(flags, photos, classifier, run)
        table["from_scratch"]["accuracies"] = accuracies(classifier, truth)
    last = [[*table[way]["accuracies"].values()][-1] for way in ("finetuned", "from_scratch")]
    write("finetuning", flags, {**table, "gain": 100 * (last[0] - last[1])})


def save(file, split, folder, most=None):
    """Writes images of the classes as JPEG files, and returns a dict from path to class name."""
    names, labels, written = [*file["class_names"]], file[f"y_{split}"].reshape(-1), {}
    images = file[f"x_{split}"]
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in np.flatnonzero(labels == names.index(name))[:most]:
            path = folder / name / f"{number}.jpg"
            Image.fromarray(images[number]).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, quality=95)
            written[path] = name
    return written


def finetuned(flags, photos, run):
    """Runs the command line and returns its seconds and epochs."""
    command = [sys.executable, "-m", "anytime_keras", "finetune", flags.network, photos]
    command += [f"--minutes={flags.minutes}", f"--folder={run}", f"--seed={flags.seed}"]
    begin = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - begin
    with open(run / "history.csv", newline="") as file:
        *_, last = csv.DictReader(file)
    return {"seconds": seconds, "epochs": float(last["epochs"])}


def from_scratch(flags, photos, classifier, run):
    """Trains the same architecture from random weights, and returns its classifier and a row of the table."""
    begin = time.monotonic()
    recipe = ak.training.Recipe.from_dict(json.loads((run / "recipe.json").read_text()))
    recipe = dataclasses.replace(recipe, learning_rate=SCRATCH_RATE)
    data = load_images(image_files(photos), classifier.preprocessor, recipe)
    keras.utils.set_random_seed(flags.seed)
    model = type(classifier.model).from_config(classifier.model.get_config())
    trained = ak.training.train(recipe, verbose=False, model=model, data=data, begin=begin)
    row = {"seconds": time.monotonic() - begin, "epochs": trained.history[-1]["epochs"]}
    return ak.Classifier(trained.model, engine=keras.backend.backend()), row


def accuracies(classifier, truth):
    """Returns the accuracy of each exit on the photos in `truth`, a dict from path to class name."""
    right, paths = {}, [*truth]
    for start in range(0, len(paths), 50):
        part, exits = paths[start : start + 50], []
        classifier(part, until=exits.append)
        for answer in exits:
            right.setdefault(answer.exit, []).extend(label == truth[path] for label, path in zip(answer.labels, part))
    return {name: float(np.mean(values)) for name, values in right.items()}


if __name__ == "__main__":
    main()
