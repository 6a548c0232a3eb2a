"""Static schemes: fixed weights, known before training."""

import numbers

import keras
import numpy as np
from keras import ops

from anytime_keras.weighting.base import Weighting


class StaticWeighting(Weighting):
    """A weighting whose weights depend on the number of exits alone. Subclasses define them in `values`.

    Example:
    >>> class SquareWeighting(StaticWeighting):
    ...     def values(self, num_exits: int) -> list[float]:
    ...         return [(number / num_exits) ** 2 for number in range(1, num_exits + 1)]
    >>> weighting = SquareWeighting()
    >>> weighting.build(2)
    >>> weighting.weights.tolist()
    [0.25, 1.0]
    """

    def values(self, num_exits):
        """Returns the weights for a number of exits, a list of float, earliest exit first."""
        raise NotImplementedError

    @property
    def weights(self):
        self._check_built()
        return np.asarray(self.values(self.num_exits), "float32")

    def weights_tensor(self):
        return ops.convert_to_tensor(self.weights)


@keras.saving.register_keras_serializable(package="anytime_keras")
class ConstantWeighting(StaticWeighting):
    """Weights all exits by 1: the paper's CONST, the same as training without a weighting.

    Early exits then dominate, and the last exit ends with a larger error than it could reach alone (paper, table 1).

    Example:
    >>> ConstantWeighting().values(3)
    [1.0, 1.0, 1.0]
    """

    def values(self, num_exits):
        return [1.0] * num_exits


@keras.saving.register_keras_serializable(package="anytime_keras")
class LinearWeighting(StaticWeighting):
    """Weights exits in equal steps from 0.25 at the first to 1 at the last: the paper's LINEAR.

    Use it if late exits matter more than early ones and fixed weights are preferred to adaptive ones, for example in
    short runs or where AdaLoss warns of early exits that are hardly trained. The README shows measured errors.

    Reference: [Zamir et al., 2017](https://arxiv.org/abs/1612.09508), as the AdaLoss paper describes it.

    Example:
    >>> LinearWeighting().values(4)
    [0.25, 0.5, 0.75, 1.0]
    """

    def values(self, num_exits):
        return [1.0] if num_exits == 1 else np.linspace(0.25, 1.0, num_exits).tolist()


@keras.saving.register_keras_serializable(package="anytime_keras")
class HalfEndWeighting(StaticWeighting):
    """Gives half of the total weight to the last exit and divides the rest evenly: the paper's HALF-END.

    Scaled so that the last exit has weight 1.

    Example:
    >>> HalfEndWeighting().values(5)
    [0.25, 0.25, 0.25, 0.25, 1.0]
    """

    def values(self, num_exits):
        return [1.0 / max(num_exits - 1, 1)] * (num_exits - 1) + [1.0]


@keras.saving.register_keras_serializable(package="anytime_keras")
class SingleExit(StaticWeighting):
    """Trains a single exit, with weight 1 and all others 0: the paper's OPT, the best that this exit can reach.

    Args:
        exit: int or str. An int counts from 1 as in the names `exit_1`, `exit_2`, ..., or from the end if it is
            negative (-1 is the last exit). A str is the exit's name.

    Example:
    >>> SingleExit(2).values(3)
    [0.0, 1.0, 0.0]
    """

    def __init__(self, exit):
        super().__init__()
        if isinstance(exit, bool) or not isinstance(exit, (numbers.Integral, str)) or exit == 0:
            raise ValueError(
                "`exit` must be an exit's number, counted from 1 (or from -1 backwards), or its name. "
                f"Received: exit={exit!r}."
            )
        self.exit = exit if isinstance(exit, str) else int(exit)

    def build(self, exits):
        super().build(exits)
        known = isinstance(self.exit, str) and self.exit in self.exit_names
        if not known and not (isinstance(self.exit, int) and abs(self.exit) <= self.num_exits):
            names, self.exit_names = self.exit_names, None
            raise ValueError(
                f"`SingleExit({self.exit!r})` names an exit that the model does not have. Its exits: {names}."
            )

    def values(self, num_exits):
        index = self.exit_names.index(self.exit) if isinstance(self.exit, str) else self.exit - (self.exit > 0)
        weights = [0.0] * num_exits
        weights[index] = 1.0
        return weights
