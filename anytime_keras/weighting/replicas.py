"""Sums over the replicas of a `tf.distribute` strategy, from within a training step."""

from typing import Any

import keras
from keras import ops

from anytime_keras._lazy import tf


def total(values: Any) -> Any:
    """Returns the sum of `values` over all replicas, since Keras divides each one's mean loss by their number."""
    replica = _replica()
    if replica is None:
        return values
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, values)


def count() -> int:
    """Returns the number of replicas that compute this training step."""
    replica = _replica()
    return 1 if replica is None else replica.num_replicas_in_sync


def share(outputs: Any, dtype: str = "float32") -> Any:
    """Returns this replica's share of the global batch, relative to the `1 / num_replicas` that Keras assumes."""
    replica = _replica()
    if replica is None:
        return 1.0
    examples = ops.cast(ops.shape(keras.tree.flatten(outputs)[0])[0], dtype)
    return replica.num_replicas_in_sync * examples / total(examples)


def _replica():
    """TensorFlow's context of this replica, if it is one of several."""
    if keras.backend.backend() != "tensorflow":
        return None
    replica = tf.distribute.get_replica_context()
    return None if replica is None or replica.num_replicas_in_sync == 1 else replica
