"""The interface of a weighting, and the static schemes: fixed weights that need no training to know."""

import keras
import numpy as np
from keras import ops

from anytime_keras.weighting import replicas


class Weighting(keras.callbacks.Callback):
    """How the exits share one loss: the training loss is the sum of `weights[i] * losses[i]`.

    As a callback of `fit`, a weighting does what `LossWeighting(weighting)` does. In a loop of your own, call it once
    a step on the vector of the exits' losses: it returns the weighted sum and, if it adapts, learns from the losses. No
    gradient flows through the weights.

    Call: losses, shape `(num_exits,)`, and optionally `present`, see `update` -> scalar.

    Example:
    >>> weighting = LinearWeighting()
    >>> float(weighting(ops.convert_to_tensor([2.0, 1.0, 1.0])))  # 0.25 * 2 + 0.625 * 1 + 1 * 1
    2.125
    """

    # Whether the weights of a batch follow from that batch's own losses: then `of_batch` gives them.
    by_batch = False
    # What else `update` learns from: None, or a function of `gradients`, whose result it gets besides the losses.
    measure = None
    # Number of batches skipped because a loss was not finite.
    skipped = 0
    # Number of batches in which each exit had no sample with nonzero weight, an array; None if not counted.
    empty = None

    def __init__(self):
        super().__init__()
        self.exit_names = None
        self._callback = None  # the `LossWeighting` that acts for a weighting that is itself a callback
        self._synchronize = None  # called before state is read, see `TrainingLoss`
        self._owner = None  # weak reference to the model that `LossWeighting` last trained with it

    @property
    def built(self):
        """Whether the weighting is prepared for a network: it then knows the exits' names."""
        return self.exit_names is not None

    def build(self, exits):
        """Prepares the weighting for a network.

        Args:
            exits: int, the number of exits, or the list of their names, earliest first.
        """
        names = [f"exit_{number}" for number in range(1, exits + 1)] if isinstance(exits, int) else list(exits)
        if not names:
            raise ValueError(f"`exits` must name one exit or more. Received: exits={exits!r}.")
        self.exit_names = names

    @property
    def num_exits(self):
        """int, how many exits there are, once it is prepared."""
        return len(self.exit_names or ())

    @property
    def weights(self):
        """The weights now, a float32 array of shape `(num_exits,)`, earliest exit first."""
        raise NotImplementedError

    @property
    def variables(self):
        """The state: a list of `keras.Variable`, empty for a static scheme."""
        return []

    def current(self):
        """Returns the weights as a tensor, within a training step; shape `(num_exits,)`."""
        raise NotImplementedError

    def of_batch(self, losses, present=None):
        """Returns the weights for the batch of these losses, of all replicas; arguments as for `update`."""
        return self.current()

    def update(self, losses, measured=None, present=None):
        """Learns from one batch, within a training step.

        Args:
            losses: the batch's losses, of all replicas, shape `(num_exits,)`.
            measured: what `measure` gave, or None.
            present: bool tensor of shape `(num_exits,)`, whether each exit has samples with nonzero weight in this
                batch. Without such samples, its loss of 0 carries no information. None if all exits have some.
        """

    def __call__(self, losses, present=None):
        if not self.built:
            self.build(int(losses.shape[0]))
        batch = replicas.total(ops.stop_gradient(losses))
        total = ops.sum(ops.stop_gradient(self.of_batch(batch, present)) * losses)
        self.update(batch, present=present)
        return total

    def check(self):
        """Raises a `ValueError` if what was learnt shows losses that it cannot weigh."""

    def restart(self):
        """Resets the learned state."""

    def get_state(self):
        """Returns the learned state as a dict of numbers and lists, which JSON represents exactly."""
        return {}

    def set_state(self, state):
        """Restores a state that `get_state` returned."""

    def get_config(self):
        """Returns the arguments as plain data, as Keras saves them."""
        return {}

    @classmethod
    def from_config(cls, config):
        """Makes a weighting of what `get_config` returned."""
        return cls(**config)

    # === As a callback ===

    def set_model(self, model):
        from anytime_keras.weighting.callback import LossWeighting

        self._callback = self._callback or LossWeighting(self)
        self._callback.set_model(model)

    def on_train_begin(self, logs=None):
        self._callback.on_train_begin(logs)

    def on_train_end(self, logs=None):
        self._callback.on_train_end(logs)

    def on_test_begin(self, logs=None):
        self._callback.on_test_begin(logs)

    def on_predict_begin(self, logs=None):
        self._callback.on_predict_begin(logs)

    def on_epoch_end(self, epoch, logs=None):
        self._callback.on_epoch_end(epoch, logs)

    def __getstate__(self):
        # Copies and pickles keep the learned state, but not the model.
        return {**vars(self), "_synchronize": None, "_owner": None, "_callback": None}

    def _check_built(self):
        if not self.built:
            raise ValueError(
                f"This {type(self).__name__} has no weights before it knows the exits. "
                "Train with it, or call `build(num_exits)` first."
            )


