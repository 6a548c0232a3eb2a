"""Applies a weighting to the exits' losses in the training step of a model.

In training, `sum((weights - 1) * losses)` is added to what the model's `compute_loss` returns, so regularization and a
user's own `compute_loss` keep working. The exits' losses are those that Keras passes to its `<exit>_loss` metrics. The
weighting's variables become variables of the model's metrics, because Keras's JAX trainer passes only the variables
that it knows through the compiled step. They are saved and restored with the model's weights during `fit`, as
`keras.callbacks.BackupAndRestore` does, and are not part of the model afterwards.

`AnytimeModel` has methods for this. In any other functional model, two public methods are replaced during `fit`, and
the state is added to `Model._metrics`, the only private attribute of Keras that is used.
"""

import contextlib
import functools
import threading
import warnings
from unittest import mock

import keras
from keras import ops

from anytime_keras import graph
from anytime_keras.models import AnytimeModel
from anytime_keras.weighting import replicas

STATE = "_weighting_state"  # the model's attribute, during `fit`, through which Keras saves the weighting's variables


class TrainingLoss:
    """The loss of a compiled functional model with several outputs under a built `Weighting`."""

    def __init__(self, model, weighting):
        self.model, self.weighting = model, weighting
        self.used = False  # whether a training step has been computed with this loss
        self.fit = None  # identifies the `fit` that uses it: the `History` that Keras makes for each
        self.state = _State(weighting)
        self._loss_weights = _loss_weights(model)
        self.compiled = model.metrics[0]  # `compile` makes a new one
        self._noted = threading.local()  # TensorFlow traces each replica in a thread of its own
        self._train_function = self._stack = None
        self._notes = False  # whether the metrics' losses are noted

    # === In `fit` ===

    def announce(self):
        """Adds the state to what is saved with the model, for the `fit` that is about to start."""
        other = vars(self.model).get(STATE)
        if other is not None and other is not self.state and other.fit is self.model.history:
            withdraw(self.model)
            raise ValueError(
                "`fit` takes one weighting. Received: two, "
                f"{type(other.weighting).__name__} and {type(self.weighting).__name__}. Leave one out."
            )
        self.state.fit = self.model.history
        # Setting the attribute directly keeps Keras from tracking it. Keras's saving visits each attribute of a model.
        vars(self.model)[STATE] = self.state

    def install(self):
        """Makes the model train with this loss until `remove`, with a training step compiled for it."""
        model, installed = self.model, of(self.model)
        if installed is self and self.fit is model.history:
            return
        if installed is not None:
            installed.abandon()
        self.fit = model.history
        vars(model)["_training_loss"] = self
        self._stack, self._plain_function = contextlib.ExitStack(), model.train_function
        if not isinstance(model, AnytimeModel):
            self._stack.enter_context(_hooks(model, self))
        self._note_losses()
        if self._train_function is None:
            # JAX reuses a compiled step for an equal function, and all bound methods `model.train_step` are equal.
            with mock.patch.object(model, "train_step", functools.partial(model.train_step)):
                model.make_train_function(force=True)
            self._train_function = model.train_function
        model.train_function = self._train_function

    def remove(self):
        """Restores training without the weighting."""
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        withdraw(self.model)
        self._stack.close()
        self._notes = False
        del vars(self.model)["_training_loss"]
        self.model.train_function = self._plain_function

    def abandon(self):
        """Ends a `fit` that was interrupted, perhaps while TensorFlow traced its step."""
        self.remove()
        self._train_function = None

    # === In a training step ===

    def compute_loss(self, plain, x, y, y_pred, sample_weight):
        """Computes the weighted loss of a batch and updates the weighting; `plain` is the model's `compute_loss`."""
        self.used = True
        total, losses = self._compute(plain, x, y, y_pred, sample_weight)
        present = self._present(y, sample_weight)
        batch = replicas.total(replicas.share(y_pred, losses.dtype) * ops.stop_gradient(losses))
        weights = ops.stop_gradient(ops.cast(self.weighting.weights_for_batch(batch, present), losses.dtype))
        own = ops.stack([ops.cast(weight, losses.dtype) for weight in self._loss_weights.values()])
        self.weighting.update(batch, self._gradient_statistics(plain, x, y, sample_weight), present)
        return total + ops.cast(ops.sum((weights - 1.0) * own * losses), total.dtype)

    def _compute(self, plain, x, y, y_pred, sample_weight):
        """Returns the loss of the model, and the unweighted losses of the exits, of shape `(num_exits,)`."""
        if not self._note_losses():  # TensorFlow's `fit` leaves it to the first step to create the metrics
            self._without_updates(plain, x, y, y_pred, sample_weight)
            self._note_losses()
        self._noted.losses = losses = {}
        try:
            total = plain(x, y, y_pred, sample_weight, training=True)
        finally:
            self._noted.losses = None
        if missing := [name for name in self._loss_weights if name not in losses]:
            raise RuntimeError(
                f"A weighting needs the loss of each exit. Received none for {missing}: the `compute_loss` of "
                f"{type(self.model).__name__} did not compute it. Call `super().compute_loss` in it."
            )
        # Keras multiplies what it passes to metrics by the number of replicas.
        return total, ops.stack([losses[name] for name in self._loss_weights]) / replicas.count()

    def _note_losses(self):
        """Starts to record the losses that the metrics `<exit>_loss` receive. Returns whether they exist."""
        metrics = {metric.name: metric for metric in reversed(self.model.metrics)}
        noted = {name: metrics.get(f"{name}_loss") for name in self._loss_weights}
        if not self._notes and None not in noted.values():
            self._notes = True
            for name, metric in noted.items():
                noting = self._noting(name, metric.update_state)
                self._stack.enter_context(mock.patch.object(metric, "update_state", noting))
        return self._notes

    def _noting(self, name, update_state):
        def noting(values, sample_weight=None):
            if getattr(self._noted, "losses", None) is not None:
                self._noted.losses[name] = values
            return update_state(values, sample_weight)

        return noting

    def _present(self, y, sample_weight):
        """Returns, as a bool tensor, whether each exit has samples that count, on any replica; None if all count."""
        losses, labels, weights = (_by_output(self.model, value) for value in (self.model.loss, y, sample_weight))
        present = [_has_samples(losses[name], labels.get(name), weights.get(name)) for name in self._loss_weights]
        if all(value is None for value in present):
            return None
        counts = ops.stack([ops.cast(True if value is None else value, "float32") for value in present])
        return ops.greater(replicas.total(counts), 0)

    def _gradient_statistics(self, plain, x, y, sample_weight):
        """Returns what the weighting needs of the gradients: None, or zeros for a batch that does not update it."""
        weighting = self.weighting
        if weighting.gradient_statistics is None:
            return None

        def losses_of(y_pred):
            _, losses = self._without_updates(plain, x, y, y_pred, sample_weight)
            return replicas.share(y_pred, losses.dtype) * losses

        def computed():
            return weighting.gradient_statistics(self.model, weighting.exit_names, losses_of, x)

        if weighting.update_period == 1 or replicas.count() > 1:  # replicas cannot communicate within a condition
            return computed()
        return ops.cond(weighting.is_update_step(), computed, lambda: ops.zeros((weighting.num_exits,), "float32"))

    def _without_updates(self, plain, *batch):
        """Does what `_compute` does, and discards the changes of variables."""
        model = self.model
        variables = [*model.trainable_variables, *model.non_trainable_variables, *model.metrics_variables]
        with keras.StatelessScope([(variable, ops.convert_to_tensor(variable)) for variable in variables]):
            return self._compute(plain, *batch) if self._notes else plain(*batch, training=True)


