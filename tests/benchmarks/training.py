"""Measures a training step on JAX with Keras's `fit`, one program per epoch, and several networks side by side.

    KERAS_BACKEND=jax python -m tests.benchmarks.training
    KERAS_BACKEND=jax python -m tests.benchmarks.training --num_units 9 --channels 16 --side 32 --models 1,4,12

Images are random, with CIFAR's shape and augmentation. Engines run one epoch each in turns, after a warm-up epoch.
Reports the median epoch of each engine, without validation: milliseconds per step (of one network, or of all networks
side by side) and images per second, summed over the networks. `--no-fit` skips `fit`.

On an offline machine that has JAX, NumPy, absl-py, h5py, Pillow and rich, only Keras is missing. Download its wheels
elsewhere for that machine's Python, and install them into a directory of PYTHONPATH. This worked with Python 3.12 and
JAX 0.11.2; an .npz file needs no TensorFlow, scikit-learn or matplotlib:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux2014_x86_64 \
        -d wheels keras==3.15.1 namex optree
    pip install --no-index --no-deps --target /tmp/site wheels/*.whl
    PYTHONPATH=/tmp/site KERAS_BACKEND=jax JAX_COMPILATION_CACHE_DIR=/tmp/jax python -m anytime_keras train \
        --engine=scan --dataset=cifar10.npz --time_limit=480 --checkpoint_every=10 --folder=runs/a

With JAX_COMPILATION_CACHE_DIR, another run of the same shape does not compile again, whatever its seed.
"""

import argparse
import json
import time

import keras
import numpy as np

from anytime_keras import runtime
from anytime_keras.training import Recipe, scan
from anytime_keras.weighting import LossWeighting


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in dict(
        num_units=3, channels=16, exit_every=1, side=32, batch_size=64, steps=30, epochs=5
    ).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--models", default="1", help="numbers of networks side by side, comma-separated")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--no-fit", dest="fit", action="store_false")
    options = parser.parse_args(argv)
    engines = {"fit": fit(options)} if options.fit else {}
    engines.update((f"scan {count}", side_by_side(options, count)) for count in map(int, options.models.split(",")))
    seconds = {name: [] for name in engines}
    for epoch in range(options.epochs + 1):
        for name, run_epoch in engines.items():
            start = time.perf_counter()
            run_epoch(epoch)
            seconds[name].append(time.perf_counter() - start)
    table = {}
    for name, (first, *others) in seconds.items():
        step, count = np.median(others) / options.steps, int(name.partition(" ")[2] or 1)
        table[name] = {
            "ms a step": round(1e3 * step, 3),
            "images/s": round(count * options.batch_size / step),
            "first epoch, s": round(first, 1),
        }
    print(json.dumps({"options": vars(options), "engines": table, "machine": runtime.machine()}, indent=1))


def prepare(options, count, weighting="adaloss"):
    """Returns the data, `count` compiled networks, and their weightings' callbacks."""
    rng = np.random.default_rng(0)
    images = options.batch_size * options.steps
    side = options.side
    arrays = {
        "x_train": rng.integers(0, 256, (images, side, side, 3), "uint8"),
        "y_train": np.arange(images) % 10,
    }
    recipe = Recipe.paper(
        {"name": "resann"} | {key: getattr(options, key) for key in ("num_units", "channels", "exit_every")},
        {"data": arrays, "augment": ["pad_crop", "flip"], "validation": 0, "test": 0},
        batch_size=options.batch_size,
        precision=options.precision,
        weighting=weighting,
    )
    data = recipe.load_data()
    models = [recipe.build_model(data) for _ in range(count)]
    return data, models, [LossWeighting(recipe.build_weighting()) for _ in models]


def fit(options):
    data, (model,), callbacks = prepare(options, 1)
    stream = data.training_stream()

    def run_epoch(epoch):
        model.fit(stream, steps_per_epoch=options.steps, callbacks=callbacks, verbose=0, shuffle=False)

    return run_epoch


def side_by_side(options, count, weighting="adaloss"):
    return epochs(options, count, weighting).train


def compiled_bytes(options, weighting):
    """Returns the bytes that XLA allocates to run an epoch, besides the program's arguments and results."""
    program = epochs(options, 1, weighting)
    compiled, _ = program._program("train", program._train, 0)
    return compiled.memory_analysis().temp_size_in_bytes


def epochs(options, count, weighting):
    """Returns a function that trains `count` networks for an epoch in one program."""
    data, models, weightings = prepare(options, count, weighting)
    for model, each in zip(models, weightings):
        if model.num_exits > 1:
            each.set_model(model)
    return scan.Epochs(models, data, range(count))


if __name__ == "__main__":
    if keras.backend.backend() != "jax":
        raise SystemExit("This measures JAX: set KERAS_BACKEND=jax.")
    main()
