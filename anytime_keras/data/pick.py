"""Which data set to work with on this machine."""

import keras

ACCELERATORS = ("gpu", "tpu")


def pick(name, otherwise="digits"):
    """Returns a data set's name if this machine can train on it, and else another one's.

    For examples that shall run anywhere: on a GPU with the real data set, elsewhere with a bundled one. The data set is
    downloaded and prepared if need be.

    Args:
        name: str, a data set of tensorflow-datasets.
        otherwise: str, the name to return where there is no GPU, or the data set can be had from nowhere.

    Returns:
        A pair of str: the name, and why it is that one.

    Example:
    >>> import anytime_keras as ak
    >>> name, why = ak.data.pick("cifar10")
    >>> data = ak.data.load(name)
    """
    devices = keras.distribution.list_devices()
    if not any(device.lower().startswith(ACCELERATORS) for device in devices):
        return otherwise, f"not {name}, since there is no GPU here"
    try:
        import tensorflow_datasets as tfds

        tfds.builder(name).download_and_prepare()
    except Exception as error:  # every host fails in its own way
        return otherwise, f"not {name}, which cannot be had here ({type(error).__name__}: {error!s:.100})"
    return name, f"there is a GPU ({devices[0]}), and the data set can be had"
