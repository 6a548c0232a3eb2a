"""AdaLoss: each exit's loss weighed by the inverse of its running mean.

Paper: Hu, Dey, Hebert, Bagnell (AAAI 2019), sections 3 and C.1, equation 7.
"""

import numbers

import keras
import numpy as np
from keras import ops

from anytime_keras.weighting.schemes import Weighting

PRESETS = {
    # Paper, section C.2.
    "paper": dict(gamma=0.05, momentum=0.9, update_period=1, final_extra=0.0),
    # The authors' late ImageNet runs (https://github.com/EchoWho/AnytimeNeuralNetwork_public).
    "authors_code": dict(gamma=0.07, momentum=0.9, update_period=1, final_extra=1.0),
}
# Averages are kept above this where they divide, so that a loss of zero leaves finite weights.
SMALLEST_AVERAGE = 1e-30


def adaloss_weights(averages, gamma=0.05, final_extra=0.0):
    """Returns the AdaLoss weights for given running means of the exits' losses.

    `B_i = (1 - gamma) * min_j(averages_j) / averages_i + gamma` (equation 7 with alpha = min): the largest
    weight is 1 and none is below `gamma`. With `final_extra`, as in the authors' code, the last weight
    is raised by it and all are scaled back to a largest of 1 before `gamma` is mixed in.

    Args:
        averages: tensor or array of shape `(num_exits,)`, none negative.
        gamma: float in [0, 1], the share of equal weights; 1 weighs all alike.
        final_extra: float, 0 or more.

    Returns:
        A float32 tensor of shape `(num_exits,)`.

    Example:
    >>> import keras
    >>> keras.ops.convert_to_numpy(adaloss_weights([2.0, 1.0, 0.5], gamma=0.0)).tolist()
    [0.25, 0.5, 1.0]
    """
    averages = ops.maximum(ops.convert_to_tensor(averages, "float32"), SMALLEST_AVERAGE)
    weights = ops.min(averages) / averages
    if final_extra:
        weights = ops.concatenate([weights[:-1], weights[-1:] + final_extra])
        weights = weights / ops.max(weights)
    return (1.0 - gamma) * weights + gamma


