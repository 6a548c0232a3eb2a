"""Finds the positions in a network at which an exit can be added, and selects some of them."""

import itertools

import keras

from anytime_keras import _errors, graph
from anytime_keras.cost.exit_costs import macs_by_call, tail


def candidates(model, output, keeps_head, at_least=1, input_shape=None):
    """Lists the candidate positions for exits before the network's own output, (call, MACs), and the total MACs.

    A candidate is where the graph is one tensor wide (a residual join, a block's end). Of consecutive candidates with
    no multiplications in between, such as a convolution, its normalisation and its activation, only the last before
    the shape changes counts. The start of the head is not a candidate, since the network's own output costs the same.
    If there are fewer than `at_least` (NASNet, whose cells all read the last two), positions where the graph is two
    tensors wide are added.
    """
    recorded = graph.calls(output, model.inputs)
    macs = macs_by_call(keras.Model(model.input, output), input_shape=input_shape or _nominal_shapes(model))
    costs = [macs[id(call)] for call in recorded]
    head = tail(recorded) if keeps_head else set()
    before_head = sum(cost for call, cost in zip(recorded, costs) if id(call) not in head)
    found = {}
    for width in (1, 2):
        for work, group in itertools.groupby(graph.narrow(recorded, costs, width), key=lambda place: place[1]):
            calls = [call for call, _ in group]
            shape = calls[0].output_tensors[0].shape
            *_, call = itertools.takewhile(lambda call: call.output_tensors[0].shape == shape, calls)
            if work < before_head and unfit(call.output_tensors) is None:
                found.setdefault(work, call)
        if len(found) >= at_least:
            break
    return [(found[work], work) for work in sorted(found)], sum(costs)


def _nominal_shapes(model):
    return [tuple((224 if len(x.shape) > 3 else 128) if n is None else n for n in x.shape[1:]) for x in model.inputs]


def every_nth(found, every):
    """Picks every `every`-th candidate."""
    _check_count("every", every, len(found), found)
    return [call for call, _ in found[every - 1 :: every]]


def evenly_by_cost(found, total, num_exits):
    """Picks `num_exits - 1` candidates that, with the last exit, divide the total cost evenly."""
    wanted = num_exits - 1
    _check_count("num_exits", num_exits, len(found) + 1, found)
    picked, start = [], 0
    for number in range(1, num_exits):
        free = found[start : len(found) - (wanted - number)]  # leaves one for each remaining exit
        nearest = min(range(len(free)), key=lambda place: abs(free[place][1] - total * number / num_exits))
        picked.append(free[nearest][0])
        start += nearest + 1
    return picked


def _check_count(argument, value, most, found):
    if value > most:
        raise ValueError(
            f"`{argument}` must be at most {most} for this network. Received: {argument}={value}. Exits can be added "
            f"at {[call.operation.name for call, _ in found]}; name other layers in `exits` to have more."
        )


def by_layer_name(model, output, opened, names):
    """Returns the calls that compute the named layers' results, in the order of computation."""
    recorded = graph.calls(output, model.inputs)
    known = {}
    for call in recorded:
        known.setdefault(call.operation.name, []).append(call.output_tensors)
    known = {**opened, **known}
    picked = {name: _only(name, known, model, output) for name in names}
    if len({id(call) for call in picked.values()}) < len(names):
        raise ValueError(f"`exits` must name different layers. Received: exits={names}.")
    order = {id(call): place for place, call in enumerate(recorded)}
    return sorted(picked.values(), key=lambda call: order[id(call)])


def _only(name, known, model, output):
    results = known.get(name, [])
    if not results:
        reason = _why_unknown(name, known, model)
    elif len(results) > 1:
        reason = f"it is called {len(results)} times, so its result is ambiguous; name a layer after it"
    elif any(tensor is output for tensor in results[0]):
        reason = "its result is the model's own output, which is the last exit anyway"
    else:
        reason = unfit(results[0]) or unfit(graph.producer(results[0][0]).output_tensors)
    if reason:
        raise ValueError(f"Layer '{name}' cannot carry an exit: {reason}. Received: exits={name!r} for '{model.name}'.")
    return graph.producer(results[0][0])


def _why_unknown(name, known, model):
    if any(graph.producer(tensor).operation.name == name for tensor in model.inputs):
        return "it is an input"
    for layer in model.layers:
        inner = [inside.name for inside in graph.sublayers(layer)]
        if name in inner:
            return (
                f"it is inside '{layer.name}' of type {type(layer).__name__}, whose inner layers are not part of the "
                f"graph; use '{layer.name}'"
            )
    return f"the model's output depends on no layer of this name. {_errors.nearest(name, known)}".removesuffix(".")


def unfit(results):
    """Returns why an exit cannot read the results of a call, or None if it can."""
    x = results[0]
    if len(results) > 1:
        return f"its result is {len(results)} tensors, but an exit needs one"
    if not keras.backend.is_float_dtype(x.dtype):
        return f"its result has dtype {x.dtype}, but an exit needs floating-point features"
    if not 2 <= len(x.shape) <= 5:
        return f"its result has shape {x.shape}, but an exit needs (batch, ..., channels) with 2 to 5 axes"
    return None
