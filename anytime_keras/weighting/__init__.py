"""Weightings of the exits' losses, as Keras callbacks: static schemes, AdaLoss and other adaptive schemes."""

from anytime_keras._checks import check_choice
from anytime_keras.weighting.adaloss import AdaLossWeighting, adaloss_weights
from anytime_keras.weighting.base import AdaptiveWeighting, Weighting
from anytime_keras.weighting.gradnorm import GradNormWeighting, gradnorm_step
from anytime_keras.weighting.static import ConstantWeighting, HalfEndWeighting, LinearWeighting, SingleExit
from anytime_keras.weighting.static import StaticWeighting
from anytime_keras.weighting.uncertainty import UncertaintyWeighting, uncertainty_step

AdaLoss = AdaLossWeighting

SCHEMES = {
    "constant": ConstantWeighting,
    "linear": LinearWeighting,
    "half_end": HalfEndWeighting,
    "adaloss": AdaLossWeighting,
    "gradnorm": GradNormWeighting,
    "uncertainty": UncertaintyWeighting,
}

__all__ = ["AdaLoss", "AdaLossWeighting", "AdaptiveWeighting", "ConstantWeighting", "GradNormWeighting"]
__all__ += ["HalfEndWeighting", "LinearWeighting", "LossWeighting", "SingleExit", "StaticWeighting"]
__all__ += ["UncertaintyWeighting", "Weighting", "adaloss_weights", "gradnorm_step", "uncertainty_step"]


def LossWeighting(weighting: str | Weighting = "constant") -> Weighting:
    """Returns the weighting with a given name, a Keras callback for `fit`.

    Args:
        weighting: `"constant"`, `"linear"`, `"half_end"`, `"adaloss"`, `"gradnorm"` or `"uncertainty"`, with their
            default arguments; or a `Weighting`, which is returned as it is.

    Raises:
        ValueError: if the name is unknown.

    Example:
    >>> import numpy as np, keras, anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> model.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> linear = ak.LossWeighting("linear")
    >>> history = model.fit(np.zeros((8, 8, 8, 1)), np.zeros(8, int), callbacks=[linear], verbose=0)
    >>> linear.weights.tolist()
    [0.25, 0.625, 1.0]
    """
    if isinstance(weighting, Weighting):
        return weighting
    check_choice("weighting", weighting, SCHEMES)
    return SCHEMES[weighting]()
