"""AdaLoss: weights each exit's loss by the inverse of its running mean.

Paper: Hu, Dey, Hebert, Bagnell (AAAI 2019), sections 3 and C.1, equation 7.
"""

import numbers
from typing import Any

import keras
import numpy as np
from keras import ops

from anytime_keras._checks import check_choice, check_number, check_period
from anytime_keras.weighting import gradients
from anytime_keras.weighting.base import AdaptiveWeighting, state_variable

PRESETS = {
    # Paper, section C.2.
    "paper": dict(gamma=0.05, momentum=0.9, update_period=1, final_extra=0.0),
    # The authors' late ImageNet runs (https://github.com/EchoWho/AnytimeNeuralNetwork_public).
    "authors_code": dict(gamma=0.07, momentum=0.9, update_period=1, final_extra=1.0),
}
MEANS = ("arithmetic", "geometric", "batch")
FIRST_ORDER = {"norm": gradients.norms, "squared": gradients.mean_squares}
# Averages are at least this where they divide, so that a loss of zero gives finite weights.
SMALLEST_AVERAGE = 1e-30
# Number of epochs in a row after which `fit` warns of starved exits.
STARVED_EPOCHS = 3
STARVED = (
    "The smallest loss is close to zero, so AdaLoss has given {names} weights below 0.1 for {epochs} epochs, and the "
    "losses there are still large. If early exits matter, train with equal weights at first, "
    "`AdaLoss(gamma=(1.0, 0.05))`, or with label smoothing, "
    "`CategoricalCrossentropy(label_smoothing=0.1)` on one-hot labels."
)


def adaloss_weights(averages: Any, gamma: float = 0.05, final_extra: float = 0.0, present: Any = None) -> Any:
    """Computes the AdaLoss weights from the running means of the exits' losses.

    `B_i = (1 - gamma) * min_j(averages_j) / averages_i + gamma` (equation 7 with alpha = min). The largest weight is
    1 and none is below `gamma`. With `final_extra`, as in the authors' code, it is added to the last weight, and all
    weights are scaled back to a maximum of 1 before `gamma` is mixed in.

    Args:
        averages: tensor or array of shape `(num_exits,)`, of numbers of 0 or more.
        gamma: float in [0, 1], the share of equal weights. 1 makes all weights equal.
        final_extra: float, 0 or more.
        present: bool tensor of shape `(num_exits,)` or None. Exits that are False are ignored in the minimum and get
            `gamma`.

    Returns:
        A float32 tensor of shape `(num_exits,)`.

    Example:
    >>> import keras
    >>> keras.ops.convert_to_numpy(adaloss_weights([2.0, 1.0, 0.5], gamma=0.0)).tolist()
    [0.25, 0.5, 1.0]
    """
    averages = ops.maximum(ops.convert_to_tensor(averages, "float32"), SMALLEST_AVERAGE)
    if present is not None:
        averages = ops.where(present, averages, np.inf)
    weights = ops.min(averages) / averages
    if final_extra:
        weights = ops.concatenate([weights[:-1], weights[-1:] + final_extra])
        if present is not None:
            weights = ops.where(present, weights, 0.0)
        weights = weights / ops.max(weights)
    return (1.0 - gamma) * weights + gamma


def moved_averages(averages: Any, losses: Any, momentum: float, mean: str = "arithmetic") -> Any:
    """Updates the running means of the exits' losses, of shape `(num_exits,)`, with a batch.

    `mean` is `"arithmetic"`; `"geometric"`, the exponential of the mean of logarithms; or `"batch"`, the losses alone.

    >>> moved = [moved_averages([4.0, 1.0], [1.0, 1.0], 0.5, mean) for mean in ("arithmetic", "geometric", "batch")]
    >>> [ops.convert_to_numpy(average).tolist() for average in moved]
    [[2.5, 1.0], [2.0, 1.0], [1.0, 1.0]]
    """
    averages, losses = (ops.convert_to_tensor(value, "float32") for value in (averages, losses))
    if mean == "batch":
        return losses
    if mean == "geometric":
        before, now = (ops.log(ops.maximum(value, SMALLEST_AVERAGE)) for value in (averages, losses))
        return ops.exp(momentum * before + (1.0 - momentum) * now)
    return momentum * averages + (1.0 - momentum) * losses


def starved_exits(weights: Any, averages: Any, first: Any) -> np.ndarray:
    """Returns which exits have a low weight and a large loss because another loss is close to zero.

    These are the exits with a weight below 0.1 whose loss has not fallen to half of its first value, while the smallest
    loss is below a tenth of its own first value. All arrays are of shape `(num_exits,)`; a mean without batches is NaN.

    >>> starved_exits([0.05, 0.3, 1.0], averages=[1.8, 0.04, 0.01], first=[2.3, 2.3, 2.3]).tolist()
    [True, False, False]
    """
    weights, averages, first = (np.asarray(values, "float32") for values in (weights, averages, first))
    smallest = np.argmin(np.where(np.isnan(averages), np.inf, averages))
    if not averages[smallest] < 0.1 * first[smallest]:
        return np.zeros(weights.shape, bool)
    return (weights < 0.1) & (averages > 0.5 * first)


