"""Chooses a data set that this machine can train on."""

from anytime_keras import runtime
from anytime_keras._lazy import tfds


def pick(name, otherwise="digits"):
    """Returns the name of a data set that this machine can train on, and the reason, a pair of str.

    It is `name` if there is a GPU and the data set is available, otherwise the fallback.

    For examples that must run anywhere. Downloads and prepares the data set if necessary.

    Args:
        name: str, a data set of tensorflow-datasets.
        otherwise: str, the name to return if there is no GPU, or the data set is neither cached nor downloadable.

    Example:
    >>> import anytime_keras as ak
    >>> name, why = ak.data.pick("cifar10")
    >>> data = ak.data.load(name)
    """
    devices = runtime.devices()
    if runtime.on_cpu():
        return otherwise, f"not {name}, since there is no GPU here"
    try:
        tfds.builder(name).download_and_prepare()
    except Exception as error:  # each download host fails differently
        return otherwise, f"not {name}, which is not available here ({type(error).__name__}: {error!s:.100})"
    return name, f"there is a GPU ({devices[0]}), and the data set is available"