class StaticWeighting(Weighting):
    """A weighting whose weights are known from the number of exits. Subclasses say which in `values`.

    Example:
    >>> class SquareWeighting(StaticWeighting):
    ...     def values(self, num_exits):
    ...         return [(number / num_exits) ** 2 for number in range(1, num_exits + 1)]
    >>> weighting = SquareWeighting()
    >>> weighting.build(2)
    >>> weighting.weights.tolist()
    [0.25, 1.0]
    """

    def values(self, num_exits):
        """Returns the weights for so many exits, a list of float, earliest exit first."""
        raise NotImplementedError

    @property
    def weights(self):
        self._check_built()
        return np.asarray(self.values(self.num_exits), "float32")

    def current(self):
        return ops.convert_to_tensor(self.weights)


@keras.saving.register_keras_serializable(package="anytime_keras")
class ConstantWeighting(StaticWeighting):
    """Weighs all exits alike, each 1: the paper's CONST, and what training without a weighting does.

    Early exits then dominate, and the last one ends well above what it could reach (paper, figure 3).

    Example:
    >>> ConstantWeighting().values(3)
    [1.0, 1.0, 1.0]
    """

    def values(self, num_exits):
        return [1.0] * num_exits


@keras.saving.register_keras_serializable(package="anytime_keras")
class LinearWeighting(StaticWeighting):
    """Weighs exits in equal steps from 0.25, the first, to 1, the last: the paper's LINEAR.

    Reference: [Zamir et al., 2017](https://arxiv.org/abs/1612.09508), as the AdaLoss paper describes it.

    Example:
    >>> LinearWeighting().values(4)
    [0.25, 0.5, 0.75, 1.0]
    """

    def values(self, num_exits):
        return [1.0] if num_exits == 1 else np.linspace(0.25, 1.0, num_exits).tolist()


@keras.saving.register_keras_serializable(package="anytime_keras")
class HalfEndWeighting(StaticWeighting):
    """Gives the last exit half of the total weight and shares the other half evenly: the paper's HALF-END.

    Scaled so that the last exit has 1.

    Example:
    >>> HalfEndWeighting().values(5)
    [0.25, 0.25, 0.25, 0.25, 1.0]
    """

    def values(self, num_exits):
        return [1.0 / max(num_exits - 1, 1)] * (num_exits - 1) + [1.0]


@keras.saving.register_keras_serializable(package="anytime_keras")
class SingleExit(StaticWeighting):
    """Trains one exit alone, weight 1, all others 0: the paper's OPT, what this exit could reach.

    Args:
        exit: int or str. A number counts from 1 as the names `exit_1`, `exit_2` ... do, or from the
            end if negative (-1 is the last); a str is the exit's name.

    Example:
    >>> SingleExit(2).values(3)
    [0.0, 1.0, 0.0]
    """

    def __init__(self, exit):
        super().__init__()
        if isinstance(exit, bool) or not isinstance(exit, (int, str)) or exit == 0:
            raise ValueError(
                "`exit` must be an exit's number, counted from 1 (or from -1 backwards), or its name. "
                f"Received: exit={exit!r}."
            )
        self.exit = exit

    def build(self, exits):
        super().build(exits)
        known = isinstance(self.exit, str) and self.exit in self.exit_names
        if not known and not (isinstance(self.exit, int) and abs(self.exit) <= self.num_exits):
            names, self.exit_names = self.exit_names, None
            raise ValueError(
                f"`SingleExit({self.exit!r})` asks for an exit that the model does not have. Its exits: {names}."
            )

    def values(self, num_exits):
        index = self.exit_names.index(self.exit) if isinstance(self.exit, str) else self.exit - (self.exit > 0)
        weights = [0.0] * num_exits
        weights[index] = 1.0
        return weights

    def get_config(self):
        return {"exit": self.exit}
