"""The choice of a strategy: one device, or several that share each batch.

**Several devices train as one would.** The recipe's batch size is the global batch size, and the replicas share each
batch. The learning rate, its schedule, the steps per epoch, shuffling and augmentation do not depend on the number of
replicas. Losses, metrics and AdaLoss's averages and weights are equal up to rounding. Batches need not divide evenly,
but on TensorFlow each replica needs an image of every batch. Tested on CPU devices, not on several GPUs or on a TPU.

=============== ========== =====================================================================
strategy        backend    devices
=============== ========== =====================================================================
none            any        one
mirrored        TensorFlow all GPUs of this machine, or its logical CPU devices without a GPU
multi_worker    TensorFlow the devices of all machines in TF_CONFIG, one process each
tpu             TensorFlow the cores of a TPU
data_parallel   JAX        all devices of this process, with `keras.distribution.DataParallel`
=============== ========== =====================================================================

Data. Each process prepares every global batch from the recipe's seed, and its replicas take their parts of it, so each
machine prepares all images. In validation, replicas take turns at whole batches.

Batch normalisation. Under `tf.distribute`, Keras normalises by the statistics of each replica's part, and the moving
statistics of the replicas diverge. Here the layers are synchronized, so the statistics are those of the global batch.
This costs three small all-reduces per layer and step. On JAX, one program computes the global batch.

Several processes. The process of rank 0 is the chief. Only the chief writes files, to a folder that all processes can
read, since all of them resume from its checkpoints. If a process dies, the others stop with a `ConnectionError`: at
once, or after a missed heartbeat. Restarted with `resume`, all continue after the last checkpoint. TensorFlow waits
forever for a process that never starts.
"""

import functools
import json
import os
import sys

import keras

from anytime_keras._checks import check_choice
from anytime_keras._errors import explained
from anytime_keras._lazy import jax, tf
from anytime_keras.training.devices import JaxDevices, OneDevice

TENSORFLOW = ("mirrored", "multi_worker", "tpu")
NAMES = ("none", *TENSORFLOW, "data_parallel")


def choose(strategy="none"):
    """Returns the strategy of a name, the same object each time.

    Args:
        strategy: "none", "mirrored", "multi_worker", "tpu" or "data_parallel" (see the module docstring), a
            `tf.distribute.Strategy` or a `keras.distribution.DataParallel`.

    Returns:
        An object with `name`, `replicas` and `is_chief` for the `strategy` argument of `train`. Call this first in a
        program that uses "multi_worker": TensorFlow must connect to other processes before it computes anything.

    Raises:
        ValueError: if the strategy is unknown, does not run on Keras's backend, or its devices are missing.

    Example:
    >>> choose("none").replicas
    1
    """
    if isinstance(strategy, OneDevice):
        return strategy
    backend = keras.backend.backend()
    if isinstance(strategy, str):
        check_choice("strategy", strategy, NAMES)
        _check_backend(strategy, backend)
        return _named(strategy)
    if isinstance(strategy, keras.distribution.DataParallel):
        _check_backend("data_parallel", backend)
        return JaxDevices(strategy.device_mesh)
    if backend == "tensorflow":
        kinds = {"multi_worker": tf.distribute.MultiWorkerMirroredStrategy, "tpu": tf.distribute.TPUStrategy}
        kinds["mirrored"] = (tf.distribute.MirroredStrategy, tf.distribute.OneDeviceStrategy)
        for name, kind in kinds.items():
            if isinstance(strategy, kind):
                return _replicas(name, strategy)
    raise ValueError(
        "`strategy` must be a name, or a mirrored, multi-worker, TPU or data-parallel strategy of Keras's backend. "
        f"Received: strategy={strategy!r} on the {backend} backend. Names: {', '.join(NAMES)}."
    )


def _check_backend(name, backend):
    needed = "tensorflow" if name in TENSORFLOW else "jax" if name == "data_parallel" else backend
    if needed != backend:
        instead = {"tensorflow": "'mirrored'", "jax": "'data_parallel'"}.get(backend, "'none'")
        raise ValueError(
            f"`strategy='{name}'` needs Keras's {needed} backend. Received: the {backend} backend. "
            f"Choose {instead}, or set KERAS_BACKEND={needed}."
        )


@functools.cache  # a second strategy in one process would reuse the numbers of the first one's collectives
def _named(name):
    made = {"none": OneDevice, "multi_worker": _multi_worker, "tpu": _tpu, "data_parallel": _data_parallel}
    made["mirrored"] = lambda: _replicas(name, tf.distribute.MirroredStrategy())
    return made[name]()


def _replicas(name, strategy):
    from anytime_keras.training.replicated import Replicas  # needs TensorFlow

    return Replicas(name, strategy)


def _multi_worker():
    _check_cluster(os.environ.get("TF_CONFIG"))
    print("waiting for the other workers of TF_CONFIG", file=sys.stderr, flush=True)  # TensorFlow waits silently
    with explained(
        "`strategy='multi_worker'` must be chosen before TensorFlow computes anything in this process. Call "
        "`anytime_keras.training.choose_strategy('multi_worker')` first in the program, before the recipe is made, and "
        "pass what it returns. TensorFlow says: ",
        RuntimeError,
    ):
        return _replicas("multi_worker", tf.distribute.MultiWorkerMirroredStrategy())


def _check_cluster(text):
    """Raises ValueError unless TF_CONFIG lists the workers and names the task of this process."""
    example = (
        'Set it in each process, such as TF_CONFIG=\'{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
        '"task": {"type": "worker", "index": 0}}\', with the process\'s own index.'
    )
    if not text:
        raise ValueError(
            f"`strategy='multi_worker'` needs the environment variable TF_CONFIG. It is not set. {example}"
        )
    try:
        config = json.loads(text)
        kind, index = config["task"]["type"], int(config["task"]["index"])
        known = {job: len(config["cluster"][job]) for job in config["cluster"] if job in ("chief", "worker")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"TF_CONFIG must be JSON with `cluster` and `task`. Received: {text}. {example}") from error
    if not 0 <= index < known.get(kind, 0) or set(known) != set(config["cluster"]):
        raise ValueError(
            "TF_CONFIG must list workers (and perhaps a chief), and this process's task must be one of them. "
            f"Received: {text}. {example}"
        )


def _tpu():
    remedy = " Run it on a machine with one (its name in TPU_NAME), or choose 'mirrored' or 'none'."
    kinds = (ValueError, RuntimeError, OSError, tf.errors.OpError)
    with explained("`strategy='tpu'` found no TPU: ", *kinds, end=remedy):
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return _replicas("tpu", tf.distribute.TPUStrategy(resolver))


def _data_parallel():
    if jax.process_count() > 1:
        raise ValueError(
            f"`strategy='data_parallel'` trains in one process. Received: {jax.process_count()} processes of JAX. "
            "Start a single one, or use TensorFlow with 'multi_worker'."
        )
    return JaxDevices()
