"""The mean squared gradient of each exit's loss, for first-order AdaLoss."""

import math

import keras
from keras import ops

from anytime_keras import graph
from anytime_keras.weighting import replicas


def mean_squares(model, exit_names, losses_of, x, y, sample_weight):
    """Computes, for each exit's loss, half the mean square of its gradient over the parameters that it depends on.

    The forward pass is made once more, with the same batch statistics and its updates thrown away (layers
    with random masks draw new ones); then one backward pass an exit. Over several replicas, gradients
    are summed before they are squared.

    Args:
        model: the model in training.
        exit_names: names of the exits, earliest first.
        losses_of: function `(x, y, y_pred, sample_weight)` -> list of these exits' losses.
        x, y, sample_weight: the batch.

    Returns:
        Tensor of shape `(num_exits,)`.
    """
    trainable = [ops.stop_gradient(ops.convert_to_tensor(variable)) for variable in model.trainable_variables]
    others = [ops.stop_gradient(ops.convert_to_tensor(variable)) for variable in model.non_trainable_variables]

    def losses(values):
        y_pred, _ = model.stateless_call(values, others, x, training=True)
        return ops.stack(losses_of(x, y, y_pred, sample_weight))

    sums = (_jax_sums if keras.backend.backend() == "jax" else _tensorflow_sums)(losses, trainable)
    sizes = [max(size, 1) for size in _sizes(model, exit_names)]
    # Half, as TensorFlow's `l2_loss` in the authors' code has it.
    return ops.stop_gradient(0.5 * sums / ops.convert_to_tensor(sizes, "float32"))


def _sizes(model, exit_names):
    """Counts the trainable parameters that each exit depends on."""
    outputs = graph.outputs_by_name(model)
    for name in exit_names:
        variables = {
            id(variable): variable
            for call in graph.calls(outputs[name], model.inputs)
            if isinstance(call.operation, keras.Layer)
            for variable in call.operation.trainable_variables
        }
        yield sum(math.prod(variable.shape) for variable in variables.values())


def _tensorflow_sums(losses, values):
    import tensorflow as tf

    with tf.GradientTape(persistent=True) as tape:
        tape.watch(values)
        each = tf.unstack(losses(values))
    sums = []
    for loss in each:
        gradients = replicas.total([gradient for gradient in tape.gradient(loss, values) if gradient is not None])
        sums.append(sum(tf.reduce_sum(tf.square(tf.cast(gradient, tf.float32))) for gradient in gradients))
    return tf.stack(sums)


def _jax_sums(losses, values):
    import jax
    import jax.numpy as jnp

    each, backward = jax.vjp(losses, values)

    def of_one(chosen):
        (gradients,) = backward(chosen)
        return sum(jnp.sum(jnp.square(gradient.astype("float32"))) for gradient in gradients)

    return jax.lax.map(of_one, jnp.eye(len(each), dtype=each.dtype))
