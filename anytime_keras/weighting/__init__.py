"""How the exits share one loss: static schemes, those that adapt (AdaLoss), and the callbacks that install them."""

from anytime_keras.weighting.adaloss import AdaLossWeighting, adaloss_weights
from anytime_keras.weighting.callback import AdaLoss, LossWeighting
from anytime_keras.weighting.equilibrium import gradient_equilibrium
from anytime_keras.weighting.gradnorm import GradNormWeighting, gradnorm_step
from anytime_keras.weighting.schemes import (
    ConstantWeighting,
    HalfEndWeighting,
    LinearWeighting,
    SingleExit,
    StaticWeighting,
    Weighting,
)
from anytime_keras.weighting.uncertainty import UncertaintyWeighting, uncertainty_step

__all__ = [
    "AdaLoss",
    "AdaLossWeighting",
    "ConstantWeighting",
    "GradNormWeighting",
    "HalfEndWeighting",
    "LinearWeighting",
    "LossWeighting",
    "SingleExit",
    "StaticWeighting",
    "UncertaintyWeighting",
    "Weighting",
    "adaloss_weights",
    "gradient_equilibrium",
    "gradnorm_step",
    "uncertainty_step",
]
