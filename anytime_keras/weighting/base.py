"""The interface of weightings, which are Keras callbacks, and the base of those that adapt."""

import contextlib
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from anytime_keras import graph
from anytime_keras.weighting import replicas, training_loss


class Weighting(keras.callbacks.Callback):
    """Weights the losses of the exits: the training loss is the sum of `weights[i] * losses[i]`.

    Pass it to `fit` as a callback. It works with an `AnytimeModel` and with any functional Keras model that has several
    outputs, whatever their losses. The weights apply in `fit` alone; validation and `evaluate` compute the compiled
    loss. `loss_weights` given to `compile` are multiplied in. At the end of each epoch, the logs get each exit's weight
    as `<exit>_weight`, so list this callback before those that read them (`CSVLogger`, `TensorBoard`). A second `fit`
    of the same model continues from the learned state; another model starts from scratch. A copied or unpickled
    weighting continues from the copied state. `keras.callbacks.BackupAndRestore` saves and restores the state together
    with the model's weights.

    In a custom training loop, call it once per step on the vector of the exits' losses: it returns the weighted sum
    and, if it adapts, updates its state. No gradient flows through the weights.

    Call: losses, shape `(num_exits,)`, and optionally `present`, see `update` -> scalar.

    Raises:
        ValueError: at the start of `fit`, if the model is not functional or has fewer than two outputs with a loss.

    Example:
    >>> import keras, anytime_keras as ak
    >>> weighting = ak.weighting.LinearWeighting()
    >>> float(weighting(keras.ops.convert_to_tensor([2.0, 1.0, 1.0])))  # 0.25 * 2 + 0.625 * 1 + 1 * 1
    2.125
    """

    # Whether the weights of a batch depend on that batch's losses; then `weights_for_batch` computes them.
    uses_batch_losses = False
    # A function of `gradients` whose result `update` needs besides the losses, or None.
    gradient_statistics: Callable | None = None
    # Number of batches skipped because a loss was not finite.
    skipped: int = 0
    # Number of batches in which each exit had no sample with nonzero weight, an array; None if not counted.
    empty = None

    def __init__(self):
        super().__init__()
        self.exit_names = None
        self._loss = None  # the `TrainingLoss` of the last `fit`
        self._fitting = False
        self._warnings = set()  # what has been warned of

    @property
    def built(self) -> bool:
        """Whether the weighting is prepared for a network, so that it knows the names of the exits."""
        return self.exit_names is not None

    def build(self, exits: int | list[str]) -> None:
        """Prepares the weighting for a network.

        Args:
            exits: int, the number of exits, or the list of their names, earliest first.
        """
        if isinstance(exits, (int, np.integer)):
            exits = [f"exit_{number}" for number in range(1, exits + 1)]
        names = list(exits)
        if not names:
            raise ValueError(f"`exits` must name at least one exit. Received: exits={exits!r}.")
        self.exit_names = names

    @property
    def num_exits(self) -> int:
        """int, the number of exits; 0 before `build`."""
        return len(self.exit_names or ())

    @property
    def weights(self) -> np.ndarray:
        """The current weights, a float32 array of shape `(num_exits,)`, earliest exit first."""
        raise NotImplementedError

    @property
    def variables(self) -> list[keras.Variable]:
        """The state, a list of `keras.Variable`; empty for a static scheme."""
        return []

    def weights_tensor(self) -> Any:
        """Returns the current weights within a training step, a tensor of shape `(num_exits,)`."""
        raise NotImplementedError

    def weights_for_batch(self, losses: Any, present: Any = None) -> Any:
        """Returns the weights for the batch with these losses, over all replicas. For the arguments, see `update`."""
        return self.weights_tensor()

    def update(self, losses: Any, statistics: Any = None, present: Any = None) -> None:
        """Updates the state with a batch, within a training step.

        Args:
            losses: the batch's losses, over all replicas, shape `(num_exits,)`.
            statistics: the result of `gradient_statistics`, or None.
            present: bool tensor of shape `(num_exits,)`, whether each exit has samples with nonzero weight in this
                batch. Without such samples, its loss of 0 carries no information. None if all exits have some.
        """

    def __call__(self, losses, present=None):
        if not self.built:
            self.build(int(losses.shape[0]))
        batch = replicas.total(ops.stop_gradient(losses))
        total = ops.sum(ops.stop_gradient(self.weights_for_batch(batch, present)) * losses)
        self.update(batch, present=present)
        return total

    def check(self):
        """Raises a `ValueError` if the learned state shows losses that the scheme cannot weight."""

    def reset(self):
        """Resets the learned state."""

    def get_state(self) -> dict:
        """Returns the learned state as a dict of numbers and lists, which JSON represents exactly."""
        return {}

    def set_state(self, state: dict) -> None:
        """Restores a state that `get_state` returned."""

    def get_config(self) -> dict:
        """Returns the constructor's arguments, which must be attributes of the same names, as plain data."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @classmethod
    def from_config(cls, config):
        """Creates a weighting from the result of `get_config`."""
        return cls(**config)

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.get_config().items())})"

    # === As a callback ===

    def set_model(self, model):
        before = self.model
        super().set_model(model)
        self._fitting = False
        _check_model(model)
        names = training_loss.exit_names(model)
        if before is not model or self.exit_names != names:
            self._build_for(model, names, keeps_state=self.built and before is None)
        if self._loss is None or self._loss.model is not model or self._loss.compiled is not model.metrics[0]:
            self._loss = training_loss.TrainingLoss(model, self)
        self._loss.announce()

    def _build_for(self, model, names, keeps_state):
        """Creates the state where the model's variables are, with the values of a copy or a restored state if any."""
        if keeps_state and self.exit_names != names:
            raise ValueError(
                "A copied or restored weighting needs a model with the same exits. "
                f"Received: a weighting of {self.exit_names} for model '{model.name}' with {names}."
            )
        state = self.get_state() if keeps_state else None
        strategy = getattr(model, "distribute_strategy", None)
        with strategy.scope() if strategy is not None else contextlib.nullcontext():
            self.build(names)
        if keeps_state:
            self.set_state(state)
        self._loss = None

    def on_train_begin(self, logs=None):
        self._fitting = True
        self._warnings.discard("skipped")
        self._loss.install()

    def on_train_end(self, logs=None):
        self._fitting = False
        self._loss.remove()

    def on_test_begin(self, logs=None):
        if not self._fitting:
            training_loss.withdraw(self.model)

    on_predict_begin = on_test_begin

    def on_epoch_end(self, epoch, logs=None):
        if not self._loss.used:
            raise RuntimeError(
                f"The weighting has had no effect: the `train_step` of {type(self.model).__name__} never called "
                "`compute_loss`. Compute the loss with `self.compute_loss(x, y, y_pred, sample_weight)` in it."
            )
        self.check()
        if self.skipped:
            self._warn_once(
                "skipped",
                f"{self.skipped} batches had a loss that is not finite at one or more exits. The weighting ignored "
                "them, but the training step did not. Look for the cause in the data or the learning rate.",
            )
        if self.empty is not None and self.empty.any():
            batches = {name: int(count) for name, count in zip(self.exit_names, self.empty) if count}
            self._warn_once(
                "empty",
                f"In some batches all samples of an exit had weight 0. Batches by exit: {batches}. In these batches "
                "the exit's weight in the loss did not change. To never train it, leave it out of `loss` in `compile`.",
            )
        if logs is not None:
            logs.update((f"{name}_weight", float(weight)) for name, weight in zip(self.exit_names, self.weights))

    def _warn_once(self, cause, message):
        if cause not in self._warnings:
            self._warnings.add(cause)
            warnings.warn(message, stacklevel=3)

    def __getstate__(self):
        # Copies and pickles keep the learned state, but not the model.
        return {**vars(self), "_model": None, "_loss": None, "_fitting": False, "_warnings": set()}

    def _check_built(self):
        if not self.built:
            raise ValueError(
                f"{type(self).__name__} has no weights until it is built. "
                "Train with it, or call `build(num_exits)` first."
            )


