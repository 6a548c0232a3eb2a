"""The Keras callbacks that put a weighting into `model.fit`."""

import contextlib
import inspect
import warnings
import weakref

import keras

from anytime_keras import _errors, graph
from anytime_keras.weighting import schemes, training_loss
from anytime_keras.weighting.adaloss import AdaLossWeighting
from anytime_keras.weighting.gradnorm import GradNormWeighting
from anytime_keras.weighting.training_loss import TrainingLoss
from anytime_keras.weighting.uncertainty import UncertaintyWeighting

SCHEMES = {
    "constant": schemes.ConstantWeighting,
    "linear": schemes.LinearWeighting,
    "half_end": schemes.HalfEndWeighting,
    "adaloss": AdaLossWeighting,
    "gradnorm": GradNormWeighting,
    "uncertainty": UncertaintyWeighting,
}


class LossWeighting(keras.callbacks.Callback):
    """Trains a model with several outputs under a weighting of their losses.

    Works on an `AnytimeModel` and on any functional Keras model with several outputs, whatever the losses they are
    compiled with. The weights apply inside the compiled training step, in `fit` alone: validation and
    `evaluate` give the compiled loss. `loss_weights` given to `compile` multiply in. At an epoch's end the log gets
    each exit's weight as `<exit>_weight`: put this callback before those that should see it (`CSVLogger`,
    `TensorBoard`). Another `fit` of the model with the same object continues from its state; a new object starts
    from scratch. A copied or unpickled object continues from the copied state, with any model that has the same exits.
    `keras.callbacks.BackupAndRestore` saves and restores the state together with the model's weights.

    Args:
        weighting: `"constant"`, `"linear"`, `"half_end"`, `"adaloss"`, `"gradnorm"`, `"uncertainty"`, or a
            `Weighting`.

    Raises:
        ValueError: at the start of `fit`, if the model is not functional or has but one output with a loss.

    Example:
    >>> import numpy as np, keras, anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> model.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> linear = ak.LossWeighting("linear")
    >>> x, y = np.zeros((8, 8, 8, 1)), np.zeros(8, int)
    >>> history = model.fit(x, y, callbacks=[linear], verbose=0)
    >>> linear.weights.tolist()
    [0.25, 0.625, 1.0]
    """

    def __init__(self, weighting="constant"):
        super().__init__()
        self.weighting = get(weighting)
        self._loss = None
        self._fitting = False
        self._warned_of_skipped = False
        self._warned_of_empty = False

    @property
    def weights(self):
        """The weight of each exit now, a float32 array, earliest exit first."""
        return self.weighting.weights

    @property
    def averages(self):
        """The running mean of each exit's loss now, a float32 array, earliest exit first (AdaLoss only)."""
        if not isinstance(self.weighting, AdaLossWeighting):
            raise ValueError(f"Only AdaLoss keeps averages. Received: a {type(self.weighting).__name__}.")
        return self.weighting.averages

    def set_model(self, model):
        super().set_model(model)
        if self._fitting:  # the last `fit` was interrupted, perhaps while TensorFlow traced its step: it keeps half
            model.train_function = None
        self._fitting = False
        _check(model)
        installed = TrainingLoss.of(model)
        if installed is not None and installed.weighting is not self.weighting:
            if installed.expected:
                installed.forget_fit()
                raise ValueError(
                    "`fit` takes one weighting. Received two callbacks: "
                    f"{type(installed.weighting).__name__} and {type(self.weighting).__name__}. Leave one out."
                )
        if installed is None or installed is not self._loss or not installed.up_to_date:
            if installed is not None:
                installed.remove()
            self._prepare(model)
            self._loss = TrainingLoss(model, self.weighting)
        self._loss.expect_fit()

    def _prepare(self, model):
        """Makes the weighting's state, where the model's own lives; another model than before starts anew."""
        weighting, names, state = self.weighting, training_loss.exit_names(model), None
        owner = weighting._owner and weighting._owner()
        if weighting.built and owner is model and weighting.exit_names == names:
            return
        if weighting.built and weighting._owner is None:  # a copy, or one whose state was set
            if weighting.exit_names != names:
                raise ValueError(
                    "The weighting is of other exits than the model's. "
                    f"Received: a weighting of {weighting.exit_names} for model '{model.name}' with {names}."
                )
            state = weighting.get_state()
        strategy = getattr(model, "distribute_strategy", None)
        with strategy.scope() if strategy is not None else contextlib.nullcontext():
            weighting.build(names)
        if state is not None:
            weighting.set_state(state)
        weighting._owner = weakref.ref(model)

    def on_train_begin(self, logs=None):
        self._fitting = True
        self._warned_of_skipped = False

    def on_train_end(self, logs=None):
        self._fitting = False
        self._loss.end_fit()

    def on_test_begin(self, logs=None):
        if not self._fitting:
            self._loss.forget_fit()

    def on_predict_begin(self, logs=None):
        self._loss.forget_fit()

    def on_epoch_end(self, epoch, logs=None):
        if not self._loss.used:
            raise RuntimeError(
                f"The weighting has had no effect: the `train_step` of {type(self.model).__name__} never called "
                "`compute_loss`. Compute the loss with `self.compute_loss(x, y, y_pred, sample_weight)` in it."
            )
        self.weighting.check()
        self._warn_of_skipped()
        self._warn_of_empty()
        if logs is not None:
            logs.update(
                (f"{name}_weight", float(weight)) for name, weight in zip(self.weighting.exit_names, self.weights)
            )

    def __getstate__(self):
        # Copies and pickles keep the weighting and its state, but not the model and its compiled functions.
        keras_own = vars(keras.callbacks.Callback())
        own = {name: value for name, value in vars(self).items() if name not in keras_own}
        return {**own, "_loss": None, "_fitting": False}

    def __setstate__(self, state):
        keras.callbacks.Callback.__init__(self)
        vars(self).update(state)

    def _warn_of_skipped(self):
        if (skipped := self.weighting.skipped) and not self._warned_of_skipped:
            self._warned_of_skipped = True
            warnings.warn(
                f"{skipped} batches had a loss that is not finite at one exit or more. The weighting learnt nothing "
                "from them; the training step itself did not leave them out. Look for the cause in the data or the "
                "learning rate.",
                stacklevel=2,
            )

    def _warn_of_empty(self):
        empty = self.weighting.empty
        if empty is None or not empty.any() or self._warned_of_empty:
            return
        self._warned_of_empty = True
        batches = {name: int(count) for name, count in zip(self.weighting.exit_names, empty) if count}
        warnings.warn(
            f"In some batches all samples of an exit had weight 0. Batches by exit: {batches}. In these batches the "
            "exit's weight in the loss did not change. To never train it, leave it out of `loss` in `compile`.",
            stacklevel=2,
        )


