"""The parts of an export (the whole network and its stages) as functions of named tensors, and `call_unchanging`."""

import functools
import re

import keras

from anytime_keras import graph
from anytime_keras._lazy import tf


class Part:
    """The whole network or one of its stages, with new outputs only: a stage does not pass its inputs through.

    Args:
        name: str, such as `"whole"` or `"stage_3"`.
        inputs, outputs: dicts from name to Keras tensor, in order.
        exits: dict from the name of each logits output to the name of its exit.
        build: function that builds the part's model; None builds it from `inputs` and `outputs`.

    Attributes:
        model: the part as a Keras model, built when first used.
    """

    def __init__(self, name, inputs, outputs, exits, build=None):
        self.name, self.inputs, self.outputs, self.exits = name, inputs, outputs, exits
        self._build = build or (lambda: keras.Model(list(inputs.values()), dict(outputs)))

    @functools.cached_property
    def model(self):
        return self._build()

    def function(self, batch_size=None, named=True):
        """Returns a `tf.function` from the part's inputs in order to a dict of its outputs, a list if not `named`."""
        def call(*tensors):
            outputs = call_unchanging(self.model, list(tensors))
            outputs = {name: tf.identity(outputs[name]) for name in self.outputs}
            return outputs if named else list(outputs.values())

        signature = [tf.TensorSpec((batch_size, *x.shape[1:]), x.dtype, name) for name, x in self.inputs.items()]
        return tf.function(call, signature, autograph=False)

    def describe(self, batch_size=None):
        """Returns the names, shapes and dtypes of the part's inputs and outputs as JSON-compatible data."""

        def tensors(named):
            shapes = {name: [batch_size, *tensor.shape[1:]] for name, tensor in named.items()}
            return [{"name": name, "shape": shapes[name], "dtype": str(x.dtype)} for name, x in named.items()]

        outputs = [{**tensor, "exit": self.exits.get(tensor["name"])} for tensor in tensors(self.outputs)]
        return {"inputs": tensors(self.inputs), "outputs": outputs}


class Parts:
    """The parts of a network that are exported: `whole`, and the list `stages`.

    `inputs` maps the name of each network input in the export to its key in the model.
    """

    def __init__(self, stages):
        keys = _input_keys(stages.model)
        names = _names([*keys, *stages.exit_names], reserved=r"carried_\d+")
        self.inputs = dict(zip(names, keys))
        exits = dict(zip(names[len(keys) :], stages.exit_names))
        self.whole = _whole(stages, list(self.inputs), exits)
        self.stages, made = [], 0
        for position, (logits, exit_name) in enumerate(exits.items()):
            if stages.starts(position):
                carried = list(self.inputs)
            segment = stages.segment(position)
            given = {id(tensor): name for tensor, name in zip(segment.inputs, carried)}
            result = segment.output
            given.setdefault(id(result["logits"]), logits)
            new, carried = {logits: result["logits"]}, []
            for tensor in result["carried"]:
                if id(tensor) not in given:
                    made += 1
                    given[id(tensor)] = f"carried_{made}"
                    new[given[id(tensor)]] = tensor
                carried.append(given[id(tensor)])
            taken = _read({given[id(tensor)]: tensor for tensor in segment.inputs}, new)
            self.stages.append(Part(f"stage_{position + 1}", taken, new, {logits: exit_name}))


def _whole(stages, inputs, exits):
    """Returns the `Part` of all exits. The members of an ensemble are nested models, as their layers share names."""
    outputs, members = {}, stages.members()
    tensors = members[0][0].inputs
    if len(members) > 1:
        tensors = [keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype) for tensor in tensors]
    for number, (member, names) in enumerate(members, start=1):
        results = graph.outputs_by_name(member)
        if len(members) > 1:
            used = {own: results[own] for own in names.values()}
            results = keras.Model(member.inputs, used, name=f"member_{number}")(tensors)
        outputs.update((name, results[own]) for name, own in names.items())
    named = {name: outputs[exit_name] for name, exit_name in exits.items()}
    return Part("whole", _read(dict(zip(inputs, tensors)), named), named, exits)


def _read(inputs, outputs):
    """Filters `inputs`, a dict of tensors, to those that `outputs` depend on."""
    given, wanted = list(inputs.values()), list(outputs.values())
    read = {id(tensor) for call in graph.calls(wanted, given) for tensor in call.input_tensors}
    read.update(id(tensor) for tensor in wanted)
    return {name: tensor for name, tensor in inputs.items() if id(tensor) in read}


def _input_keys(model):
    """Returns the key of each model input: its name in the model, or input_1, input_2, ... if it is unnamed."""
    if isinstance(model.input, dict):
        keys = {id(tensor): key for key, tensor in model.input.items()}
        return [keys[id(tensor)] for tensor in model.inputs]
    return [  # Keras names unnamed inputs by a counter of the process
        f"input_{number}" if re.fullmatch(r"(input_layer|keras_tensor)(_\d+)?", tensor.name) else tensor.name
        for number, tensor in enumerate(model.inputs, start=1)
    ]


def _names(keys, reserved):
    """Converts keys to unique names of letters, digits and underscores, which all runtimes accept."""
    names = []
    for key in keys:
        name = re.sub(r"\W", "_", key, flags=re.ASCII)
        if not name[0].isalpha():
            name = f"t{name}"
        while name in names or re.fullmatch(reserved, name):
            name += "_"
        names.append(name)
    return names


def call_unchanging(model, inputs, values=()):
    """Runs a functional model in inference mode without changing its state.

    `values` are pairs (variable, tensor) that override variables. Raises ValueError if the call would update a
    variable, because that update would be lost.
    """
    # A stateful recurrent layer has a fixed batch size, so other sizes would raise an error of its own.
    layers = [layer for layer in graph.sublayers(model) if getattr(layer, "stateful", False) is True]
    states = [state for layer in layers for state in keras.tree.flatten(getattr(layer, "states", None))]
    stateful = {state.path for state in states if state is not None}
    with _Recording(values) as scope:
        outputs = None if stateful else model.call(inputs, training=False)
    if changed := scope.changed | stateful:
        raise ValueError(
            "A network that is cut at its exits must not keep a state from one call to the next. Received: layers that "
            f"change {sorted(changed)} when called, such as stateful recurrent layers or random layers. Build the "
            "network without them (`stateful=False`)."
        )
    return outputs


class _Recording(keras.StatelessScope):
    def __init__(self, values):
        super().__init__(values)
        self.changed = set()

    def add_update(self, update):
        super().add_update(update)
        self.changed.add(update[0].path)
