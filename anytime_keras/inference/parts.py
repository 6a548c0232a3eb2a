"""What an export is made of: the whole network and its stages as functions between tensors of fixed names."""

import re

import keras

from anytime_keras import graph
from anytime_keras.inference import unchanging


class Part:
    """The whole network, or one stage of it.

    A stage takes tensors by the names under which earlier stages, or the network's input, gave them, and gives only
    what is new: nothing is handed through.

    Args:
        name: str, `"whole"` or `"stage_3"`.
        inputs: dict from name to Keras tensor, in order.
        outputs: dict likewise.
        exits: dict from the name of an output to the exit whose logits it is.
    """

    def __init__(self, name, inputs, outputs, exits):
        self.name, self.inputs, self.outputs, self.exits = name, inputs, outputs, exits
        self.model = keras.Model(list(inputs.values()), dict(outputs))

    def function(self, batch_size=None):
        """Returns the part as a `tf.function` of its inputs, in order, to a dict of its outputs."""
        import tensorflow as tf

        def call(*tensors):
            outputs = unchanging.call(self.model, list(tensors))
            return {name: tf.identity(outputs[name]) for name in self.outputs}

        signature = [
            tf.TensorSpec((batch_size, *tensor.shape[1:]), tensor.dtype, name) for name, tensor in self.inputs.items()
        ]
        return tf.function(call, signature, autograph=False)

    def describe(self, batch_size=None):
        """Returns the part's inputs and outputs, with shapes and types, as plain data."""

        def tensors(named):
            return [
                {"name": name, "shape": [batch_size, *tensor.shape[1:]], "dtype": str(tensor.dtype)}
                for name, tensor in named.items()
            ]

        outputs = [{**tensor, "exit": self.exits.get(tensor["name"])} for tensor in tensors(self.outputs)]
        return {"inputs": tensors(self.inputs), "outputs": outputs}


class Parts:
    """Names the tensors of a network cut into stages, and makes the parts to be exported.

    Args:
        stages: `Stages`.

    Attributes:
        inputs: dict from the name of each of the network's inputs to what its author calls it.
        model: functional model of the exits that are stopped at, by their own names.
        whole: `Part`.
        stages: list of `Part`.
    """

    def __init__(self, stages):
        model = stages.model
        keys = _input_keys(model)
        names = _names([*keys, *stages.exit_names], reserved=r"carried_\d+")
        inputs = dict(zip(names, model.inputs))
        exits = dict(zip(names[len(keys) :], stages.exit_names))
        outputs = graph.outputs_by_name(model)
        self.inputs = dict(zip(names, keys))
        whole = {name: outputs[key] for name, key in exits.items()}
        self.model = keras.Model(model.inputs, {key: outputs[key] for key in stages.exit_names})
        self.whole = Part("whole", _read(inputs, whole), whole, exits)
        self.stages, carried, made = [], list(inputs), 0
        for position, (logits, exit_name) in enumerate(exits.items()):
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


def _read(inputs, outputs):
    """Returns those of the inputs, a dict of tensors, that the outputs are computed from."""
    given, wanted = list(inputs.values()), list(outputs.values())
    read = {id(tensor) for call in graph.calls(wanted, given) for tensor in call.input_tensors}
    read.update(id(tensor) for tensor in wanted)
    return {name: tensor for name, tensor in inputs.items() if id(tensor) in read}


def _input_keys(model):
    """Returns what callers name each of the model's inputs by: as its author did, else input_1, input_2, ..."""
    if isinstance(model.input, dict):
        keys = {id(tensor): key for key, tensor in model.input.items()}
        return [keys[id(tensor)] for tensor in model.inputs]
    return [  # Keras numbers the inputs of a process that have no name
        f"input_{number}" if re.fullmatch(r"(input_layer|keras_tensor)(_\d+)?", tensor.name) else tensor.name
        for number, tensor in enumerate(model.inputs, start=1)
    ]


def _names(keys, reserved):
    """Turns each key into a different name of letters, digits and underscores, which all runtimes take."""
    names = []
    for key in keys:
        name = re.sub(r"\W", "_", key, flags=re.ASCII)
        if not name[0].isalpha():
            name = f"t{name}"
        while name in names or re.fullmatch(reserved, name):
            name += "_"
        names.append(name)
    return names
