"""What the families' classes share: a network's arguments are its config."""

import inspect

import keras

from anytime_keras.models.anytime_model import BuiltModel


class Family(BuiltModel):
    """An anytime network that is built from a few arguments, each kept as an attribute of its name.

    `input_shape` is kept as `image_shape`, since Keras has a property of that name.
    """

    def get_config(self):
        arguments = [name for name in inspect.signature(type(self)).parameters if name not in _NOT_OWN]
        own = {name: getattr(self, "image_shape" if name == "input_shape" else name) for name in arguments}
        return {
            **own,
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
        }


_NOT_OWN = ("self", "name", "dtype", "kwargs")
