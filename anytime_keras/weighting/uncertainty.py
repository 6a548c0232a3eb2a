"""Uncertainty weighting: weights each exit's loss by the inverse of a variance that is learned with the network.

Reference: [Kendall, Gal, Cipolla, CVPR 2018](https://arxiv.org/abs/1705.07115).
"""

import math
from typing import Any

import keras
from keras import ops

from anytime_keras._checks import check_number
from anytime_keras.weighting.base import AdaptiveWeighting


def uncertainty_step(log_variances: Any, losses: Any, rate: float = 0.01) -> Any:
    """Returns the log variances after one step of gradient descent on `sum(exp(-s_i) * losses_i + s_i / 2)`.

    This is the negative log likelihood of Kendall et al. for classification, with `s = ln sigma^2`. Its minimum is at
    `exp(-s_i) = 1 / (2 * losses_i)`, so the weights slowly approach those that AdaLoss sets at once, up to a factor
    that is the same for all exits (equation 3 of the AdaLoss paper, lambda 1/2).

    Args:
        log_variances, losses: tensors or arrays of shape `(num_exits,)`.
        rate: float, the step size.

    Returns:
        A tensor of shape `(num_exits,)`.

    Example:
    >>> [round(float(value), 3) for value in uncertainty_step([0.0, 0.0], [0.5, 2.5], rate=0.1)]
    [0.0, 0.2]
    """
    log_variances, losses = (ops.convert_to_tensor(value, "float32") for value in (log_variances, losses))
    return log_variances - rate * (0.5 - ops.exp(-log_variances) * losses)


@keras.saving.register_keras_serializable(package="anytime_keras")
class UncertaintyWeighting(AdaptiveWeighting):
    """Weights each loss by `exp(-s)`, where the log variance `s` is learned by gradient descent beside the network.

    The weights are not scaled: as losses fall they grow beyond 1, towards `1 / (2 * loss)`, and so do the updates of
    the network. The log variances are learned by plain gradient descent with their own rate; in the reference, the
    network's optimizer updates them.

    Reference: [Kendall, Gal, Cipolla, CVPR 2018](https://arxiv.org/abs/1705.07115).

    Args:
        rate: float above 0, the step size of the log variances, which follow the losses over about `2 / rate` batches.

    Example:
    >>> import keras
    >>> weighting = UncertaintyWeighting(rate=0.1)
    >>> float(weighting(keras.ops.convert_to_tensor([0.5, 2.5])))  # the first batch: weights are 1
    3.0
    >>> [round(float(weight), 3) for weight in weighting.weights]
    [1.0, 0.819]
    """

    initial_state = {"log_variances": 0.0}

    def __init__(self, rate=0.01):
        super().__init__()
        self.rate = check_number("rate", rate, "above 0", lambda value: 0 < value < math.inf)

    def next_state(self, state, losses, statistics):
        log_variances = uncertainty_step(state["log_variances"], losses, self.rate)
        return {"log_variances": log_variances, "weights": ops.exp(-log_variances)}
