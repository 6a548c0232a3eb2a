"""A weighting whose weights move while a network trains: what all of those share."""

import keras
import numpy as np
from keras import ops

from anytime_keras.weighting.schemes import Weighting


class AdaptiveWeighting(Weighting):
    """A weighting with state: numbers for each exit that every batch moves, within the training step.

    Subclasses say which numbers there are besides the weights (`starts`), and how a batch moves them (`moved`). The
    weights of a batch come from the batches before it; they are all 1 at first. A batch in which a loss is not finite
    changes nothing but the count of those skipped: one NaN would stay in the state for ever. An exit whose samples all
    have weight 0 in a batch keeps its numbers; `empty` counts such batches.
    """

    starts = {}  # what is kept for each exit -> its value before the first batch
    update_period = 1  # batches from one that is due to the next: of others nothing is measured by `measure`

    def moved(self, state, losses, measured):
        """Returns what a batch makes of the state: a dict of tensors of shape `(num_exits,)`, for what changes.

        Args:
            state: dict of tensors: `starts`, `weights`; `steps`, the number of batches including this one; `present`,
                whether each exit has samples in this batch; `empty`, the number of batches in which it had none. The
                result is ignored for exits that are not present.
            losses: the batch's losses, shape `(num_exits,)`.
            measured: what `measure` gave, or None; says nothing of a batch that is not due.
        """
        raise NotImplementedError

    def due(self, steps=None):
        """Returns, as a tensor, whether a batch is due, by its number from 1; by default the one that comes."""
        if steps is None:
            steps = ops.convert_to_tensor(self._state["steps"]) + 1
        return ops.equal(steps % self.update_period, 0)

    def build(self, exits):
        super().build(exits)
        starts = {**self.starts, "weights": 1.0}
        self._state = {name: _variable(start, (self.num_exits,), "float32", name) for name, start in starts.items()}
        self._state.update((name, _variable(0, (), "int32", name)) for name in ("steps", "skipped"))
        self._state["empty"] = _variable(0, (self.num_exits,), "int32", "empty")

    @property
    def variables(self):
        return list(self._state.values()) if self.built else []

    @property
    def weights(self):
        return self._read("weights")

    @property
    def steps(self):
        """How many batches the state has seen, an int."""
        return int(self._read("steps"))

    @property
    def skipped(self):
        """How many batches were left out because a loss was not finite, an int."""
        return int(self._read("skipped"))

    @property
    def empty(self):
        """Int array, the number of batches in which each exit had no sample with nonzero weight."""
        return self._read("empty")

    def current(self):
        return ops.convert_to_tensor(self._state["weights"])

    def update(self, losses, measured=None, present=None):
        state = {name: ops.convert_to_tensor(variable) for name, variable in self._state.items()}
        losses = ops.stop_gradient(ops.cast(losses, "float32"))
        finite = ops.all(ops.isfinite(losses))
        if measured is not None:
            measured = ops.stop_gradient(ops.cast(measured, "float32"))
            finite = ops.logical_and(finite, ops.all(ops.isfinite(measured)))
        if present is None:
            present = ops.ones((self.num_exits,), "bool")
        counts = {
            "steps": state["steps"] + 1,
            "empty": state["empty"] + ops.cast(ops.logical_not(present), "int32"),
        }
        moved = self.moved({**state, **counts, "present": present}, losses, measured)
        for name, value in counts.items():
            self._state[name].assign(ops.where(finite, value, state[name]))
        for name, value in moved.items():
            self._state[name].assign(ops.where(ops.logical_and(finite, present), value, state[name]))
        self._state["skipped"].assign(state["skipped"] + ops.cast(ops.logical_not(finite), "int32"))

    def _read(self, name):
        self._check_built()
        if self._synchronize is not None:
            self._synchronize()
        return np.array(ops.convert_to_numpy(self._state[name]))

    def restart(self):
        if self.built:
            starts = {name: [start] * self.num_exits for name, start in self.starts.items()}
            self.set_state({**starts, "weights": [1.0] * self.num_exits, "steps": 0, "skipped": 0})

    def __getstate__(self):
        state = super().__getstate__()
        if self.built:
            state["_state"] = {name: self._read(name) for name in self._state}
        return state

    def __setstate__(self, state):
        vars(self).update(state)
        if self.built:
            self.build(self.exit_names)
            for name, value in state["_state"].items():
                self._state[name].assign(value)

    def get_state(self):
        self._check_built()
        return {"exits": self.exit_names, **{name: self._read(name).tolist() for name in self._state}}

    def set_state(self, state):
        if not self.built:
            self.build(state["exits"])
        if len(state["weights"]) != self.num_exits:
            raise ValueError(
                f"The state is of {len(state['weights'])} exits, this weighting has {self.num_exits}. "
                "Use the state with the network that it comes from."
            )
        state = {"empty": [0] * self.num_exits, **state}  # older states do not have it
        for name, variable in self._state.items():
            variable.assign(state[name])


def _variable(start, shape, dtype, name):
    # Every replica assigns the same values, made from the global batch's losses: see `AdaptiveWeighting.update`.
    return keras.Variable(
        keras.initializers.Constant(start),
        shape,
        dtype,
        trainable=False,
        autocast=False,
        aggregation="only_first_replica",
        name=name,
    )
