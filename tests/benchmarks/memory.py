"""Measures the memory that exits need during training, and writes `results/memory_<backend>.json`.

    python -m tests.benchmarks.memory                       # TensorFlow: increase of the process's peak memory
    KERAS_BACKEND=jax python -m tests.benchmarks.memory     # JAX: memory that XLA allocates for the epoch's program

Compares ResANN(9, 16) with all 27 exits, trained with AdaLoss, with the same network with only its last exit.
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
    """Returns the peak memory of this process so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def trained(one_exit):
    """Returns by how many bytes three training steps raise this process's peak; needs a fresh process."""
    x = np.random.default_rng(0).normal(size=(3 * BATCH, 32, 32, 3)).astype("float32")
    y = np.arange(len(x)) % 10
    model, before = network(one_exit), peak()
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[] if one_exit else [ak.AdaLoss()])
    return peak() - before


def compiled(one_exit):
    """Returns the bytes that XLA allocates for a program of one epoch, without arguments and results."""
    exits = 27 if one_exit else 1  # units per exit
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
