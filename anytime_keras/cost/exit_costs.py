"""Multiply-accumulates and parameters at each exit of a functional model."""

import dataclasses
import math
from collections.abc import Sequence

import keras

from anytime_keras import _tables, graph
from anytime_keras._checks import check_choice
from anytime_keras.cost import counting, rules


@dataclasses.dataclass(frozen=True)
class ExitCost:
    """Cost of one exit. MACs are per sample and cumulative from the input to this exit.

    Attributes:
        exit: str, the exit's name.
        backbone: int, MACs of the features that the exit reads.
        with_head: int, `backbone` and the exit's own head: the cost of answering at this exit only.
        with_all_heads: int, `backbone` and every head so far: the cost of answering at each exit up to this one.
        params: int, parameters of the counted layers up to this exit, with all heads so far. If all layers are
            counted, the last exit's equals Keras's `count_params()`, with the moving statistics of normalisations.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> ak.cost.exit_costs(model)[0]
    ExitCost(exit='exit_1', backbone=20736, with_head=20776, with_all_heads=20776, params=422)
    """

    exit: str
    backbone: int
    with_head: int
    with_all_heads: int
    params: int


class ExitCosts(list):
    """The result of `exit_costs`, a list of `ExitCost` that prints as a table with a 2 x MACs column.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> print(ak.cost.exit_costs(model))
    millions  backbone  with head  all heads  2 x MACs  params
    ----------------------------------------------------------
    exit_1       0.021      0.021      0.021     0.042   0.000
    exit_2       0.035      0.035      0.035     0.069   0.001
    exit_3       0.048      0.049      0.049     0.097   0.005
    """

    def table(self) -> str:
        """Returns the costs as a text table, in millions. 2 x MACs ("FLOPs") include all heads so far."""
        rows = []
        for cost in self:
            numbers = (cost.backbone, cost.with_head, cost.with_all_heads, 2 * cost.with_all_heads, cost.params)
            rows.append([cost.exit, *(f"{number / 1e6:,.3f}" for number in numbers)])
        return _tables.table(["millions", "backbone", "with head", "all heads", "2 x MACs", "params"], rows)

    __str__ = table

    def _repr_markdown_(self):
        return f"```\n{self}\n```"


def exit_costs(
    model: keras.Model, layers: str = "all", input_shape: Sequence | None = None, lazy: bool = True
) -> ExitCosts:
    """Counts the multiply-accumulates and parameters at each exit of a model.

    An exit's head consists of the layers that only this exit needs. For the last exit, which no later exit follows, it
    consists of the layers named after the exit (`exit_7`, `exit_7_pool`, ...), or else starts at the last global
    pooling or flattening.

    Args:
        model: functional Keras model; its outputs are the exits, in the order of its dict of outputs.
        layers: `"all"` counts every layer with weights and the products within attention;
            `"conv"` counts convolutions only, as the paper does.
        input_shape: shape without batch axis, or a list of shapes, if the model's input has unknown sizes.
        lazy: bool. True counts only the layers that an exit needs. False counts every layer up to the exit, as
            published tables of MSDNet do: layers that only later exits need also count if at least as many layers with
            MACs follow them, on the longest path to the last exit, as follow the features that the exit reads.

    Returns:
        `ExitCosts`, a list of `ExitCost`.

    Raises:
        ValueError: if the model is not functional, a layer with weights has no rule, or a size is unknown.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=5, channels=16, input_shape=(32, 32, 3), num_classes=10)
    >>> costs = ak.cost.exit_costs(model, layers="conv")
    >>> len(costs), costs[-1].with_all_heads
    (15, 68861952)
    """
    check_choice("layers", layers, ("all", "conv"))
    graph.check_functional(model)
    model = graph.opened(model)
    only = rules.CONVOLUTIONS if layers == "conv" else None
    exits = graph.outputs_by_name(model)
    needed = {name: graph.calls(tensor, model.inputs) for name, tensor in exits.items()}
    heads = _heads(needed)
    macs = macs_by_call(model, only, input_shape)
    if not lazy:
        needed = _every_layer(needed, heads, macs)
    costs = ExitCosts()
    paid: dict[int, int] = {}
    params: dict[int, keras.Variable] = {}
    for name, calls in needed.items():
        backbone = sum(macs[id(call)] for call in calls if id(call) not in heads[name])
        paid.update((id(call), macs[id(call)]) for call in calls)
        params.update((id(weight), weight) for call in calls for weight in _weights(call.operation, only))
        with_head = sum(macs[id(call)] for call in calls)
        num_params = sum(math.prod(weight.shape) for weight in params.values())
        costs.append(ExitCost(name, backbone, with_head, sum(paid.values()), num_params))
    return costs


