"""Stateless calls of a network."""

import keras


def call(model, inputs, values=()):
    """Runs a functional model in inference mode without changing its state.

    Args:
        model: functional model.
        inputs: list of tensors.
        values: pairs (variable, tensor) that override variables; other variables keep their values.

    Returns:
        The model's outputs.

    Raises:
        ValueError: if the call would update a variable, because that update would be lost.
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
