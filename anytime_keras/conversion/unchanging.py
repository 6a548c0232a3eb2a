"""Stateless calls of a network."""

import keras

from anytime_keras import graph


def call(model, inputs, values=()):
    """Runs a functional model in inference mode without changing its state.

    `values` are pairs (variable, tensor) that override variables. Raises ValueError if the call would update a
    variable, because that update would be lost.
    """
    # A stateful recurrent layer has a fixed batch size, so other sizes would raise an error of its own.
    stateful = _states(model)
    with _Recording(values) as scope:
        outputs = None if stateful else model.call(inputs, training=False)
    if changed := scope.changed | stateful:
        raise ValueError(
            "A network that is cut at its exits must not keep a state from one call to the next. Received: layers that "
            f"change {sorted(changed)} when called, such as stateful recurrent layers or random layers. Build the "
            "network without them (`stateful=False`)."
        )
    return outputs


def _states(model):
    """Returns the paths of the states of stateful recurrent layers."""
    layers = [layer for layer in graph.sublayers(model) if getattr(layer, "stateful", False) is True]
    states = [state for layer in layers for state in keras.tree.flatten(getattr(layer, "states", None))]
    return {state.path for state in states if state is not None}


class _Recording(keras.StatelessScope):
    def __init__(self, values):
        super().__init__(values)
        self.changed = set()

    def add_update(self, update):
        super().add_update(update)
        self.changed.add(update[0].path)