class _State(keras.metrics.Metric):
    """Makes Keras pass a weighting's variables through the training step and save them with the model's weights."""

    def __init__(self, weighting):
        super().__init__(name="loss_weighting")
        self.weighting, self.fit = weighting, None
        self._carried = weighting.variables

    def save_own_variables(self, store):
        for variable in self._carried:
            store[variable.name] = ops.convert_to_numpy(variable)

    def load_own_variables(self, store):
        saved = {name: store[name] for name in store.keys()}
        if {name: value.shape for name, value in saved.items()} != {v.name: tuple(v.shape) for v in self._carried}:
            warnings.warn(
                "The weights file that is loaded during `fit` has no matching state for "
                f"{type(self.weighting).__name__} with {self.weighting.num_exits} exits. Received: {sorted(saved)}. "
                "The weighting keeps its current state. Resume with the same weighting as in the interrupted `fit`.",
                stacklevel=2,
            )
            return
        for variable in self._carried:
            variable.assign(saved[variable.name])

    def reset_state(self):
        """Does nothing, because a weighting keeps its state from epoch to epoch."""

    def update_state(self, *args, **kwargs):
        """Does nothing, because the weighting is updated with the loss."""

    def result(self):
        return {}


def of(model):
    """Returns the `TrainingLoss` that a model trains with, or None."""
    return vars(model).get("_training_loss")


