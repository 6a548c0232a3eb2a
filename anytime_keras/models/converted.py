"""The model that `to_anytime` returns, and its serialisation."""

import keras

from anytime_keras import graph
from anytime_keras.models.anytime_model import BuiltModel


@keras.saving.register_keras_serializable(package="anytime_keras")
class ConvertedModel(BuiltModel):
    """The model that `to_anytime` returns; its config contains the original model, serialised by its own class."""

    def __init__(self, original, output, answers, name=None, **kwargs):
        super().__init__(inputs=graph.functional(original).input, outputs=answers, name=name, **kwargs)
        # Not tracked by Keras, because the model already tracks the layers.
        vars(self)["_original"], vars(self)["_output"] = original, output

    def get_config(self):
        answers = graph.outputs_by_name(self)
        new = {name: tensor for name, tensor in answers.items() if tensor is not self._output}
        heads, reads = _apart(new, _tensors(self, self._output))
        original = keras.saving.serialize_keras_object(self._original)
        original.pop("compile_config", None)  # the original is no longer trained on its own
        serialized = keras.saving.serialize_keras_object(heads)
        config = {"original": original, "heads": serialized, "reads": reads, "exits": list(answers), **self._settings()}
        graph.forget(graph.calls(heads.outputs))
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        load = keras.saving.deserialize_keras_object
        original, heads = (load(config.pop(key), custom_objects) for key in ("original", "heads"))
        (output,), _ = graph.flatten(graph.functional(original))
        known = _tensors(graph.functional(original), output)
        read = [known[number] for number in config.pop("reads")]
        values = graph.run(heads, read)
        answers = {name: values[id(tensor)] for name, tensor in graph.outputs_by_name(heads).items()}
        trainable = config.pop("trainable")
        model = cls(original, output, {name: answers.get(name, output) for name in config.pop("exits")}, **config)
        model.trainable = trainable
        return model


def _tensors(model, output):
    """Lists the model's inputs and all tensors on the way to `output`, in the same order before and after saving."""
    return list(model.inputs) + [tensor for call in graph.calls(output) for tensor in call.output_tensors]


def _apart(answers, known):
    """Builds a separate model of the heads, from the tensors `known` of the original to `answers`.

    Returns the model, and the indices of its inputs in `known`: features, and the masks that Keras passes with them.
    """
    place, calls = {id(tensor): number for number, tensor in enumerate(known)}, graph.calls(answers, known)
    read = [tensor for call in calls for tensor in call.input_tensors] + list(answers.values())
    reads = sorted({place[id(tensor)] for tensor in read if id(tensor) in place})
    # `keras.Model(tensors, outputs)` breaks if some of the tensors are inputs and others are not (Keras 3.15), so the
    # calls are repeated on new inputs.
    inputs = [keras.Input(batch_shape=known[number].shape, dtype=known[number].dtype) for number in reads]
    values = graph.replay(calls, {id(known[number]): new for number, new in zip(reads, inputs)})
    return keras.Model(inputs, {name: values[id(tensor)] for name, tensor in answers.items()}), reads
