"""GradNorm: balances the exits' gradients at the parameters that all exits share.

Reference: [Chen, Badrinarayanan, Lee, Rabinovich, ICML 2018](https://arxiv.org/abs/1711.02257).
"""

import math
from typing import Any

import keras
from keras import ops

from anytime_keras._checks import check_number, check_period
from anytime_keras.weighting import gradients
from anytime_keras.weighting.base import AdaptiveWeighting


def gradnorm_step(
    weights: Any,
    losses: Any,
    first_losses: Any,
    norms: Any,
    alpha: float = 1.5,
    rate: float = 0.025,
    present: Any = None,
) -> Any:
    """Returns the weights after one step of GradNorm (algorithm 1 of Chen et al.).

    The weighted gradient of exit i has norm `G_i = weights_i * norms_i`. Its target is `mean(G) * r_i^alpha`, where
    `r_i = (losses_i / first_losses_i) / mean(losses / first_losses)` is the exit's relative inverse training rate. One
    step of gradient descent is taken on the sum of the absolute differences, with the targets held fixed. Weights
    below 0 become 0, and all are scaled to a mean of 1.

    Args:
        weights, losses, first_losses: tensors or arrays of shape `(num_exits,)`; `first_losses` of the first batch.
        norms: shape `(num_exits,)`, the norms of the unweighted losses' gradients.
        alpha: float, how strongly exits that learn slowly are favored.
        rate: float, the step size.
        present: bool tensor of shape `(num_exits,)` or None. Exits that are False do not count in the means; ignore
            the weights returned for them.

    Returns:
        A tensor of shape `(num_exits,)`.

    Example: the second exit's gradient is smaller than the mean, so its weight grows.
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

    sizes = weights * norms
    progress = losses / ops.maximum(first_losses, keras.config.epsilon())
    inverse_rates = progress / ops.maximum(mean(progress), keras.config.epsilon())
    targets = mean(sizes) * inverse_rates**alpha
    moved = ops.maximum(weights - rate * norms * ops.sign(sizes - targets), 0.0)
    return moved / ops.maximum(mean(moved), keras.config.epsilon())


@keras.saving.register_keras_serializable(package="anytime_keras")
class GradNormWeighting(AdaptiveWeighting):
    """Adapts the weights until the gradients of the weighted losses have balanced norms at the shared parameters.

    Each update costs one more forward pass and one backward pass per exit, as in first-order AdaLoss. The shared
    parameters are those that every exit depends on, in an anytime network all up to its first exit. (The reference
    takes the last shared layer only, which would save little here, because each backward pass runs through the whole
    network anyway.) It cannot be used in a custom training loop.

    In runs on small CIFAR-10 images (`zoo/results/README.md`, three seeds, `update_period=10`), it kept the accuracy of
    early exits, unlike AdaLoss, and reached AdaLoss's accuracy at the last exit.

    Reference: [Chen, Badrinarayanan, Lee, Rabinovich, ICML 2018](https://arxiv.org/abs/1711.02257).

    Args:
        alpha: float, 0 or more, how strongly exits that learn slowly are favored. 1.5 as in the reference's large
            experiments; 0 makes all gradient norms equal.
        rate: float above 0, the step size of the weights.
        update_period: int, batches between two updates of the weights. Gradients are computed for updates only,
            except on several replicas, which compute them for every batch. 1 in the reference.

    Raises:
        ValueError: in `fit`, if the exits share no trainable parameters.

    Example:
    >>> import numpy as np, keras, anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> model.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> gradnorm = ak.weighting.GradNormWeighting()
    >>> history = model.fit(np.random.rand(8, 8, 8, 1), np.arange(8), callbacks=[gradnorm], verbose=0)
    >>> gradnorm.weights.shape
    (3,)
    """

    initial_state = {"first_losses": 0.0}
    gradient_statistics = staticmethod(gradients.shared_norms)

    def __init__(self, alpha=1.5, rate=0.025, update_period=1):
        super().__init__()
        self.alpha = check_number("alpha", alpha, "of 0 or more", lambda value: 0 <= value < math.inf)
        self.rate = check_number("rate", rate, "above 0", lambda value: 0 < value < math.inf)
        self.update_period = check_period(update_period)

    def next_state(self, state, losses, statistics):
        if statistics is None:
            raise ValueError(
                "GradNorm needs the norms of the losses' gradients besides the losses. "
                "Train with `fit`, or call `update(losses, norms)`."
            )
        first = ops.where(ops.equal(state["steps"] - state["empty"], 1), losses, state["first_losses"])
        weights = gradnorm_step(state["weights"], losses, first, statistics, self.alpha, self.rate, state["present"])
        weights = ops.where(self.is_update_step(state["steps"]), weights, state["weights"])
        return {"first_losses": first, "weights": weights}
