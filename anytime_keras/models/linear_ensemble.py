"""Ensembles of plain networks of growing size, the usual baseline of anytime networks."""

from collections.abc import Sequence
from typing import Any

from anytime_keras.models.anytime_model import AnytimeModel
from anytime_keras.models.registry import build


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
