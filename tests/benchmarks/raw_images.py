"""Measures accuracy on image files through `Classifier` and exported sets, and writes `results/raw_images.json`.

    python -m tests.benchmarks.raw_images --data=cifar10.npz

Writes the test images of the data set as PNG files and passes their paths to a `Classifier` of the zoo's network, and
to classifiers of its exports to SavedModel, LiteRT, ONNX and OpenVINO. Also runs the SavedModel's signature
`serving_raw` on the uint8 images. Each must have the accuracy in the network's manifest at every exit, which was
measured on the arrays of the data pipeline.

Contents of the file:
    manifest           dict from exit to accuracy, a fraction
    ways               for each way: `accuracies`, as above; `points`, the largest difference from the manifest over
                       all exits, in percentage points, at most 0.1; `other_labels`, the fraction of images whose last
                       exit names another class than `Classifier` on the original network
    worst              the largest `points` of all ways
"""

import pathlib
import tempfile

import keras
import numpy as np
from PIL import Image

import anytime_keras as ak
from tests.benchmarks.measuring import parser, write

FORMATS = ("saved_model", "litert", "onnx", "openvino")
BATCH_SIZE = 100


def main():
    made = parser(__doc__, seconds=0)
    made.add_argument("--data", required=True, help="an .npz file with `x_test` and `y_test`")
    made.add_argument("--network", default="resann5x16_adaloss")
    made.add_argument("--weights", default="cifar10")
    made.add_argument("--images", type=int, default=10000)
    flags = made.parse_args()
    with np.load(flags.data) as file:
        images, truth = file["x_test"][: flags.images], file["y_test"].reshape(-1)[: flags.images]
    manifest = ak.zoo.show(flags.network)
    names = [exit["name"] for exit in manifest.pick(flags.weights).content["exits"]]
    known = dict(zip(names, manifest.pick(flags.weights).accuracies))
    classes, ways = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder, f"{number}.png") for number in range(len(images))]
        for path, image in zip(paths, images):
            Image.fromarray(image).save(path)
        for way, predicted in answers(flags.network, flags.weights, names, paths, images, folder):
            classes[way] = predicted[names[-1]]
            accuracies = {name: float(np.mean(predicted[name] == truth)) for name in names}
            ways[way] = {
                "accuracies": accuracies,
                "points": round(max(100 * abs(accuracies[name] - known[name]) for name in names), 6),
                "other_labels": float(np.mean(classes[way] != classes["classifier"])),
            }
            print(way, ways[way], flush=True)
    worst = max(way["points"] for way in ways.values())
    write("raw_images", flags, {"images": len(images), "manifest": known, "ways": ways, "worst": worst})


def answers(network, weights, names, paths, images, folder):
    """Yields pairs of a way and the classes that it predicts, a dict from exit to an array of int."""
    engine = keras.backend.backend()
    classifier = ak.Classifier.from_preset(network, weights, exits=names, engine=engine)
    yield "classifier", predictions(classifier, paths)
    for kind in FORMATS:
        exported = ak.export(classifier.model, pathlib.Path(folder, kind), format=kind, exits=names)
        yield kind, predictions(ak.Classifier.from_preset(exported), paths)
        if kind == "saved_model":
            yield "serving_raw", served(exported / "saved_model", names, images)


def predictions(classifier, paths):
    """Returns the classes that each exit predicts for image files, a dict of arrays."""
    found = {}
    for start in range(0, len(paths), BATCH_SIZE):
        exits = []
        classifier(paths[start : start + BATCH_SIZE], until=exits.append)
        for answer in exits:
            found.setdefault(answer.exit, []).append(answer.classes)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def served(path, names, images):
    """Returns the same from the signature `serving_raw` of a SavedModel."""
    import tensorflow as tf

    serve, found = tf.saved_model.load(str(path)).signatures["serving_raw"], []
    for start in range(0, len(images), BATCH_SIZE):
        found.append(serve(images=tf.constant(images[start : start + BATCH_SIZE])))
    return {name: np.concatenate([outputs[name].numpy().argmax(axis=1) for outputs in found]) for name in names}


if __name__ == "__main__":
    main()