class AdaLoss(LossWeighting):
    """Trains a model with several outputs under AdaLoss: each exit's loss weighed by the inverse of its running mean.

    Late exits then end near what they could reach alone, at some cost to the earliest (paper, table 1). How it acts
    in `fit` is said at `LossWeighting`, what the arguments do at `AdaLossWeighting`, which holds the state.

    Reference: [Hu, Dey, Hebert, Bagnell, AAAI 2019](https://arxiv.org/abs/1708.06832), equation 7.

    Args:
        gamma: float in [0, 1], share of equal weights, or a Keras schedule of it. None is 0.05, the paper's.
        momentum: float in [0, 1) of the running means. None is 0.9, the paper's.
        update_period: int, batches between two updates of the weights. None is 1, the paper's.
        final_extra: float, raises the last exit's weight. None is 0, the paper's.
        first_order: bool, go by the losses' gradients instead of the losses; slow.
        preset: `"paper"` or `"authors_code"`.
        mean: `"arithmetic"`, the paper's, `"geometric"` or `"batch"`: of which losses to take the inverse.

    Raises:
        ValueError: if an argument is out of range; at the start of `fit`, if the model is not functional or has
            but one output with a loss.

    Example:
    >>> import numpy as np, keras, anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> model.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    >>> adaloss = ak.AdaLoss(gamma=0.05)
    >>> x, y = np.random.rand(32, 8, 8, 1), np.arange(32) % 10
    >>> history = model.fit(x, y, callbacks=[adaloss], verbose=0)
    >>> adaloss.averages.shape, float(adaloss.weights.max())
    ((3,), 1.0)
    """

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
        super().__init__(AdaLossWeighting(gamma, momentum, update_period, final_extra, first_order, preset, mean))


def get(weighting):
    """Returns the `Weighting` that a name, or a `Weighting` itself, stands for."""
    if isinstance(weighting, schemes.Weighting):
        return weighting
    if not isinstance(weighting, str):
        raise ValueError(
            "`weighting` must be a name or a `Weighting`. "
            f"Received: weighting={weighting!r}. {_errors.nearest(weighting, SCHEMES)}"
        )
    if weighting not in SCHEMES:
        raise ValueError(
            f"`weighting` is unknown. Received: weighting={weighting!r}. {_errors.nearest(weighting, SCHEMES)}"
        )
    return SCHEMES[weighting]()


def _check(model):
    if not graph.is_functional(model):
        raise ValueError(
            "A weighting needs a functional Keras model with several outputs. "
            f"Received: {type(model).__name__}, which has no graph of calls. "
            "Build it with `keras.Model(inputs, outputs)` or `anytime_keras.AnytimeModel`."
        )
    if not model.compiled or model.loss is None:
        raise ValueError(
            f"A weighting needs a model that is compiled with a loss. Received: model '{model.name}'. "
            "Call `model.compile(optimizer, loss=...)` first."
        )
    if "training" not in inspect.signature(model.compute_loss).parameters:
        raise ValueError(
            "A weighting must know whether a loss is for training. "
            f"Received: a `compute_loss` of {type(model).__name__} without the argument `training`. "
            "Add it: `def compute_loss(self, x, y, y_pred, sample_weight, training=True)`."
        )
    names = training_loss.exit_names(model)
    if len(names) < 2:
        raise ValueError(
            "A weighting needs two outputs with a loss or more. "
            f"Received: model '{model.name}' with {names}. Give the model more exits, or train without a weighting."
        )
