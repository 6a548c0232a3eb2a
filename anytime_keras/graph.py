"""Lists and walks the calls in a functional Keras model's graph.

Keras records the calls that built a functional model as `Node` objects, which a tensor references through
`_keras_history`. Both are private, so only this module uses them, and `tests/test_graph.py` fails if they change.
"""

import inspect
import warnings
import weakref

import keras
from keras import ops, tree
from keras.src.models.functional import Functional  # private; used to check whether a model overrides `call`


def is_functional(model):
    """Returns whether `model` is a Keras model with a graph of calls (functional or built sequential)."""
    try:
        return isinstance(model, keras.Model) and bool(model.inputs) and bool(model.outputs)
    except (AttributeError, ValueError):  # subclassed models have no inputs, unbuilt sequential models raise
        return False


def check_functional(model):
    """Raises ValueError unless `model` is a functional Keras model or a built `Sequential`."""
    if not is_functional(model):
        raise ValueError(
            "`model` must be a functional Keras model or a built `Sequential`. "
            f"Received: {type(model).__name__}. Build it with `keras.Model(inputs, outputs)`."
        )


def functional(model):
    """Returns the functional model behind a `Sequential`, or `model` itself."""
    return model._functional if isinstance(model, keras.Sequential) else model


def outputs_by_name(model):
    """Returns the model's outputs as a dict from name to tensor, in the order of the model's definition.

    Keras sorts a dict's `model.outputs` by name, which puts `exit_10` before `exit_2`. All per-exit values in this
    library follow the order of this dict instead.
    """
    model = functional(model)
    output = model.output
    if isinstance(output, dict):
        named = dict(output)
    else:
        listed = output if isinstance(output, (list, tuple)) else [output]
        named = dict(zip(model.output_names, listed))
        if len(named) < len(listed):
            raise ValueError(
                "The model's outputs must have different names. "
                f"Received: model '{model.name}' with output names {list(model.output_names)}. "
                "Give the model a dict of outputs: `keras.Model(inputs, {'a': a, 'b': b})`."
            )
    if not all(isinstance(tensor, keras.KerasTensor) for tensor in named.values()):
        raise ValueError(
            "The model's outputs must be one tensor, a flat list, or a flat dict of tensors. "
            f"Received: model '{model.name}' with outputs {output}."
        )
    return named


def in_named_head(operation, exits):
    """Returns whether an operation belongs to the head of one of the exits by its name: `exit_2`, `exit_2_pool`, ..."""
    return any(operation.name == exit or operation.name.startswith(f"{exit}_") for exit in exits)


