"""Where a training runs: on one device, or on several that share each batch. Chosen here and nowhere else.

One rule holds for every strategy: **several devices train as one would.** The recipe's batch size is that of the global
batch, which the replicas share. So the learning rate, its schedule, the steps of an epoch, shuffling and augmentation
are those of one device whatever the number of replicas, and losses, metrics, AdaLoss's averages and weights are equal
to rounding; a larger batch for more devices is another recipe. Batches need not divide evenly, but TensorFlow's
replicas each need an image of every batch. Tried on CPU devices; not yet on several GPUs, and not on a TPU.

=============== ========== =====================================================================
strategy        backend    devices
=============== ========== =====================================================================
none            any        one
mirrored        TensorFlow all GPUs of this machine; without one, its logical CPU devices
multi_worker    TensorFlow those of all machines that TF_CONFIG lists, one process each
tpu             TensorFlow a TPU's
data_parallel   JAX        all devices of this process, by `keras.distribution.DataParallel`
=============== ========== =====================================================================

Data. Sharding is off: each process makes every global batch whole, by the recipe's seed, and its replicas take their
parts of it. On several machines each so prepares all images. Validation deals whole batches to the replicas in turn.

Batch normalisation. Keras takes the statistics of each replica's part under `tf.distribute`, and the moving ones drift
apart. Here its layers are synchronized: the statistics are the global batch's, as on one device, for three small sums
over the replicas in each layer and step. JAX computes one program over the global batch, with its statistics.

Several processes. The one of rank 0 is the chief: it alone writes, to a folder that all can read, since all resume from
its checkpoints. Where a process dies, the others stop with a `ConnectionError` that says so, at once or, where it is
frozen or its machine is gone, when its heartbeat is missed; started again with `resume`, all go on after the last
checkpoint. TensorFlow waits without end for a process that has never started.
"""

import functools
import json
import os
import sys

import keras

from anytime_keras import _errors
from anytime_keras.training.devices import JaxDevices, OneDevice
from anytime_keras.training.replicated import Replicas

TENSORFLOW = ("mirrored", "multi_worker", "tpu")
NAMES = ("none", *TENSORFLOW, "data_parallel")


def choose(strategy="none"):
    """Returns where to train, for a name; the same each time.

    Args:
        strategy: "none", "mirrored", "multi_worker", "tpu" or "data_parallel", see the module's text; a
            `tf.distribute.Strategy`; or a `keras.distribution.DataParallel`.

    Returns:
        An object with `name`, `replicas` and `is_chief`, that `train` takes as its `strategy`. For "multi_worker" call
        this first in the program: TensorFlow joins other processes only before it computes anything.

    Raises:
        ValueError: if it is unknown, does not run on Keras's backend, or its devices are not there.

    Example:
    >>> choose("none").replicas
    1
    """
    if isinstance(strategy, OneDevice):
        return strategy
    backend = keras.backend.backend()
    if isinstance(strategy, str):
        if strategy not in NAMES:
            raise ValueError(
                f"`strategy` is unknown. Received: strategy={strategy!r}. {_errors.nearest(strategy, NAMES)}"
            )
        _check_backend(strategy, backend)
        return _named(strategy)
    if isinstance(strategy, keras.distribution.DataParallel):
        _check_backend("data_parallel", backend)
        return JaxDevices(strategy.device_mesh)
    if backend == "tensorflow":
        import tensorflow as tf

        for name, kind in (
            ("multi_worker", tf.distribute.MultiWorkerMirroredStrategy),
            ("tpu", tf.distribute.TPUStrategy),
            ("mirrored", (tf.distribute.MirroredStrategy, tf.distribute.OneDeviceStrategy)),
        ):
            if isinstance(strategy, kind):
                return Replicas(name, strategy)
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


@functools.cache  # a second strategy in one process would number its collective operations as the first does
def _named(name):
    return {
        "none": OneDevice,
        "mirrored": _mirrored,
        "multi_worker": _multi_worker,
        "tpu": _tpu,
        "data_parallel": _data_parallel,
    }[name]()


def _mirrored():
    import tensorflow as tf

    return Replicas("mirrored", tf.distribute.MirroredStrategy())


def _multi_worker():
    _check_cluster(os.environ.get("TF_CONFIG"))
    import tensorflow as tf

    print("waiting for the other workers of TF_CONFIG", file=sys.stderr, flush=True)  # TensorFlow does, without a word
    try:
        return Replicas("multi_worker", tf.distribute.MultiWorkerMirroredStrategy())
    except RuntimeError as error:
        raise ValueError(
            "`strategy='multi_worker'` must be chosen before TensorFlow computes anything in this process. "
            "Call `anytime_keras.training.choose_strategy('multi_worker')` first in the program, before the recipe is "
            f"made, and pass what it returns. TensorFlow says: {error}"
        ) from error


def _check_cluster(text):
    """Raises ValueError unless TF_CONFIG lists workers and says which of them this process is."""
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
    import tensorflow as tf

    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return Replicas("tpu", tf.distribute.TPUStrategy(resolver))
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        raise ValueError(
            f"`strategy='tpu'` found no TPU: {error} Run it on a machine with one (its name in TPU_NAME), or choose "
            "'mirrored' or 'none'."
        ) from error


def _data_parallel():
    import jax

    if jax.process_count() > 1:
        raise ValueError(
            "`strategy='data_parallel'` trains in one process. "
            f"Received: {jax.process_count()} of JAX. Start one alone, or train on TensorFlow with 'multi_worker'."
        )
    return JaxDevices()
