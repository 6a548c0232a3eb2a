"""The model that `to_anytime` makes, and how it is saved."""

import keras

from anytime_keras import graph
from anytime_keras.models.anytime_model import AnytimeModel


@keras.saving.register_keras_serializable(package="anytime_keras")
class ConvertedModel(AnytimeModel):
    """What `to_anytime` makes: its config holds the original model's, in the words of the original's own class.

    Args:
        original: functional model.
        output: tensor, the original's result as `graph.flatten` gives it.
        features: list of the tensors that the new heads read.
        answers: dict of the exits' logits.
        name: str or None.
    """

    def __init__(self, original, output, features, answers, name=None, **kwargs):
        super().__init__(inputs=graph.functional(original).input, outputs=answers, name=name, **kwargs)
        self._made_of = _MadeOf(original, output, features)

    def get_config(self):
        made_of, answers = self._made_of, graph.outputs_by_name(self)
        new = {name: tensor for name, tensor in answers.items() if tensor is not made_of.output}
        heads = keras.Model(made_of.features, new)
        order = {id(call): place for place, call in enumerate(graph.calls(made_of.output))}
        original = keras.saving.serialize_keras_object(made_of.original)
        original.pop("compile_config", None)  # its own training is over
        config = {
            "original": original,
            "heads": keras.saving.serialize_keras_object(heads),
            "features": [order[id(graph.producer(tensor))] for tensor in made_of.features],
            "exits": list(answers),
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
        }
        graph.forget(graph.calls(heads.outputs))
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        original, heads = (
            keras.saving.deserialize_keras_object(config.pop(key), custom_objects) for key in ("original", "heads")
        )
        (output,), _ = graph.flatten(graph.functional(original))
        recorded = graph.calls(output)
        features = [recorded[place].output_tensors[0] for place in config.pop("features")]
        values = graph.run(heads, features, lambda operation, args, kwargs: operation(*args, **kwargs))
        answers = {name: values[id(tensor)] for name, tensor in graph.outputs_by_name(heads).items()}
        trainable = config.pop("trainable")
        model = cls(
            original, output, features, {name: answers.get(name, output) for name in config.pop("exits")}, **config
        )
        model.trainable = trainable
        return model


class _MadeOf:
    """Keeps what a converted model was made of where Keras does not track it: its layers are the model's already."""

    def __init__(self, original, output, features):
        self.original, self.output, self.features = original, output, features