def producer(tensor):
    """Returns the call (a Keras `Node`) that produced `tensor`."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def ends_in(tensor, *activations):
    """Returns whether a tensor is the output of one of these activations, such as `"softmax"`."""
    operation = producer(tensor).operation
    if runs_its_graph(operation):
        return ends_in(functional(operation).outputs[tensor._keras_history.tensor_index], *activations)
    if type(operation) in (keras.layers.Identity, keras.layers.Reshape, keras.layers.Flatten):
        return ends_in(producer(tensor).input_tensors[0], *activations)
    activation = getattr(operation, "activation", operation)
    return getattr(activation, "__name__", type(activation).__name__).lower() in activations


def ends_in_sigmoid(tensor):
    """Returns whether a tensor is the output of a sigmoid, which makes each value an independent probability."""
    return ends_in(tensor, "sigmoid", "hard_sigmoid")


def calls(outputs, inputs=()):
    """Lists the calls that compute `outputs` from `inputs`, both nested structures of tensors, in topological order.

    The calls are Keras nodes: `.operation`, `.input_tensors`, `.output_tensors`, `.arguments`.
    """
    given = {id(tensor) for tensor in tree.flatten(inputs)}
    ordered, seen = [], set()
    stack = [(tensor, False) for tensor in reversed(tree.flatten(outputs))]
    while stack:  # depth first, without recursion because deep networks would exceed Python's recursion limit
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


def run(model, inputs, apply=None):
    """Runs a functional model on a flat list of values and returns a dict from each tensor's `id` to its value.

    The function `apply(operation, args, kwargs)` computes each call in order. By default, it calls the operation.
    """
    model = functional(model)
    values = {id(tensor): value for tensor, value in zip(model.inputs, inputs)}
    return replay(calls(model.outputs, model.inputs), values, apply)


def replay(calls, values, apply=None):
    """Repeats calls, in topological order, on other values.

    `values` is a dict from the `id` of each tensor that the calls read to its value. It is returned with the results.
    """
    for call in calls:
        args, kwargs = call.arguments.fill_in(values)
        results = call.operation(*args, **kwargs) if apply is None else apply(call.operation, args, kwargs)
        values.update((id(tensor), result) for tensor, result in zip(call.output_tensors, tree.flatten(results)))
    return values


def runs_its_graph(model):
    """Returns whether calling `model` only runs its graph, because its class does not override `call`."""
    return is_functional(model) and type(model).call in (Functional.call, keras.Sequential.call)


def spec(operation, args, kwargs):
    """Returns the outputs of a call as `KerasTensor`s, by shape inference."""
    kwargs, parameters = accepted(operation, kwargs), inspect.signature(operation.compute_output_spec).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        kwargs = {name: value for name, value in kwargs.items() if name in parameters}  # `call` may accept more
    return operation.compute_output_spec(*args, **kwargs)


def accepted(operation, kwargs):
    """Returns `kwargs`, without `training` if the `call` of `operation` does not accept it."""
    takes_training = "training" in inspect.signature(operation.call).parameters
    return {name: value for name, value in kwargs.items() if takes_training or name != "training"}


def trace(layer, *args, **kwargs):
    """Runs the `call` of a built layer on `KerasTensor`s, so that `calls` can list its inner layers and operations.

    Returns the layer's results; pass them to `calls`.
    """

    def convert(value):
        return layer.dtype_policy.convert_input(value, layer.autocast, layer.input_dtype)

    args, kwargs = tree.map_structure(convert, (args, accepted(layer, kwargs)))
    return layer.call(*args, **kwargs)


def forget(recorded):
    """Removes unused calls from the records of their layers, last first."""
    for call in reversed(recorded):
        call.operation._inbound_nodes.remove(call)
        for tensor in call.input_tensors:
            parent = tensor._keras_history.operation
            if parent is not None and call in parent._outbound_nodes:
                parent._outbound_nodes.remove(call)


def flatten(model):
    """Flattens the functional models and stacks of blocks that are nested in a functional model.

    The call of a nested model is replaced by calls of its layers, which keep their weights. A stack is a layer that
    only chains blocks, such as keras-hub's `ViTEncoder`. A nested model is kept as one call if it overrides `call` or
    has a layer whose name is already used.

    Returns a list of the model's results, computed from `model.inputs`, in the order of `model.outputs`, and a dict
    from the name of each flattened model or stack to its results, one list per call.
    """
    model = functional(model)
    top = calls(model.outputs, model.inputs)
    taken = {producer(tensor).operation.name: producer(tensor).operation for tensor in model.inputs}
    taken.update((call.operation.name, call.operation) for call in top)
    opened = {}

    def run_again(inner, values, training):
        for call in calls(inner.outputs, inner.inputs):
            operation = call.operation
            args, kwargs = call.arguments.fill_in(values)
            if training is not None and isinstance(operation, keras.Layer):
                kwargs = {**kwargs, "training": training}
            results = inlined(operation, args, kwargs)
            if results is not None:
                opened.setdefault(operation.name, []).append(results)
            elif all(values[id(tensor)] is tensor for tensor in call.input_tensors):
                results = call.output_tensors
            else:
                results = tree.flatten(operation(*args, **kwargs))
            values.update((id(tensor), result) for tensor, result in zip(call.output_tensors, results))
        return [values[id(tensor)] for tensor in inner.outputs]

    def inlined(operation, args, kwargs):
        if runs_its_graph(operation):
            inner = functional(operation)
            inputs = _inputs_of(inner, args)
            new = [call.operation for call in calls(inner.outputs, inner.inputs)]
            if inputs is None or any(taken.get(each.name, each) is not each for each in new):
                return None
            taken.update((each.name, each) for each in new)
            values = {id(tensor): value for tensor, value in zip(inner.inputs, inputs)}
            return run_again(inner, values, kwargs.get("training"))
        if isinstance(operation, keras.Layer) and not kwargs.get("training"):  # True would apply to all inner layers
            return _open_stack(operation, args, taken)
        return None

    return run_again(model, {id(tensor): tensor for tensor in model.inputs}, None), opened


_OPENED: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # cache of `opened`, by functional model
_WARNED: weakref.WeakSet = weakref.WeakSet()  # the operations that `opened` has warned about


def opened(model):
    """Flattens nested models with several outputs, such as a network behind preprocessing; cached per model.

    Each output then depends only on the calls it needs. Returns the model itself if there is nothing to flatten,
    otherwise a functional model with a dict of the same outputs, which shares all layers.
    """
    model = functional(model)
    if not _nested(model.outputs, model.inputs):
        return model
    if model not in _OPENED:
        results = dict(zip(map(id, model.outputs), flatten(model)[0]))
        outputs = {name: results[id(tensor)] for name, tensor in outputs_by_name(model).items()}
        nested = _nested(outputs, model.inputs)
        if closed := [operation for operation in nested if operation not in _WARNED]:
            _WARNED.update(closed)
            warnings.warn(
                f"'{closed[0].name}' in model '{model.name}' cannot be cut at its {nested[closed[0]]} outputs, "
                "so each output costs as much as all of it. Its class overrides `call`, its layer names are already "
                "used, or its inputs differ in structure from those it was built with.",
                stacklevel=3,
            )
        _OPENED[model] = keras.Model(model.input, outputs, name=model.name)
    return _OPENED[model]


def _nested(outputs, inputs):
    """Finds nested models with several outputs and layers that compute several `outputs`; returns how many each has.

    Weightless operations after such a layer, such as a softmax, make no difference.
    """
    operations = [call.operation for call in calls(outputs, inputs)]
    nested = {each: len(each.outputs) for each in operations if is_functional(each) and len(each.outputs) > 1}
    ends = [last_with_weights(tensor) for tensor in tree.flatten(outputs)]
    for end in ends:
        count = sum(other is end for other in ends)
        if count > 1 and is_composite(end.operation):
            nested.setdefault(end.operation, count)
    return nested


def last_with_weights(tensor):
    """Returns the last call with weights, several inputs or several outputs on the way to `tensor`."""
    call = producer(tensor)
    while not getattr(call.operation, "weights", None) and len(call.input_tensors) == len(call.output_tensors) == 1:
        call = producer(call.input_tensors[0])
    return call


def _inputs_of(model, args):
    """Returns the inputs of a call of a nested model as a flat list, or None if Keras would reshape them."""
    given = tree.flatten(args[0]) if args else []
    if len(given) != 1 or len(model.inputs) != 1:  # Keras accepts a single input in a list or not
        try:
            tree.assert_same_structure(tree.lists_to_tuples(args[0]), tree.lists_to_tuples(model.input))
        except (ValueError, IndexError):
            return None
    if any(not isinstance(x, keras.KerasTensor) or len(x.shape) != len(t.shape) for x, t in zip(given, model.inputs)):
        return None
    return [x if x.dtype == t.dtype else ops.cast(x, t.dtype) for x, t in zip(given, model.inputs)]


def _open_stack(layer, args, taken):
    """Flattens a stack of blocks and returns its results, or None if `layer` is not a stack."""
    blocks = [type(child) for child in sublayers(layer, recursive=False) if is_composite(child)]
    if not is_composite(layer) or len(blocks) == len(set(blocks)):
        return None
    try:
        results = tree.flatten(trace(layer, *args))
    except Exception:  # third-party layers may raise anything on symbolic tensors; keep them as one call
        return None
    found = calls(results, args)
    expected = tree.flatten(layer.compute_output_spec(*args))
    chained = [call.operation for call, _ in narrow(found, [1] * len(found))]
    kinds = [type(operation) for operation in chained if is_composite(operation)]
    named = {call.operation.name: call.operation for call in found}
    if (
        len(kinds) > len(set(kinds))
        and [(x.shape, x.dtype) for x in results] == [(x.shape, x.dtype) for x in expected]
        and all(taken.get(name, operation) is operation for name, operation in named.items())
        and len(named) == len(found)
    ):
        taken.update(named)
        return results
    forget(found)
    return None


def sublayers(layer, recursive=True):
    """Lists the layers inside a layer or model, at any depth unless `recursive` is False."""
    return list(layer._flatten_layers(include_self=False, recursive=recursive))


def is_from_keras(kind, package=""):
    """Returns whether a class is defined by Keras, in a package such as `"layers."` if one is given."""
    return kind.__module__.startswith(f"keras.src.{package}")


def is_composite(layer):
    """Returns whether `layer` is a third-party layer whose weights all belong to its sublayers."""
    if not is_foreign(layer):
        return False
    inherited = {id(weight) for child in sublayers(layer, recursive=False) for weight in child.weights}
    return bool(inherited) and all(id(weight) in inherited for weight in layer.weights)


def is_foreign(operation):
    """Returns whether `operation` is a layer defined outside Keras."""
    return isinstance(operation, keras.Layer) and not is_from_keras(type(operation), "layers.")


def narrow(recorded, costs, width=1):
    """Lists the bottlenecks of a graph: calls whose result is the only computed tensor that later calls read.

    Tensors that cost nothing to compute (inputs, masks) are ignored. If branches with separate inputs merge, the list
    follows the branch with the most work. `costs` is the work of each call; later calls may read `width` results.

    Returns a list of pairs (call, work up to and including it). Each call is needed by the next.
    """
    index = {id(tensor): place for place, call in enumerate(recorded) for tensor in call.output_tensors}
    parents = [{index[id(t)] for t in call.input_tensors if id(t) in index} for call in recorded]
    needed, readers = [], [0] * len(recorded)  # sets of calls, as bit masks
    for place, sources in enumerate(parents):
        needed.append(1 << place)
        for source in sources:
            needed[place] |= needed[source]
            readers[source] |= 1 << place
    work = [sum(cost for place, cost in enumerate(costs) if needs >> place & 1) for needs in needed]

    passing = []  # for each call, the earlier results that calls it does not depend on also read
    for place, sources in enumerate(parents):
        before = set().union(sources, *(passing[source] for source in sources))
        passing.append({each for each in before if work[each] and readers[each] & ~needed[place]})

    found, within = [], needed[-1] if needed else 0
    for place in sorted(range(len(recorded)), key=lambda place: (work[place], place), reverse=True):
        fits = len(passing[place]) < width and len(recorded[place].output_tensors) == 1
        if work[place] and fits and within >> place & 1:
            found.append((recorded[place], work[place]))
            within = needed[place]
    return found[::-1]
