"""A network's name -> the class that builds it and the arguments that the name stands for."""

import inspect

from anytime_keras import _errors
from anytime_keras.models.resann import ResANN

NETWORKS = {
    "resann": (ResANN, {}),
}


def names():
    """Lists the names that `build` knows.

    >>> "resann" in names()
    True
    """
    return sorted(NETWORKS)


def build(name, **config):
    """Builds an untrained anytime network by name.

    Args:
        name: one of `names()`.
        **config: arguments of the family's class; they take precedence over what the name stands for.

    Returns:
        An `AnytimeModel`.

    Raises:
        ValueError: if the name or an argument is unknown, or an argument's value is out of range.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=2, channels=8, input_shape=(8, 8, 1), num_classes=10)
    >>> model.exit_names
    ['exit_1', 'exit_2', 'exit_3', 'exit_4', 'exit_5', 'exit_6']
    """
    if name not in NETWORKS:
        raise ValueError(
            f"`name` must be the name of a network. Received: name={name!r}. {_errors.nearest(name, NETWORKS)}"
        )
    family, fixed = NETWORKS[name]
    parameters = inspect.signature(family.__init__).parameters
    for key in config:
        if key not in parameters:
            known = [parameter for parameter in parameters if parameter not in ("self", "kwargs")]
            raise ValueError(f"'{name}' has no argument `{key}`. {_errors.nearest(key, known)}")
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty and key not in ("self", "kwargs") and key not in {**fixed, **config}
    ]
    if missing:
        raise ValueError(f"'{name}' needs {', '.join(f'`{key}`' for key in missing)}. Received: {config}.")
    return family(**{**fixed, **config})