class AdaptiveWeighting(Weighting):
    """A weighting with state: numbers for each exit that every batch updates, within the training step.

    Subclasses define the numbers besides the weights (`initial_state`) and how a batch changes them (`next_state`). The
    weights of a batch come from the batches before it, and are all 1 at first. A batch in which a loss is not finite
    changes nothing but the count of skipped batches, because one NaN would stay in the state forever. An exit whose
    samples all have weight 0 in a batch keeps its numbers; `empty` counts such batches.

    Example: weights by the inverse of the largest loss so far.
    >>> import keras
    >>> class InverseMaximum(AdaptiveWeighting):
    ...     initial_state = {"largest": 0.0}
    ...     def next_state(self, state, losses, statistics):
    ...         largest = keras.ops.maximum(state["largest"], losses)
    ...         return {"largest": largest, "weights": 1.0 / largest}
    >>> weighting = InverseMaximum()
    >>> float(weighting(keras.ops.convert_to_tensor([4.0, 2.0])))  # the first batch: weights are 1
    6.0
    >>> weighting.weights.tolist()
    [0.25, 0.5]
    """

    initial_state: dict[str, float] = {}  # the name of each number that is kept for each exit -> its initial value
    update_period = 1  # batches between two updates of the weights, and between two computations of gradient statistics

    def next_state(self, state, losses, statistics):
        """Returns the state after a batch: a dict of tensors of shape `(num_exits,)`, for what changes.

        Args:
            state: dict of tensors: those of `initial_state`, and `weights`; `steps`, the number of batches including
                this one; `present`, whether each exit has samples in this batch; `empty`, the number of batches in
                which it had none. The result is ignored for exits that are not present.
            losses: the batch's losses, shape `(num_exits,)`.
            statistics: the result of `gradient_statistics`, or None; meaningless unless `is_update_step`.
        """
        raise NotImplementedError

    def is_update_step(self, steps=None):
        """Returns, as a tensor, whether a batch updates the weights, by its number from 1; by default the next one."""
        if steps is None:
            steps = ops.convert_to_tensor(self._state["steps"]) + 1
        return ops.equal(steps % self.update_period, 0)

    def build(self, exits):
        super().build(exits)
        initial = {**self.initial_state, "weights": 1.0}
        shape = (self.num_exits,)
        self._state = {name: state_variable(value, shape, "float32", name) for name, value in initial.items()}
        self._state.update((name, state_variable(0, (), "int32", name)) for name in ("steps", "skipped"))
        self._state["empty"] = state_variable(0, shape, "int32", "empty")

    @property
    def variables(self):
        return list(self._state.values()) if self.built else []

    @property
    def weights(self):
        return self._read("weights")

    @property
    def steps(self):
        """int, the number of batches that updated the state."""
        return int(self._read("steps"))

    @property
    def skipped(self):
        """int, the number of batches skipped because a loss was not finite."""
        return int(self._read("skipped"))

    @property
    def empty(self):
        """Int array, the number of batches in which each exit had no sample with nonzero weight."""
        return self._read("empty")

    def weights_tensor(self):
        return ops.convert_to_tensor(self._state["weights"])

    def update(self, losses, statistics=None, present=None):
        state = {name: ops.convert_to_tensor(variable) for name, variable in self._state.items()}
        losses = ops.stop_gradient(ops.cast(losses, "float32"))
        finite = ops.all(ops.isfinite(losses))
        if statistics is not None:
            statistics = ops.stop_gradient(ops.cast(statistics, "float32"))
            finite = ops.logical_and(finite, ops.all(ops.isfinite(statistics)))
        if present is None:
            present = ops.ones((self.num_exits,), "bool")
        counts = {"steps": state["steps"] + 1, "empty": state["empty"] + ops.cast(ops.logical_not(present), "int32")}
        changed = self.next_state({**state, **counts, "present": present}, losses, statistics)
        for name, value in counts.items():
            self._state[name].assign(ops.where(finite, value, state[name]))
        for name, value in changed.items():
            self._state[name].assign(ops.where(ops.logical_and(finite, present), value, state[name]))
        self._state["skipped"].assign(state["skipped"] + ops.cast(ops.logical_not(finite), "int32"))

    def _read(self, name):
        self._check_built()
        self.model  # Keras's JAX trainer keeps the values to itself within an epoch, until this property is read
        return np.array(ops.convert_to_numpy(self._state[name]))

    def reset(self):
        if self.built:
            initial = {name: [value] * self.num_exits for name, value in self.initial_state.items()}
            self.set_state({**initial, "weights": [1.0] * self.num_exits, "steps": 0, "skipped": 0})

    def __getstate__(self):
        return {**super().__getstate__(), "_state": self.get_state() if self.built else None}

    def __setstate__(self, state):
        vars(self).update(state)
        if self.built:
            self.build(self.exit_names)
            self.set_state(state["_state"])

    def get_state(self):
        self._check_built()
        return {"exits": self.exit_names, **{name: self._read(name).tolist() for name in self._state}}

    def set_state(self, state):
        if not self.built:
            self.build(state["exits"])
        if len(state["weights"]) != self.num_exits:
            raise ValueError(
                f"`state` must be of {self.num_exits} exits. Received: a state of {len(state['weights'])} exits. "
                "Use it with the network that it comes from."
            )
        for name, variable in self._state.items():  # older states do not have all of them
            variable.assign(state.get(name, np.zeros(variable.shape)))


def state_variable(value: float, shape: tuple, dtype: str, name: str) -> keras.Variable:
    """Creates a variable of a weighting's state."""
    # Every replica assigns the same values, computed from the losses of the global batch.
    options = dict(trainable=False, autocast=False, aggregation="only_first_replica", name=name)
    return keras.Variable(keras.initializers.Constant(value), shape, dtype, **options)


def _check_model(model):
    graph.check_functional(model)
    if not model.compiled or model.loss is None:
        raise ValueError(
            f"A weighting needs a model that is compiled with a loss. Received: model '{model.name}'. "
            "Call `model.compile(optimizer, loss=...)` first."
        )
    if "training" not in inspect.signature(model.compute_loss).parameters:
        raise ValueError(
            "A weighting needs a model whose `compute_loss` has the argument `training`. "
            f"Received: {type(model).__name__} without it. "
            "Add it: `def compute_loss(self, x, y, y_pred, sample_weight, training=True)`."
        )
    names = training_loss.exit_names(model)
    if len(names) < 2:
        raise ValueError(
            "A weighting needs at least two outputs with a loss. "
            f"Received: model '{model.name}' with {names}. Give the model more exits, or train without a weighting."
        )
