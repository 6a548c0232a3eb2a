"""Uncertainty weighting: each exit's loss weighed by the inverse of a variance that is learnt with the network.

Reference: [Kendall, Gal, Cipolla, CVPR 2018](https://arxiv.org/abs/1705.07115).
"""

import math

import keras
from keras import ops

from anytime_keras.weighting.adaptive import AdaptiveWeighting
from anytime_keras.weighting.checks import check_number


def uncertainty_step(log_variances, losses, rate=0.01):
    """Returns the log variances after one step of gradient descent on `sum(exp(-s_i) * losses_i + s_i / 2)`.

    That is the negative log likelihood of Kendall et al. for classification, with `s = ln sigma^2`. It is least at
    `exp(-s_i) = 1 / (2 * losses_i)`: the weights that AdaLoss sets at once are approached here, up to a factor that
    is the same for all exits (equation 3 of the AdaLoss paper, lambda 1/2).

    Args:
        log_variances, losses: tensors or arrays of shape `(num_exits,)`.
        rate: float, the step's size.

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
    """Weighs each loss by `exp(-s)`, its log variance `s` being learnt by gradient descent beside the network.

    Weights are not scaled: as losses fall they grow beyond 1, towards `1 / (2 * loss)`, and with them the network's
    steps. The descent is plain, with a rate of its own, while the reference has the network's optimizer do it.

    Reference: [Kendall, Gal, Cipolla, CVPR 2018](https://arxiv.org/abs/1705.07115).

    Args:
        rate: float above 0, the step of the log variances. Ours; they follow the losses over about `2 / rate` batches.

    Example:
    >>> import keras
    >>> weighting = UncertaintyWeighting(rate=0.1)
    >>> float(weighting(keras.ops.convert_to_tensor([0.5, 2.5])))  # the first batch: weights are 1
    3.0
    >>> [round(float(weight), 3) for weight in weighting.weights]
    [1.0, 0.819]
    """

    starts = {"log_variances": 0.0}

    def __init__(self, rate=0.01):
        super().__init__()
        check_number("rate", rate, "above 0", lambda value: 0 < value < math.inf)
        self.rate = rate

    def moved(self, state, losses, measured):
        log_variances = uncertainty_step(state["log_variances"], losses, self.rate)
        return {"log_variances": log_variances, "weights": ops.exp(-log_variances)}

    def get_config(self):
        return {"rate": self.rate}
