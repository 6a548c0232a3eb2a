"""Maps each network's name to its class and arguments, and builds networks by name."""

import inspect
from collections.abc import Sequence
from typing import Any

from anytime_keras import _errors
from anytime_keras._checks import check_choice
from anytime_keras.models.anytime_model import AnytimeModel
from anytime_keras.models.blocks import PRESETS
from anytime_keras.models.denseann import DenseANN
from anytime_keras.models.msdnet import MSDNet
from anytime_keras.models.msdnet_published import PublishedMSDNet
from anytime_keras.models.resann import BottleneckResANN, ResANN

_DENSE = dict(growth_rate=32, stem="ilsvrc", input_shape=(224, 224, 3), num_classes=1000)
_CIFAR = dict(growth_rate=6, factors=(1, 2, 4), channels=16, stem="small", input_shape=(32, 32, 3), num_classes=10)

NETWORKS: dict[str, tuple[type, dict]] = {
    "resann": (ResANN, {}),
    "resann26": (BottleneckResANN, dict(blocks=(2, 2, 2, 2), exit_every=2)),
    "resann50": (BottleneckResANN, dict(blocks=(3, 4, 6, 3), exit_every=2)),
    "resann101": (BottleneckResANN, dict(blocks=(3, 4, 23, 3), exit_every=3)),
    "denseann": (DenseANN, {}),
    "denseann121": (DenseANN, dict(blocks=(6, 12, 24, 16), exit_every=9, first_exit=13, **_DENSE)),
    "denseann169": (DenseANN, dict(blocks=(6, 12, 32, 32), exit_every=14, first_exit=12, **_DENSE)),
    "denseann201": (DenseANN, dict(blocks=(6, 12, 48, 32), exit_every=17, first_exit=13, **_DENSE)),
    "msdnet": (MSDNet, {}),
    "msdnet23": (MSDNet, dict(blocks=(6, 6, 5, 6), exit_every=4, first_exit=7)),
    "msdnet33": (MSDNet, dict(blocks=(8, 8, 8, 9), exit_every=7, first_exit=5)),
    "msdnet38": (MSDNet, dict(blocks=(10, 9, 10, 9), exit_every=7, first_exit=10)),
    "msdnet_step4": (PublishedMSDNet, dict(num_exits=5, base=4, step=4)),
    "msdnet_step6": (PublishedMSDNet, dict(num_exits=5, base=6, step=6)),
    "msdnet_step7": (PublishedMSDNet, dict(num_exits=5, base=7, step=7)),
    "msdnet_cifar_10exits": (PublishedMSDNet, dict(num_exits=10, base=4, step=2, **_CIFAR)),
    "msdnet_cifar_7exits": (PublishedMSDNet, dict(num_exits=7, base=4, step=2, **_CIFAR)),
    "msdnet_cifar_growing": (
        PublishedMSDNet,
        dict(num_exits=5, base=1, step=1, steps="growing", **{**_CIFAR, "num_classes": 100}),
    ),
}

# Arguments that `preset="authors_code"` changes, for families without a `preset` argument.
AUTHORS_CODE: dict[str, dict] = {
    "msdnet23": {},
    "msdnet33": dict(blocks=(9, 8, 8, 8), exit_every=6, first_exit=9),
    "msdnet38": {},
}


def names() -> list[str]:
    """Lists the names that `build` accepts.

    >>> "resann" in names()
    True
    """
    return sorted(NETWORKS)


def check_name(name):
    """Raises a ValueError unless `build` accepts the name."""
    check_choice("name", name, NETWORKS)


def build(name: str, **config: Any) -> AnytimeModel:
    """Builds an untrained `AnytimeModel` by name.

    Args:
        name: one of `names()`.
        **config: arguments of the family's class, which override those of the named network.
            `preset="authors_code"` selects the network of the authors' code instead of the paper's.

    Raises:
        ValueError: if the name or an argument is unknown, or an argument's value is out of range.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=2, channels=8, input_shape=(8, 8, 1), num_classes=10)
    >>> model.exit_names
    ['exit_1', 'exit_2', 'exit_3', 'exit_4', 'exit_5', 'exit_6']
    """
    check_name(name)
    family, fixed = NETWORKS[name]
    if name in AUTHORS_CODE:
        preset = config.pop("preset", "paper")
        check_choice("preset", preset, PRESETS)
        fixed = {**fixed, **(AUTHORS_CODE[name] if preset == "authors_code" else {})}
    arguments, known = {**fixed, **config}, dict(inspect.signature(family).parameters)
    del known["kwargs"]
    _errors.check_known(config, known, f"'{name}' has no argument `{{}}`.")
    missing = [key for key, each in known.items() if each.default is each.empty and key not in arguments]
    if missing:
        raise ValueError(f"'{name}' needs {', '.join(f'`{key}`' for key in missing)}. Received: {config}.")
    return family(**arguments)


def linear_ensemble(name: str, argument: str, values: Sequence, **config: Any) -> list[AnytimeModel]:
    """Builds plain networks, each with a single exit at its end, that differ in one argument.

    Train each of them alone and pass them to `EANN`, which runs them one after the other. With linearly growing sizes,
    this is the baseline of [Hu et al., AAAI 2019](https://arxiv.org/abs/1708.06832), section 5.3.

    Args:
        name: str, as for `build`.
        argument: str, the argument of `build` that differs, such as `"num_units"` or `"depth"`.
        values: list of one or more values of the argument, smallest network first.
        **config: the other arguments of `build`.

    Returns:
        A list of `AnytimeModel`, named after their values, with outputs of shape `(batch, num_classes)`.

    Raises:
        ValueError: if `values` is not such a list; as `build`.

    Example:
    >>> import anytime_keras as ak
    >>> shape = dict(input_shape=(8, 8, 1), num_classes=10)
    >>> members = ak.linear_ensemble("resann", "num_units", [1, 2], channels=4, **shape)
    >>> [(member.name, member.num_exits) for member in members]
    [('resann_num_units_1', 1), ('resann_num_units_2', 1)]
    >>> eann = ak.EANN(members, validation=ak.data.load("digits").validation)
    """
    if not isinstance(values, (list, tuple, range)) or not values:
        raise ValueError(f"`values` must be a list of one or more values of `{argument}`. Received: values={values!r}.")
    members = []
    for value in values:
        model = build(name, **{argument: value}, **config)
        last = model.exit_names[-1]
        label = "_".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        outputs = {last: model.output[last]}
        member_name = f"{name}_{argument}_{label}"
        members.append(AnytimeModel(model.input, outputs, name=member_name, dtype=model.dtype_policy))
    return members
