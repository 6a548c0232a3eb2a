"""Counts the multiply-accumulates of a layer call by the rules that are registered for kinds of layers.

Convention: one multiply-accumulate (MAC) is a product that is added to a sum, as in convolutions and matrix
products. "FLOPs" in the paper are 2 x MACs. Padding counts like any other input. Element-wise work
(normalisation, activations, additions, pooling, table look-ups) is not counted, as in the papers that we
compare with.
"""

import inspect
from collections.abc import Callable
from typing import Any
from unittest import mock

import keras
from keras import layers, ops, tree

from anytime_keras import graph

WRAPPERS = (layers.Bidirectional, layers.TimeDistributed, layers.SpectralNormalization)

RULES: dict[type | str, Callable] = {}  # by class, or by the name of an operation's class, which Keras does not export


def register_rule(kind: type, rule: Callable[[Any, list, list], int] | None = None):
    """Registers how to count the MACs of a custom layer; also usable as a decorator.

    Args:
        kind: subclass of `keras.Layer` or `keras.Operation`. The rule also applies to subclasses that define neither
            a rule nor `call`.
        rule: function called as `rule(layer, inputs, outputs)` that returns the int number of MACs. `inputs` and
            `outputs` are lists of shapes, including a batch axis of length 1. For a recurrent cell they describe one
            step, with the states after the input and after the output.

    Raises:
        TypeError: if `kind` is not such a class, or `rule` is not callable.

    Example:
    >>> import keras, anytime_keras as ak
    >>> class Scale(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.scale = self.add_weight(shape=(shape[-1],))
    ...     def call(self, x):
    ...         return x * self.scale
    >>> ak.cost.register_rule(Scale, lambda layer, inputs, outputs: 0)
    """
    if not (isinstance(kind, type) and issubclass(kind, keras.Operation)):
        raise TypeError(f"`kind` must be a class of Keras layers or operations. Received: {kind!r}.")
    if rule is None:
        return lambda decorated: register_rule(kind, decorated) or decorated
    if not callable(rule):
        raise TypeError(f"`rule` must be a function (layer, inputs, outputs) -> MACs. Received: {rule!r}.")
    RULES[kind] = rule


def macs(layer: keras.Operation, *args, only: type | tuple[type, ...] | None = None, **kwargs) -> int:
    """Counts the multiply-accumulates of one call of `layer` on one sample, an int.

    Args:
        layer: built layer, model or operation.
        *args, **kwargs: arguments of the call, with `keras.KerasTensor`s for tensors. Their batch axis is ignored.
        only: layer class or tuple of layer classes to count, such as `CONVOLUTIONS`; None counts all.

    Raises:
        ValueError: if a layer with weights has no rule, or a size is unknown.

    Example:
    >>> import keras, anytime_keras as ak
    >>> layer = keras.layers.Dense(10)
    >>> layer.build((None, 64))
    >>> ak.cost.macs(layer, keras.KerasTensor((None, 64)))
    640
    """

    def one_sample(value):
        return keras.KerasTensor((1, *value.shape[1:]), value.dtype) if isinstance(value, keras.KerasTensor) else value

    args, kwargs = tree.map_structure(one_sample, (args, kwargs))
    return _count(layer, args, kwargs, only)


def rule_of(layer: keras.Operation) -> Callable | None:
    """Returns the rule that counts a layer or operation, or None."""
    kinds = _kinds(layer)
    if not isinstance(layer, keras.Layer):
        kinds = (*kinds, type(layer).__name__)
    return next((RULES[kind] for kind in kinds if kind in RULES), None)


def _kinds(layer):
    """Lists the classes whose rule applies to `layer`: its MRO up to the first class outside Keras with a `call`."""
    kinds = type(layer).__mro__
    own = (place for place, kind in enumerate(kinds) if "call" in vars(kind) and not graph.is_from_keras(kind))
    return kinds[: next(own, len(kinds)) + 1]


def _shapes(values):
    """Lists the shapes of the tensors in `values`."""
    return [tuple(t.shape) for value in values for t in tree.flatten(value) if hasattr(t, "shape")]


def _count(layer, args, kwargs, only):
    rule = rule_of(layer)
    if rule is None and any(kind in WRAPPERS for kind in _kinds(layer)):
        return sum(times * _count(inner, inner_args, {}, only) for times, inner, inner_args in _unwrap(layer, *args))
    if rule is not None:
        if only is not None and not isinstance(layer, only):
            return 0
        return _count_by(rule, layer, args, kwargs)
    if graph.runs_its_graph(layer):
        return sum(by_call(layer, tree.flatten(args), only))
    if not getattr(layer, "weights", None) and not graph.is_foreign(layer):
        return 0
    # Everything that a convolution with a custom `call` computes counts as convolution.
    only = None if only is not None and isinstance(layer, only) else only
    try:
        return _count_within(layer, args, kwargs, only)
    except _OpenSizes:
        inherited = next((RULES[kind] for kind in type(layer).__mro__ if kind in RULES), None)
        if inherited is None or only is not None:
            raise
        # In Keras 3.15, einsum layers can return symbolic tensors with unknown sizes although their inputs are fully
        # known. This happens in keras-hub's cached attention, for which the parent's rule is correct.
        return _count_by(inherited, layer, args, kwargs)


def _count_by(rule, layer, args, kwargs):
    arguments = inspect.signature(layer.call).bind(*args, **graph.accepted(layer, kwargs)).arguments
    inputs, outputs = _shapes(arguments.values()), _shapes([graph.spec(layer, args, kwargs)])
    try:
        return int(rule(layer, inputs, outputs))
    except TypeError as error:
        if not any(size is None for shape in inputs + outputs for size in shape):
            raise
        raise _OpenSizes(layer, inputs, outputs) from error