@keras.saving.register_keras_serializable(package="anytime_keras")
class AdaLossWeighting(Weighting):
    """Keeps the running means of the exits' losses and weighs each loss by the inverse of its own.

    The weights of a batch come from the batches before it; they are all 1 until the first update. The first
    batch starts the averages, `average = momentum * average + (1 - momentum) * loss` moves them. On
    several replicas the losses of the global batch count. A batch in which a loss is not finite is skipped.

    Args:
        gamma: float in [0, 1], share of equal weights (see `adaloss_weights`). 0.05 in the paper.
        momentum: float in [0, 1) of the averages. 0.9 in the paper.
        update_period: int, batches from one update of the weights to the next; the averages move with
            every batch. 1 in the paper.
        final_extra: float, 0 or more, see `adaloss_weights`. 0 in the paper.
        first_order: bool. Weighs by the inverse of the mean squared gradient of each loss with respect to the
            trainable parameters, instead of the loss itself (the paper's outlook; the authors'
            `adaloss_order=1`). Costs one more forward pass and one backward pass for each exit in every
            step, about `num_exits / 2` times as long; for experiments.
        preset: `"paper"`, or `"authors_code"` for gamma 0.07 and final_extra 1. Arguments above that are not
            None take precedence.

    Example:
    >>> import keras
    >>> weighting = AdaLossWeighting(gamma=0.0)
    >>> float(weighting(keras.ops.convert_to_tensor([4.0, 2.0])))  # the first batch: weights are 1
    6.0
    >>> weighting.weights.tolist(), weighting.averages.tolist()
    ([0.5, 1.0], [4.0, 2.0])
    """

    def __init__(
        self, gamma=None, momentum=None, update_period=None, final_extra=None, first_order=False, preset="paper"
    ):
        super().__init__()
        if not isinstance(first_order, bool):
            raise ValueError(f"`first_order` must be True or False. Received: first_order={first_order!r}.")
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ValueError(f"`preset` must be one of {sorted(PRESETS)}. Received: preset={preset!r}.")
        chosen = PRESETS[preset]
        self.gamma = chosen["gamma"] if gamma is None else gamma
        self.momentum = chosen["momentum"] if momentum is None else momentum
        self.update_period = chosen["update_period"] if update_period is None else update_period
        self.final_extra = chosen["final_extra"] if final_extra is None else final_extra
        self.first_order = first_order
        self.preset = preset
        _check_number("gamma", self.gamma, "in [0, 1]", lambda value: 0 <= value <= 1)
        _check_number("momentum", self.momentum, "in [0, 1)", lambda value: 0 <= value < 1)
        _check_number("final_extra", self.final_extra, "of 0 or more", lambda value: 0 <= value < float("inf"))
        _check_number(
            "update_period", self.update_period, "of batches, 1 or more", lambda value: value >= 1 and value % 1 == 0
        )

    def build(self, exits):
        super().build(exits)

        def variable(value, shape, dtype, name):
            # Every replica assigns the same values, made from the global batch's losses: see `update`.
            return keras.Variable(
                keras.initializers.Constant(value),
                shape,
                dtype,
                trainable=False,
                autocast=False,
                aggregation="only_first_replica",
                name=name,
            )

        self._averages = variable(0.0, (self.num_exits,), "float32", "averages")
        self._weights = variable(1.0, (self.num_exits,), "float32", "weights")
        self._steps = variable(0, (), "int32", "steps")
        self._skipped = variable(0, (), "int32", "skipped")

    @property
    def variables(self):
        return [self._averages, self._weights, self._steps, self._skipped] if self.built else []

    @property
    def weights(self):
        self._check_built()
        return self._read(self._weights)

    @property
    def averages(self):
        """The running means of the losses, a float32 array of shape `(num_exits,)`; NaN before the first batch."""
        self._check_built()
        averages = self._read(self._averages)
        return averages if self.steps else np.full_like(averages, np.nan)

    @property
    def steps(self):
        """How many batches the averages have seen, an int."""
        self._check_built()
        return int(self._read(self._steps))

    @property
    def skipped(self):
        """How many batches were left out because a loss was not finite, an int."""
        self._check_built()
        return int(self._read(self._skipped))

    def current(self):
        return ops.convert_to_tensor(self._weights)

    def update(self, losses):
        state = (self._averages, self._weights, self._steps, self._skipped)
        averages, weights, steps, skipped = (ops.convert_to_tensor(variable) for variable in state)
        losses = ops.stop_gradient(ops.cast(losses, "float32"))
        moved = ops.where(ops.equal(steps, 0), losses, self.momentum * averages + (1.0 - self.momentum) * losses)
        # One NaN would stay in an average for ever: such a batch changes nothing but the count of those skipped.
        finite = ops.all(ops.isfinite(losses))
        averages = ops.where(finite, moved, averages)
        steps = steps + ops.cast(finite, "int32")
        due = ops.logical_and(finite, ops.equal(steps % self.update_period, 0))
        self._averages.assign(averages)
        self._weights.assign(ops.where(due, adaloss_weights(averages, self.gamma, self.final_extra), weights))
        self._steps.assign(steps)
        self._skipped.assign(skipped + ops.cast(ops.logical_not(finite), "int32"))

    def _read(self, variable):
        if self._synchronize is not None:
            self._synchronize()
        return np.array(ops.convert_to_numpy(variable))

    def restart(self):
        if self.built:
            self.set_state(
                {"averages": [0.0] * self.num_exits, "weights": [1.0] * self.num_exits, "steps": 0, "skipped": 0}
            )

    def get_state(self):
        self._check_built()
        return {
            "exits": self.exit_names,
            "averages": self._read(self._averages).tolist(),
            "weights": self._read(self._weights).tolist(),
            "steps": self.steps,
            "skipped": self.skipped,
        }

    def set_state(self, state):
        if not self.built:
            self.build(state["exits"])
        if len(state["averages"]) != self.num_exits:
            raise ValueError(
                f"The state is of {len(state['averages'])} exits, this weighting has {self.num_exits}. "
                "Use the state with the network that it comes from."
            )
        self._averages.assign(state["averages"])
        self._weights.assign(state["weights"])
        self._steps.assign(state["steps"])
        self._skipped.assign(state["skipped"])

    def get_config(self):
        return {
            "gamma": self.gamma,
            "momentum": self.momentum,
            "update_period": self.update_period,
            "final_extra": self.final_extra,
            "first_order": self.first_order,
            "preset": self.preset,
        }


def _check_number(name, value, range, within):
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not within(value):
        raise ValueError(f"`{name}` must be a number {range}. Received: {name}={value!r}.")
