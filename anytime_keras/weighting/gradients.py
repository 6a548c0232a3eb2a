"""The size of the gradient of each exit's loss, for weightings that depend on it."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from anytime_keras import graph
from anytime_keras._lazy import jax, tf
from anytime_keras.weighting import replicas


def mean_squares(model: keras.Model, exit_names: Sequence[str], losses_of: Callable, x: Any) -> Any:
    """Computes half the mean square of each loss's gradient over the parameters that the exit depends on.

    It takes one more forward pass with the same batch, whose updates are discarded (layers with random masks draw new
    ones), and one backward pass per exit. On several replicas, gradients are summed before they are squared. The
    function `losses_of` computes the losses of the exits from the model's outputs. All are of shape `(num_exits,)`.
    """
    dependencies = [variables.values() for variables in _dependencies(model, exit_names)]
    sizes = [max(sum(math.prod(variable.shape) for variable in variables), 1) for variables in dependencies]
    # Half of it, as `l2_loss` of TensorFlow in the authors' code.
    return 0.5 * _squares(model, losses_of, x) / ops.convert_to_tensor(sizes, "float32")


def norms(model: keras.Model, exit_names: Sequence[str], losses_of: Callable, x: Any) -> Any:
    """Computes the L2 norm of each loss's gradient; see `mean_squares` for arguments, result and cost."""
    return ops.sqrt(_squares(model, losses_of, x))


def shared_norms(model: keras.Model, exit_names: Sequence[str], losses_of: Callable, x: Any) -> Any:
    """Computes the L2 norm of each loss's gradient over the parameters that every exit depends on."""
    shared = set.intersection(*map(set, _dependencies(model, exit_names)))
    chosen = [position for position, each in enumerate(model.trainable_variables) if id(each) in shared]
    if not chosen:
        raise ValueError(
            "GradNorm needs trainable parameters that all exits depend on. "
            f"Received: model '{model.name}' with exits {list(exit_names)}, which share none. Choose another weighting."
        )
    return ops.sqrt(_squares(model, losses_of, x, chosen))


def _squares(model, losses_of, x, chosen=None):
    """Sums the squares of each loss's gradient over the trainable variables, or those at the positions `chosen`."""
    chosen = range(len(model.trainable_variables)) if chosen is None else chosen
    trainable = [ops.stop_gradient(ops.convert_to_tensor(variable)) for variable in model.trainable_variables]
    others = [ops.stop_gradient(ops.convert_to_tensor(variable)) for variable in model.non_trainable_variables]

    def losses(values):
        every = list(trainable)
        for position, value in zip(chosen, values):
            every[position] = value
        y_pred, _ = model.stateless_call(every, others, x, training=True)
        return losses_of(y_pred)

    sums = _jax_sums if keras.backend.backend() == "jax" else _tensorflow_sums
    return ops.stop_gradient(sums(losses, [trainable[position] for position in chosen]))


def _dependencies(model, exit_names):
    """Returns the trainable variables that each exit depends on, by their `id`."""
    outputs = graph.outputs_by_name(model)
    return [
        {
            id(variable): variable
            for call in graph.calls(outputs[name], model.inputs)
            if isinstance(call.operation, keras.Layer)
            for variable in call.operation.trainable_variables
        }
        for name in exit_names
    ]


def _tensorflow_sums(losses, values):
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(values)
        each = tf.unstack(losses(values))
    sums = []
    for loss in each:
        gradients = replicas.total([gradient for gradient in tape.gradient(loss, values) if gradient is not None])
        sums.append(sum(tf.reduce_sum(tf.square(tf.cast(gradient, tf.float32))) for gradient in gradients))
    return tf.stack(sums)


def _jax_sums(losses, values):
    each, backward = jax.vjp(losses, values)

    def of_one(chosen):
        (gradients,) = backward(chosen)
        return sum(jax.numpy.sum(jax.numpy.square(gradient.astype("float32"))) for gradient in gradients)

    return jax.lax.map(of_one, jax.numpy.eye(len(each), dtype=each.dtype))