def _unwrap(layer, inputs, *args):
    """Lists the calls of a wrapper as (times, layer, arguments)."""
    if isinstance(layer, layers.Bidirectional):
        return [(1, layer.forward_layer, (inputs,)), (1, layer.backward_layer, (inputs,))]
    if isinstance(layer, layers.TimeDistributed):
        one_step = keras.KerasTensor((inputs.shape[0], *inputs.shape[2:]), inputs.dtype)
        return [(inputs.shape[1], layer.layer, (one_step,))]
    return [(1, layer.layer, (inputs,))]


def by_call(model, inputs, only):
    """Counts each call in a functional model's graph, in the order of `graph.calls`, for inputs with a batch of 1."""
    counted = []

    def apply(operation, args, kwargs):
        counted.append(_count(operation, args, kwargs, only))
        return tree.map_structure(_of_one_sample, graph.spec(operation, args, kwargs))

    graph.run(model, inputs, apply)
    return counted


def _of_one_sample(tensor):
    """Returns a symbolic tensor with a batch of 1 if its batch is unknown, as a custom `compute_output_shape` says."""
    unknown = tensor.shape[:1] == (None,)
    return keras.KerasTensor((1, *tensor.shape[1:]), tensor.dtype) if unknown else tensor


class _OpenSizes(ValueError):
    """The cost depends on an unknown size."""

    def __init__(self, layer, inputs, outputs):
        super().__init__(
            f"Layer '{layer.name}' must have fully known shapes, because its cost depends on them. "
            f"Received: inputs {inputs}, outputs {outputs}. "
            "Pass `exit_costs(model, input_shape=...)`, or build the model with a full `input_shape`."
        )


def _count_within(layer, args, kwargs, only):
    """Counts a layer without a rule by tracing its `call`.

    If `call` does not accept symbolic tensors and the layer owns no weights, only the layers that it calls are counted.
    This omits products between activations in `call` itself.
    """
    try:
        results = tree.flatten(graph.trace(layer, *args, **kwargs))
    except Exception as error:  # a custom layer may raise anything when traced without values
        if not layer.weights:
            return 0
        shapes = _shapes([args, kwargs])
        if any(size is None for shape in shapes for size in shape):
            raise _OpenSizes(layer, shapes, "unknown") from error
        if graph.is_composite(layer):
            return sum(_count(child, *arguments, only) for child, arguments in _calls_within(layer, args, kwargs))
        why = f"has weights and a `call` that cannot be traced with symbolic tensors ({type(error).__name__}: {error})"
        raise no_rule(layer, why) from error
    calls = graph.calls([x for x in results if isinstance(x, keras.KerasTensor)], (args, kwargs))
    try:
        total = sum(_count(call.operation, call.arguments.args, call.arguments.kwargs, only) for call in calls)
        if total == 0 and only is None and not _only_looks_up(layer, calls, results):
            raise no_rule(layer, "has weights and a `call` without a product that has a rule")
    finally:
        graph.forget(calls)
    return total


def no_rule(layer, why):
    return ValueError(
        f"Layer '{layer.name}' of type {type(layer).__name__} {why}, and has no rule to count its cost. Register one: "
        f"`anytime_keras.cost.register_rule({type(layer).__name__}, lambda layer, inputs, outputs: ...)`."
    )


_LOOK_UPS = ("Add", "BroadcastTo", "Concatenate", "GetItem", "Subtract", "Take", "TakeAlongAxis", "Where")


def _only_looks_up(layer, calls, results):
    """Returns whether a layer only looks up, adds or concatenates its own matrices."""
    children = {id(w) for child in graph.sublayers(layer) for w in child.weights}
    if not any(_is_matrix(weight) for weight in layer.weights if id(weight) not in children):
        return True
    users = [call for call in calls if any(map(_is_matrix, tree.flatten((call.arguments.args, call.arguments.kwargs))))]
    constant = any(ops.is_tensor(result) and _is_matrix(result) for result in results)  # such as position embeddings
    return (bool(users) or constant) and all(type(call.operation).__name__ in _LOOK_UPS for call in users)


def _is_matrix(value):
    """Returns whether `value` is an array with at least two axes longer than 1, unlike a vector of scales."""
    if isinstance(value, keras.KerasTensor) or not hasattr(value, "shape"):
        return False
    return sum(size != 1 for size in value.shape) >= 2


def _calls_within(layer, args, kwargs):
    """Runs `layer` on shapes only and lists the layers that it calls, with their arguments."""
    recorded, depth = [], 0
    call = layers.Layer.__call__

    def recording_call(child, *child_args, **child_kwargs):
        nonlocal depth
        depth += 1
        try:
            result = call(child, *child_args, **child_kwargs)
        finally:
            depth -= 1
        if depth == 0:
            recorded.append((child, tree.map_structure(_spec, (child_args, child_kwargs))))
        return result

    class Trace(keras.Operation):
        def call(self, *args, **kwargs):
            return layer.call(*args, **kwargs)

    with mock.patch.object(layers.Layer, "__call__", recording_call):
        Trace(name="trace").compute_output_spec(*args, **graph.accepted(layer, kwargs))
    return recorded


def _spec(value):
    if ops.is_tensor(value):
        return keras.KerasTensor(tuple(value.shape), keras.backend.standardize_dtype(value.dtype))
    return value
