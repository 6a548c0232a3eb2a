"""How the exits share one loss: static schemes, AdaLoss, and the callbacks that put them into training."""

from anytime_keras.weighting.adaloss import AdaLossWeighting, adaloss_weights
from anytime_keras.weighting.callback import AdaLoss, LossWeighting
from anytime_keras.weighting.schemes import (
    ConstantWeighting,
    HalfEndWeighting,
    LinearWeighting,
    SingleExit,
    StaticWeighting,
    Weighting,
)

__all__ = [
    "AdaLoss",
    "AdaLossWeighting",
    "ConstantWeighting",
    "HalfEndWeighting",
    "LinearWeighting",
    "LossWeighting",
    "SingleExit",
    "StaticWeighting",
    "Weighting",
    "adaloss_weights",
]
