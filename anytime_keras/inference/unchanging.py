"""Calls of a network that leave it as it is."""

import keras


def call(model, inputs, values=()):
    """Computes a functional model for inference, without a change of its state.

    Args:
        model: functional model.
        inputs: list of tensors.
        values: pairs of a variable and the tensor to use for it; other variables have their own values.

    Returns:
        The model's outputs.

    Raises:
        ValueError: if the call would change a variable: the next one would have to see that.
    """
    with _Recording(values) as scope:
        outputs = model.call(inputs, training=False)
    if scope.changed:
        raise ValueError(
            "A network that is cut at its exits must not keep a state from one call to the next. Received: layers that "
            f"change {sorted(scope.changed)} when called, as a stateful recurrent layer or a random one does. Build "
            "the network without them (`stateful=False`)."
        )
    return outputs


class _Recording(keras.StatelessScope):
    def __init__(self, values):
        super().__init__(values)
        self.changed = set()

    def add_update(self, update):
        super().add_update(update)
        self.changed.add(update[0].path)
