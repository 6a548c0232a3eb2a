"""Sums over the replicas of a `tf.distribute` strategy, from within a training step."""

import keras


def total(values):
    """Returns the sum of `values`, a tensor or a list of them, over all replicas; `values` itself if there is but one.

    Keras divides each replica's mean loss by the number of replicas, so that their sum is the loss of
    the global batch.
    """
    if keras.backend.backend() != "tensorflow":
        return values
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return values
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, values)
