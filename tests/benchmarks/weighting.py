"""Measures what a weighting adds to a training step, and writes `results/weighting_<backend>.json`.

    python -m tests.benchmarks.weighting                       # TensorFlow
    KERAS_BACKEND=jax python -m tests.benchmarks.weighting     # JAX

For ResANNs with 5, 27 and 51 exits, measures `fit` on the same batches, alternating between:
    constant      no weighting, the reference: Keras's own sum of the exits' losses
    again         the same again, to measure the noise of the ratios
    adaloss       `ak.AdaLoss()`; target at most 1.01
    host          a callback that reads each batch's losses and assigns the weights from Python
                  (TensorFlow only, because Keras ignores weights assigned this way on JAX)
On JAX also `scan`, AdaLoss over constant weights with one program per epoch, as this library trains on accelerators.
On a CPU it uses 8 x 8 images, because XLA's convolutions are many times slower within such a program.
"""

import argparse

import keras
import numpy as np

import anytime_keras as ak
from anytime_keras import runtime
from tests.benchmarks import measuring, training

NETWORKS = {5: dict(num_units=5, exit_every=3), 27: dict(num_units=9), 51: dict(num_units=17)}


class HostWeights(keras.callbacks.Callback):
    """AdaLoss as a plain callback, which reads losses and assigns weights from Python after each batch."""

    def __init__(self, variables, gamma=0.05, momentum=0.9):
        super().__init__()
        self.variables, self.gamma, self.momentum, self.averages = variables, gamma, momentum, {}
        self.sums = {}

    def on_epoch_begin(self, epoch, logs=None):
        self.sums = dict.fromkeys(self.variables, 0.0)

    def on_train_batch_end(self, batch, logs=None):
        for name in self.variables:
            total = logs[f"{name}_loss"] * (batch + 1)  # Keras logs the epoch's mean so far
            loss, self.sums[name] = total - self.sums[name], total
            self.averages[name] = self.momentum * self.averages.get(name, loss) + (1 - self.momentum) * loss
        least = min(self.averages.values())
        for name, variable in self.variables.items():
            variable.assign((1 - self.gamma) * least / self.averages[name] + self.gamma)


def build(arguments, side, kind):
    """Returns a compiled network and the callbacks of one weighting."""
    keras.utils.set_random_seed(0)
    model = ak.models.build("resann", channels=16, input_shape=(side, side, 3), num_classes=10, **arguments)
    weights = {name: keras.Variable(1.0, trainable=False) for name in model.exit_names} if kind == "host" else None
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        loss_weights=weights,
    )
    callbacks = {"adaloss": [ak.AdaLoss()], "host": [HostWeights(weights)]}.get(kind, [])
    return model, callbacks


def untuned(x, y, batch_size):
    """Returns batches without TensorFlow's autotuning, whose shutdown may take as long as the measurement."""
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size).with_options(options)


def fits(arguments, flags):
    rng = np.random.default_rng(0)
    count = flags.batch_size * flags.steps
    x = rng.normal(size=(count, flags.side, flags.side, 3)).astype("float32")
    y = np.arange(count) % 10
    batches = dict(x=x, y=y, batch_size=flags.batch_size)
    if keras.backend.backend() == "tensorflow":
        batches = dict(x=untuned(x, y, flags.batch_size))
    functions = {}
    for kind in ("constant", "again", "adaloss", *(["host"] if keras.backend.backend() == "tensorflow" else [])):
        model, callbacks = build(arguments, flags.side, kind)
        functions[kind] = lambda model=model, callbacks=callbacks: model.fit(
            **batches, shuffle=False, callbacks=callbacks, verbose=0
        )
    taken = measuring.in_turns(functions, flags.seconds, least=5)
    table = {kind: measuring.ratio(taken, kind, "constant") for kind in functions if kind != "constant"}
    return {**table, "turns": len(taken["constant"]), "steps_a_turn": flags.steps}


def scans(arguments, flags):
    """Measures epochs that run as one program."""
    side = min(8, flags.side) if runtime.on_cpu() else flags.side
    options = {**vars(flags), "side": side, "channels": 16, "precision": "float32", "exit_every": 1, **arguments}
    options = argparse.Namespace(**options)
    programs = {name: training.side_by_side(options, 1, weighting=name) for name in ("constant", "adaloss")}
    taken = measuring.in_turns({name: lambda run=run: run(1) for name, run in programs.items()}, flags.seconds, least=5)
    return {**measuring.ratio(taken, "adaloss", "constant"), "turns": len(taken["constant"]), "side": side}


def main():
    parser = measuring.parser(__doc__, seconds=60.0)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8, help="of a turn")
    parser.add_argument("--exits", default="5,27,51")
    flags = parser.parse_args()
    table = {}
    for exits in map(int, flags.exits.split(",")):
        table[f"{exits}_exits"] = row = fits(NETWORKS[exits], flags)
        # The largest network takes minutes to compile; earlier results are kept if it is interrupted.
        measuring.write(f"weighting_{keras.backend.backend()}", flags, table)
        if keras.backend.backend() == "jax":
            row["scan"] = scans(NETWORKS[exits], flags)
            measuring.write("weighting_jax", flags, table)


if __name__ == "__main__":
    main()