def _every_layer(needed, heads, macs):
    """Adds to the calls that each exit needs those of the last exit's backbone that precede the end of its features."""
    *_, (last, calls) = needed.items()
    maker = {id(tensor): id(call) for call in calls for tensor in call.output_tensors}
    after = {id(call): 0 for call in calls}  # the number of calls with MACs that follow, on the longest path
    for call in reversed(calls):
        for tensor in call.input_tensors:
            if (before := maker.get(id(tensor))) is not None:
                after[before] = max(after[before], after[id(call)] + (macs[id(call)] > 0))
    every = {}
    for name, own in needed.items():
        own_ids = {id(call) for call in own}
        end = min((after[key] for key in own_ids - heads[name] if key in after), default=math.inf)
        left_out = own_ids | heads[last]
        earlier = [call for call in calls if after[id(call)] >= end and id(call) not in left_out]
        every[name] = [*own, *earlier]
    return every


def _weights(operation, only):
    if not isinstance(operation, keras.Layer):
        return []
    if only is None or isinstance(operation, only):
        return operation.weights
    return [weight for layer in graph.sublayers(operation) if isinstance(layer, only) for weight in layer.weights]


def macs_by_call(
    model: keras.Model, only: type | tuple[type, ...] | None = None, input_shape: Sequence | None = None
) -> dict[int, int]:
    """Returns a dict from the `id` of each call in a functional model's graph to its MACs per sample."""
    shapes = [tensor.shape[1:] for tensor in model.inputs]
    if input_shape is not None:
        given = [input_shape] if isinstance(input_shape[0], (int, type(None))) else list(input_shape)
        if [len(shape) for shape in given] != [len(shape) for shape in shapes]:
            raise ValueError(
                "`input_shape` must give the shape of each model input, without batch axis. "
                f"Received: input_shape={input_shape} for inputs of shapes {shapes}."
            )
        shapes = given
    inputs = [keras.KerasTensor((1, *shape), tensor.dtype) for shape, tensor in zip(shapes, model.inputs)]
    counted = counting.by_call(model, inputs, only)
    return {id(call): macs for call, macs in zip(graph.calls(model.outputs, model.inputs), counted)}


def _heads(needed):
    """Returns a dict from each exit's name to the ids of the calls in its head."""
    heads = {}
    for name, calls in needed.items():
        elsewhere = {id(call) for other in needed if other != name for call in needed[other]}
        own = [call for call in calls if id(call) not in elsewhere]
        heads[name] = {id(call) for call in own}
    # The last exit's own calls include features that no other exit reads.
    named = {id(call) for call in own if graph.in_named_head(call.operation, [name])}
    heads[name] = named or tail(own)
    return heads


def tail(calls: list) -> set[int]:
    """Returns the ids of the calls from the last pooling or flattening on, or from the last call with weights."""
    start = next((place for place in reversed(range(len(calls))) if getattr(calls[place].operation, "weights", 0)), -1)
    for place in reversed(range(len(calls))):
        call = calls[place]
        if len(call.input_tensors) > 1:
            break
        weightless = not getattr(call.operation, "weights", None)
        if weightless and not _is_vector(call.input_tensors[0]) and _is_vector(call.output_tensors[0]):
            start = place
            break
    return {id(call) for call in calls[start:]}


def _is_vector(tensor):
    """Returns whether each sample is a vector, such as (channels,) or (1, 1, channels), not a map or sequence."""
    return sum(size != 1 for size in tensor.shape[1:]) <= 1
