"""Sums over the replicas of a `tf.distribute` strategy, from within a training step."""

import keras
from keras import ops


def total(values):
    """Returns the sum of `values`, a tensor or a list of them, over all replicas; `values` itself if there is but one.

    Keras divides each replica's mean loss by the number of replicas, so that their sum is the loss of
    the global batch.
    """
    replica = _replica()
    if replica is None:
        return values
    import tensorflow as tf

    return replica.all_reduce(tf.distribute.ReduceOp.SUM, values)


def several():
    """Whether this is a training step of one of several replicas."""
    return _replica() is not None


def share(outputs, dtype="float32"):
    """Returns how much this replica's examples count in the mean of the global batch, over what Keras takes for it: one
    of as many as there are replicas. 1 where all hold as many examples, or there is but one.

    Args:
        outputs: tensors with an entry for each example.
        dtype: str, of the result.
    """
    replica = _replica()
    if replica is None:
        return 1.0
    examples = ops.cast(ops.shape(keras.tree.flatten(outputs)[0])[0], dtype)
    return replica.num_replicas_in_sync * examples / total(examples)


def _replica():
    """TensorFlow's context of this replica, if it is one of several."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    return None if replica is None or replica.num_replicas_in_sync == 1 else replica
