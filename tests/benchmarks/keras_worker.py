"""Trains our MSDNet for `throughput.py`, a number of steps at a time. The counterpart of `torch_worker.py`.

    KERAS_BACKEND=... python -m tests.benchmarks.keras_worker NETWORK BATCH MODE

NETWORK is a name of `ak.models.build`, or "resann9x16". MODE is "float32" or "mixed_bfloat16", with "+xla" to compile
on TensorFlow. On JAX, a step is one program. The first line it prints is "ready" and the network's MACs for one image.
"""

import sys
import time

import keras
import numpy as np

import anytime_keras as ak


def main(name, batch, mode):
    batch, (precision, *xla) = int(batch), mode.split("+")
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(precision)
    model = ak.models.build("resann", num_units=9, channels=16) if name == "resann9x16" else ak.models.build(name)
    keras.config.set_dtype_policy("float32")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, *model.image_shape)).astype("float32")
    y = rng.integers(0, model.num_classes, batch).astype("int32")
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=bool(xla) or keras.backend.backend() == "jax",
    )
    steps = on_jax(model, x, y) if keras.backend.backend() == "jax" else on_tensorflow(model, x, y)
    print("ready", ak.cost.exit_costs(model)[-1].with_all_heads, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        steps(int(line))
        print(time.perf_counter() - start, flush=True)


def on_tensorflow(model, x, y):
    import tensorflow as tf

    x, y = tf.constant(x), tf.constant(y)
    options = tf.data.Options()
    options.autotune.enabled = False  # otherwise ending an iterator may take seconds
    batches = tf.data.Dataset.from_tensors((x, y)).repeat().with_options(options)
    model.train_on_batch(x, y)  # creates the variables
    model.make_train_function()

    def steps(count):
        iterator = iter(batches)
        for _ in range(count):
            logs = model.train_function(iterator)
        float(logs["loss"])

    return steps


def on_jax(model, x, y):
    import jax

    model.train_on_batch(x, y)
    groups = (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables)
    groups = (*groups, model.metrics_variables)
    state = tuple([variable.value for variable in group] for group in groups)
    batch = jax.device_put((x, y))

    @jax.jit
    def step(state, batch):
        return model.train_step(state, batch)[1]

    def steps(count):
        nonlocal state
        for _ in range(count):
            state = step(state, batch)
        jax.block_until_ready(state)

    return steps


if __name__ == "__main__":
    main(*sys.argv[1:])
