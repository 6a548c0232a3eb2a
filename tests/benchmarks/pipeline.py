"""Measures whether the input pipeline keeps up with the training step, and writes `results/pipeline_tensorflow.json`.

    python -m tests.benchmarks.pipeline

For each kind of data, compares two rates in images per second: reading the training split with the paper's
augmentation, and training steps on batches in memory, with the network that the paper trains on such data. The target
is 2. The two are measured alternately, not at the same time; reading starts anew each time, and prefetched images are
not counted. During training, both share the processors if they use the same ones.
    arrays     60,000 images of CIFAR's kind in memory; ResANN(9, 16)
    folder     PNG files of CIFAR's kind, decoded each time; ResANN(9, 16)
    ilsvrc     JPEG files of 500 x 375, random-resized crops to 224 x 224; MSDNet step 4
Images are random but smooth, because decoding time depends on the content.
"""

import pathlib
import tempfile
import time

import keras
import numpy as np
from PIL import Image

import anytime_keras as ak
from tests.benchmarks import measuring

CLASSES = 10


def picture(rng, width, height):
    """Returns a smooth random image, enlarged from a small one."""
    small = rng.integers(0, 256, (height // 8 or 1, width // 8 or 1, 3), "uint8")
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def folder(place, count, size, suffix):
    rng = np.random.default_rng(0)
    for split, number in (("train", count), ("test", CLASSES)):
        for index in range(number):
            path = pathlib.Path(place) / split / f"class_{index % CLASSES}" / f"{index}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(rng, *size).save(path)
    return place


def arrays():
    rng = np.random.default_rng(0)
    return {"x_train": rng.integers(0, 256, (60000, 32, 32, 3), "uint8"), "y_train": np.arange(60000) % CLASSES}


def measure(data, network, batch_size, batches, seconds):
    """Compares reading `batches` batches with training steps on one batch in memory."""
    model = ak.models.build(**network, num_classes=CLASSES)
    model.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    held = next(iter(data.training_stream()))
    reading, training = [], []
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(reading) < 3:
        stream = iter(data.training_stream())
        for _ in range(batches // 2):  # fills the prefetch buffers
            next(stream)
        start = time.perf_counter()
        for _ in range(batches):
            next(stream)
        reading.append((time.perf_counter() - start) / batches)
        del stream
        model.train_on_batch(*held)
        start = time.perf_counter()
        for _ in range(3):
            model.train_on_batch(*held)
        training.append((time.perf_counter() - start) / 3)
    read_rate, train_rate = batch_size / np.median(reading), batch_size / np.median(training)
    return {"ratio": read_rate / train_rate, "images_a_second": read_rate, "trained_a_second": train_rate}


def main():
    parser = measuring.parser(__doc__, seconds=30.0)
    flags = parser.parse_args()
    small = {"augment": ["pad_crop", "flip"], "validation": 0, "batch_size": 64}
    resann = dict(name="resann", num_units=9, channels=16, input_shape=(32, 32, 3))
    step4 = dict(name="msdnet_step4", input_shape=(224, 224, 3))
    with tempfile.TemporaryDirectory() as place:
        pngs = folder(f"{place}/png", 2000, (32, 32), "png")
        jpegs = folder(f"{place}/jpeg", 600, (500, 375), "jpeg")
        crops = dict(image_size=(224, 224), augment=["flip", "color", "lighting"], validation=0, batch_size=16)
        table = {
            "arrays": measure(ak.data.load(arrays(), test=0, **small), resann, 64, 200, flags.seconds),
            "folder": measure(ak.data.load(pngs, image_size=(32, 32), **small), resann, 64, 60, flags.seconds),
            "ilsvrc": measure(ak.data.load(jpegs, **crops), step4, 16, 40, flags.seconds),
        }
    measuring.write("pipeline_tensorflow", flags, table)


if __name__ == "__main__":
    main()