def withdraw(model):
    """Excludes a weighting's state from what is saved with the model."""
    vars(model).pop(STATE, None)


def exit_names(model: keras.Model) -> list[str]:
    """Lists the names of the outputs that the model is compiled to train, in the order of the exits."""
    return [name for name, loss in _by_output(model, model.loss).items() if loss is not None]


@contextlib.contextmanager
def _hooks(model, loss):
    """Gives a functional model what `AnytimeModel` has: the hooks for a `TrainingLoss`."""
    plain, make = model.compute_loss, model.make_train_function

    def compute_loss(x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if training:
            return loss.compute_loss(plain, x, y, y_pred, sample_weight)
        return plain(x, y, y_pred, sample_weight, training=False)

    def make_train_function(force=False):
        if not force:  # another `fit` begins, so the one with the weighting was interrupted
            loss.abandon()
        return make(force)

    model._metrics.append(loss.state)
    try:
        with mock.patch.multiple(model, compute_loss=compute_loss, make_train_function=make_train_function):
            yield
    finally:
        model._metrics.remove(loss.state)


def _by_output(model, value):
    """Returns a dict from each output's name to its entry of an argument of `compile` or `fit`: a value, dict or list.

    Keras matches a list with a dict of outputs in the order of sorted names.
    """
    names = list(graph.outputs_by_name(model))
    if isinstance(value, dict):
        return {name: value.get(name) for name in names}
    if not isinstance(value, (list, tuple)):
        return dict.fromkeys(names, value)
    order = sorted(names) if isinstance(model.output, dict) else names
    if len(value) != len(order):
        trained = exit_names(model)
        order = [name for name in order if name in trained]
    found = dict(zip(order, value))
    return {name: found.get(name) for name in names}


def _loss_weights(model):
    """Returns a dict from each trained output to its weight in `compile`."""
    if isinstance(model, AnytimeModel):
        given = model.loss_weights
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about losses that could not be loaded from a file
            given = model.get_compile_config()["loss_weights"]
    weights = _by_output(model, given)
    return {name: 1.0 if weights[name] is None else weights[name] for name in exit_names(model)}


def _has_samples(loss, y_true, sample_weight):
    """Returns, as a bool tensor, whether any sample counts for a loss; None if all do."""
    ignored = getattr(loss, "ignore_class", None)
    if sample_weight is None and ignored is None:
        return None
    counts = True if sample_weight is None else ops.any(ops.not_equal(sample_weight, 0))
    if ignored is not None:
        y_true = ops.convert_to_tensor(y_true)
        counts = ops.logical_and(counts, ops.any(ops.not_equal(y_true, ops.cast(ignored, y_true.dtype))))
    return counts
