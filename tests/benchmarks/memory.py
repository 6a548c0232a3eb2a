"""Measures what exits cost in memory while a network trains, and writes `results/memory_<backend>.json`.

    python -m tests.benchmarks.memory                       # TensorFlow: the process's peak above what it held before
    KERAS_BACKEND=jax python -m tests.benchmarks.memory     # JAX: what the compiler sets aside for the epoch's program

The same ResANN(9, 16) with all of its 27 exits, under AdaLoss, over one with its last exit alone.
"""

import argparse
import json
import resource

import keras
import numpy as np

import anytime_keras as ak
from tests.benchmarks import measuring, training

BATCH = 64


def network(one_exit):
    keras.utils.set_random_seed(0)
    model = ak.models.build("resann", num_units=9, channels=16, input_shape=(32, 32, 3), num_classes=10)
    if one_exit:
        model = keras.Model(model.inputs[0], model.output[model.exit_names[-1]])
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model


def peak():
    """The most bytes this process has held in memory so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def trained(one_exit):
    """Bytes by which this process's peak rose when it trained for three steps: call it in a fresh one."""
    x = np.random.default_rng(0).normal(size=(3 * BATCH, 32, 32, 3)).astype("float32")
    y = np.arange(len(x)) % 10
    model, before = network(one_exit), peak()
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[] if one_exit else [ak.AdaLoss()])
    return peak() - before


def compiled(one_exit):
    """Bytes that XLA sets aside for a program of one epoch, arguments and results left out."""
    exits = 27 if one_exit else 1  # an exit every so many units
    options = dict(num_units=9, channels=16, exit_every=exits, side=32, batch_size=BATCH, steps=3, precision="float32")
    return training.compiled_bytes(argparse.Namespace(**options), "constant" if one_exit else "adaloss")


def main():
    parser = measuring.parser(__doc__, seconds=0)
    parser.add_argument("--one", choices=["one_exit", "all_exits"], help="measure this one in this process, print it")
    flags = parser.parse_args()
    backend = keras.backend.backend()
    if flags.one:
        print(json.dumps((trained if backend == "tensorflow" else compiled)(flags.one == "one_exit")))
        return
    command = ["-m", "tests.benchmarks.memory", "--one"]
    taken = {name: measuring.in_process([*command, name], backend) for name in ("one_exit", "all_exits")}
    table = {"bytes": taken, "ratio": taken["all_exits"] / taken["one_exit"], "batch_size": BATCH}
    measuring.write(f"memory_{backend}", flags, table)


if __name__ == "__main__":
    main()