@keras.saving.register_keras_serializable(package="anytime_keras")
class AdaLossWeighting(AdaptiveWeighting):
    """Weights each exit's loss by the inverse of its running mean.

    Late exits then end close to what they could reach alone, at some cost to the earliest exits (paper, table 1).
    `ak.AdaLoss` is the same class. It is a Keras callback; `Weighting` describes how it works in `fit` and in a custom
    training loop.

    Use it if late exits matter most and do not overfit, and the run is long enough for late losses to become much
    smaller than early ones. Use equal weights (`ConstantWeighting`, or no callback) if early exits matter as much, late
    exits overfit, or all exits fit the data. `LinearWeighting` favors late exits by fixed weights. The README and
    `zoo/results/README.md` show measured errors.

    On easy data, where late losses come close to zero within a few epochs, the weights of the earliest exits drop to
    `gamma` while the learning rate is still high, and they are hardly trained. Two changes prevent it:
    `gamma=(1.0, 0.05)`, which starts with equal weights, and label smoothing, which keeps losses away from zero. `fit`
    warns if late losses are close to zero while early ones are still large (`starved_exits`), unless `gamma` is a pair.
    On hard data, where early losses stay large with any weighting, the warning does not mean that something is wrong.

    The weights of a batch come from the batches before it, and are all 1 until the first update. The first batch
    initializes the averages; each later batch updates them by `momentum * average + (1 - momentum) * loss`. On several
    replicas, the losses are those of the global batch. For losses that are not finite and exits without samples, see
    `AdaptiveWeighting`; the latter are also ignored in the minimum.

    Reference: [Hu, Dey, Hebert, Bagnell, AAAI 2019](https://arxiv.org/abs/1708.06832), equation 7.

    Args:
        gamma: float in [0, 1], the share of equal weights (see `adaloss_weights`). None is 0.05, as in the paper. A
            pair `(first, last)` changes linearly over the batches of the first `fit` and is `last` from then on (our
            addition).
        momentum: float in [0, 1) of the averages. None is 0.9, as in the paper.
        update_period: int, batches between two updates of the weights. The averages are updated with every batch, but
            those of gradients (`first_order`) only with the weights. None is 1, as in the paper.
        final_extra: float, 0 or more, see `adaloss_weights`. None is 0, as in the paper.
        first_order: `"norm"` weights by the inverse of the L2 norm of each loss's gradient with respect to the
            trainable parameters, instead of the loss (the paper's outlook). `"squared"` uses the mean squared gradient,
            as the authors' code does (`adaloss_order=1`); True is the same. False, the default, uses the losses. It
            costs one more forward pass and one backward pass per exit, every `update_period` batches (every batch on
            several replicas).
        preset: `"paper"`, or `"authors_code"` for gamma 0.07 and final_extra 1. Other arguments that are not None take
            precedence.
        mean: how losses are averaged. `"arithmetic"` is the paper's, with which training minimizes the geometric mean
            of the exits' expected losses (equation 4). `"batch"` weights each batch by its own losses, so each step
            follows the gradient of that batch's geometric mean (apart from `gamma` and a scale). `"geometric"`, in
            between, averages the logarithms of the losses. The last two are our additions.

    Raises:
        ValueError: if an argument is out of range; at the start of `fit`, if the model is not functional or has fewer
            than two outputs with a loss, or if `gamma` is a pair and the number of batches is unknown; in a custom
            training loop, if `gamma` is a pair.

    Example:
    >>> import keras
    >>> weighting = AdaLossWeighting(gamma=0.0)
    >>> float(weighting(keras.ops.convert_to_tensor([4.0, 2.0])))  # the first batch: weights are 1
    6.0
    >>> weighting.weights.tolist(), weighting.averages.tolist()
    ([0.5, 1.0], [4.0, 2.0])
    """

    initial_state = {"averages": 0.0, "first": 0.0}  # `first`: the averages after the first batch

    def __init__(
        self,
        gamma=None,
        momentum=None,
        update_period=None,
        final_extra=None,
        first_order=False,
        preset="paper",
        mean="arithmetic",
    ):
        super().__init__()
        if not isinstance(first_order, bool) and first_order not in list(FIRST_ORDER):
            raise ValueError(
                f"`first_order` must be False or one of {list(FIRST_ORDER)}. Received: first_order={first_order!r}."
            )
        check_choice("preset", preset, PRESETS)
        check_choice("mean", mean, MEANS)
        given = dict(gamma=gamma, momentum=momentum, update_period=update_period, final_extra=final_extra)
        chosen = {**PRESETS[preset], **{name: value for name, value in given.items() if value is not None}}
        self.gamma = _checked_gamma(chosen["gamma"])
        self.momentum = check_number("momentum", chosen["momentum"], "in [0, 1)", lambda value: 0 <= value < 1)
        self.update_period = check_period(chosen["update_period"])
        self.final_extra = check_number(
            "final_extra", chosen["final_extra"], "of 0 or more", lambda value: 0 <= value < float("inf")
        )
        self.first_order = "squared" if first_order is True else first_order
        self.preset = preset
        self.mean = mean
        if mean == "batch" and (first_order or self.update_period != 1):
            raise ValueError(
                "`mean='batch'` needs `first_order=False` and `update_period=1`. "
                f"Received: first_order={first_order}, update_period={self.update_period}."
            )

    @property
    def uses_batch_losses(self):
        return self.mean == "batch"

    @property
    def gradient_statistics(self):
        """The function that computes what is averaged, or None if that is the losses."""
        return FIRST_ORDER.get(self.first_order)

    @property
    def averages(self):
        """The running means of the losses, a float32 array of shape `(num_exits,)`.

        NaN for an exit without any batch so far or, with `first_order`, without any update.
        """
        averages = self._read("averages")
        started = averages != 0 if self.first_order else self.steps > self.empty
        return np.where(started, averages, np.float32("nan"))

    def build(self, exits):
        super().build(exits)
        if isinstance(self.gamma, tuple):
            self._state["planned_steps"] = state_variable(0, (), "int32", "planned_steps")

    def on_train_begin(self, logs=None):
        if isinstance(self.gamma, tuple):
            if self.params.get("steps") is None:
                raise ValueError(
                    "AdaLoss needs the number of batches to change `gamma` over them. "
                    f"Received: gamma={self.gamma} and data of unknown length. Pass `steps_per_epoch` to `fit`."
                )
            if not self._read("planned_steps"):  # of the first `fit`
                self._state["planned_steps"].assign(self.params["epochs"] * self.params["steps"])
        super().on_train_begin(logs)
        self._warnings.discard("starved")
        self._starved_epochs = np.zeros(self.num_exits, int)

    def __call__(self, losses, present=None):
        if isinstance(self.gamma, tuple):
            raise ValueError(
                "`gamma` must be a number in a custom training loop, whose number of batches is unknown. "
                f"Received: gamma={self.gamma}."
            )
        return super().__call__(losses, present)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if not self.first_order and not isinstance(self.gamma, tuple):
            self._warn_of_starved_exits()

    def _warn_of_starved_exits(self):
        starved = starved_exits(self.weights, self.averages, self._read("first"))
        self._starved_epochs = np.where(starved, self._starved_epochs + 1, 0)
        names = [name for name, count in zip(self.exit_names, self._starved_epochs) if count >= STARVED_EPOCHS]
        if names:
            self._warn_once("starved", STARVED.format(names=", ".join(names), epochs=STARVED_EPOCHS))

    def check(self):
        averages = self.averages
        if (averages < 0).any():
            raise ValueError(
                "AdaLoss needs losses of 0 or more, because it weights by their inverse. "
                f"Received: averages {averages.tolist()}. Add a constant to the losses, or choose another weighting."
            )

    def weights_for_batch(self, losses, present=None):
        if not self.uses_batch_losses:
            return self.weights_tensor()
        weights = self._weights_for(losses, ops.convert_to_tensor(self._state["steps"]) + 1, present)
        return weights if present is None else ops.where(present, weights, self.weights_tensor())

    def next_state(self, state, losses, statistics):
        values = losses if statistics is None else statistics
        due = self.is_update_step(state["steps"])
        averages = moved_averages(state["averages"], values, self.momentum, self.mean)
        if self.first_order:  # the size of a gradient is above 0
            averages = ops.where(ops.equal(state["averages"], 0), values, averages)
            averages = ops.where(due, averages, state["averages"])
        else:
            averages = ops.where(ops.equal(state["steps"] - state["empty"], 1), values, averages)
        weights = self._weights_for(averages, state["steps"], state["present"])
        first = ops.where(ops.equal(state["first"], 0), averages, state["first"])
        return {"averages": averages, "first": first, "weights": ops.where(due, weights, state["weights"])}

    def _weights_for(self, averages, steps, present):
        return adaloss_weights(averages, self._gamma_at(steps), self.final_extra, present)

    def _gamma_at(self, steps):
        if not isinstance(self.gamma, tuple):
            return self.gamma
        first, last = self.gamma
        planned = ops.cast(ops.convert_to_tensor(self._state["planned_steps"]), "float32")
        return first + (last - first) * ops.minimum(ops.cast(steps, "float32") / planned, 1.0)


def _checked_gamma(gamma):
    """Returns a float, or a tuple of two floats, which JSON stores as a list."""
    values = gamma if isinstance(gamma, (list, tuple)) and len(gamma) == 2 else (gamma,)
    if not all(isinstance(each, numbers.Real) and not isinstance(each, bool) and 0 <= each <= 1 for each in values):
        raise ValueError(f"`gamma` must be a number in [0, 1], or a pair of them. Received: gamma={gamma!r}.")
    return float(gamma) if len(values) == 1 else tuple(map(float, values))
