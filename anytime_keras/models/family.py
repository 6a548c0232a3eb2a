"""Base class of the families, whose constructor arguments are their config."""

import inspect

import keras

from anytime_keras.models.anytime_model import BuiltModel


class Family(BuiltModel):
    """An anytime network built from a few arguments, each stored as an attribute of the same name.

    `input_shape` is stored as `image_shape`, since Keras has a property named `input_shape`.
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
