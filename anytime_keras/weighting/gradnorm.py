"""GradNorm: weights under which the exits' losses pull alike at the parameters that all exits share.

Reference: [Chen, Badrinarayanan, Lee, Rabinovich, ICML 2018](https://arxiv.org/abs/1711.02257).
"""

import math

import keras
from keras import ops

from anytime_keras.weighting import gradients
from anytime_keras.weighting.adaptive import AdaptiveWeighting
from anytime_keras.weighting.checks import check_number, check_period


def gradnorm_step(weights, losses, first_losses, norms, alpha=1.5, rate=0.025, present=None):
    """Returns the weights after one step of GradNorm (algorithm 1 of Chen et al.).

    Exit i pulls with `G_i = weights_i * norms_i`, and should with `mean(G) * r_i^alpha`, where
    `r_i = (losses_i / first_losses_i) / mean(losses / first_losses)` says how far it is behind. One step of gradient
    descent on the sum of the absolute differences, the target held fixed; then weights below 0 become 0, and all are
    scaled to a mean of 1.

    Args:
        weights, losses, first_losses: tensors or arrays of shape `(num_exits,)`; `first_losses` of the first batch.
        norms: shape `(num_exits,)`, the norms of the unweighted losses' gradients.
        alpha: float, how hard an exit that learns slowly is helped.
        rate: float, the step's size.
        present: bool tensor of shape `(num_exits,)` or None. Exits that are False do not count in the means; ignore
            the weights returned for them.

    Returns:
        A tensor of shape `(num_exits,)`.

    Example: the second exit pulls less than the mean, and gets a larger weight.
    >>> ones = [1.0, 1.0]
    >>> [round(float(weight), 3) for weight in gradnorm_step(ones, ones, ones, norms=[3.0, 1.0], rate=0.1)]
    [0.778, 1.222]
    """
    weights, losses, first_losses, norms = (
        ops.convert_to_tensor(value, "float32") for value in (weights, losses, first_losses, norms)
    )
    present = ops.ones_like(weights) if present is None else ops.cast(present, "float32")

    def mean(values):
        return ops.sum(present * values) / ops.maximum(ops.sum(present), 1.0)

    pulls = weights * norms
    progress = losses / ops.maximum(first_losses, keras.config.epsilon())
    behind = progress / ops.maximum(mean(progress), keras.config.epsilon())
    targets = mean(pulls) * behind**alpha
    moved = ops.maximum(weights - rate * norms * ops.sign(pulls - targets), 0.0)
    return moved / ops.maximum(mean(moved), keras.config.epsilon())


@keras.saving.register_keras_serializable(package="anytime_keras")
class GradNormWeighting(AdaptiveWeighting):
    """Moves the weights so that each loss's gradient has its due norm at the parameters that all exits share.

    The norms are had as they must be: the forward pass is made once more, and then one backward pass for each exit, in
    every step that moves the weights, as AdaLoss of first order has it. The shared parameters are those that
    every exit depends on, in an anytime network all up to its first exit (the reference takes a network's last shared
    layer; here a backward pass must run through the whole network either way). Not for a loop of your own.

    Reference: [Chen, Badrinarayanan, Lee, Rabinovich, ICML 2018](https://arxiv.org/abs/1711.02257).

    Args:
        alpha: float, 0 or more: how hard an exit that learns slowly is helped. 1.5 as in the reference's large
            experiments; 0 makes all pulls alike.
        rate: float above 0, the step of the weights.
        update_period: int, batches from one step of the weights to the next; in between nothing is measured, but on
            several replicas. 1 in the reference.

    Raises:
        ValueError: in `fit`, if the exits share no trainable parameters.

    Example:
    >>> import numpy as np, keras, anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> model.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> gradnorm = ak.LossWeighting(ak.weighting.GradNormWeighting())
    >>> history = model.fit(np.random.rand(8, 8, 8, 1), np.arange(8), callbacks=[gradnorm], verbose=0)
    >>> gradnorm.weights.shape
    (3,)
    """

    starts = {"first_losses": 0.0}
    measure = staticmethod(gradients.shared_norms)

    def __init__(self, alpha=1.5, rate=0.025, update_period=1):
        super().__init__()
        check_number("alpha", alpha, "of 0 or more", lambda value: 0 <= value < math.inf)
        check_number("rate", rate, "above 0", lambda value: 0 < value < math.inf)
        check_period(update_period)
        self.alpha, self.rate, self.update_period = alpha, rate, update_period

    def moved(self, state, losses, measured):
        if measured is None:
            raise ValueError(
                "GradNorm needs the norms of the losses' gradients besides the losses. "
                "Train with `fit` and `LossWeighting`, or call `update(losses, norms)`."
            )
        first = ops.where(ops.equal(state["steps"] - state["empty"], 1), losses, state["first_losses"])
        weights = gradnorm_step(state["weights"], losses, first, measured, self.alpha, self.rate, state["present"])
        return {"first_losses": first, "weights": ops.where(self.due(state["steps"]), weights, state["weights"])}

    def get_config(self):
        return {"alpha": self.alpha, "rate": self.rate, "update_period": self.update_period}
