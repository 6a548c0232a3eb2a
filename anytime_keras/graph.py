"""The graph of a functional Keras model as a list of calls: the one place that reads Keras's graph records.

Keras keeps the calls that built a functional model as `Node` objects, reached from a tensor by
`_keras_history`. Neither is a public name; `tests/test_graph.py` fails loudly if they change.
"""

import keras
from keras import tree


def is_functional(model):
    """Tells whether `model` is a Keras model whose graph of calls can be walked (functional or built sequential)."""
    try:
        return isinstance(model, keras.Model) and bool(model.inputs) and bool(model.outputs)
    except (AttributeError, ValueError):  # a subclassed model has no inputs, an unbuilt sequential refuses
        return False


def functional(model):
    """Returns the functional model behind a `Sequential`, or `model` itself."""
    return model._functional if isinstance(model, keras.Sequential) else model


def outputs_by_name(model):
    """Returns the model's outputs as a dict from name to tensor, in the order in which its author wrote them.

    Keras sorts `model.outputs` and `model.output_names` by name when the outputs are a dict, so that
    `exit_10` stands before `exit_2`; everything here that is kept per exit follows this order instead.
    """
    model = functional(model)
    output = model.output
    if isinstance(output, dict):
        named = dict(output)
    elif isinstance(output, (list, tuple)):
        named = dict(zip(model.output_names, output))
        if len(named) < len(output):
            raise ValueError(
                "The model's outputs need different names, or they cannot be told apart. "
                f"Received: model '{model.name}' with output names {list(model.output_names)}. "
                "Give the model a dict of outputs: `keras.Model(inputs, {'a': a, 'b': b})`."
            )
    else:
        named = {model.output_names[0]: output}
    if not all(isinstance(tensor, keras.KerasTensor) for tensor in named.values()):
        raise ValueError(
            "The model's outputs must be one tensor, a flat list, or a flat dict of tensors. "
            f"Received: model '{model.name}' with outputs {output}."
        )
    return named


def producer(tensor):
    """Returns the call (a Keras `Node`) whose result `tensor` is."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def calls(outputs, inputs=()):
    """Lists the calls that compute `outputs` from `inputs`, each after those it needs.

    Args:
        outputs: tensor or nested structure of tensors of a functional model.
        inputs: tensor or nested structure of tensors at which to stop; the calls that made them
            are left out, and so are input layers.

    Returns:
        A list of Keras nodes: `.operation`, `.input_tensors`, `.output_tensors`, `.arguments`.
    """
    given = {id(tensor) for tensor in tree.flatten(inputs)}
    ordered, seen = [], set()
    stack = [(tensor, False) for tensor in reversed(tree.flatten(outputs))]
    while stack:  # depth first without recursion: deep networks exceed Python's limit
        tensor, finished = stack.pop()
        if id(tensor) in given:
            continue
        call = producer(tensor)
        if finished:
            if not call.is_input:
                ordered.append(call)
        elif id(call) not in seen:
            seen.add(id(call))
            stack.append((tensor, True))
            stack.extend((parent, False) for parent in reversed(call.input_tensors))
    return ordered


def run(model, inputs, apply):
    """Walks through a functional model's calls with other values in place of its tensors.

    Args:
        model: functional model.
        inputs: flat list of values, one for each of `model.inputs`.
        apply: called as `apply(operation, args, kwargs)` for each call in turn; returns the result.

    Returns:
        A dict from the `id` of each of the model's tensors to its value.
    """
    model = functional(model)
    values = {id(tensor): value for tensor, value in zip(model.inputs, inputs)}
    for call in calls(model.outputs, model.inputs):
        args, kwargs = call.arguments.fill_in(values)
        result = apply(call.operation, args, kwargs)
        values.update((id(tensor), value) for tensor, value in zip(call.output_tensors, tree.flatten(result)))
    return values
