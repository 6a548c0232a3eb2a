"""Puts a weighting into the loss that a Keras model trains on: the one place that touches Keras's compiled loss.

How it works. `Trainer.compute_loss`, a public method, asks the private `CompileLoss` for the total loss.
`CompileLoss` keeps one record (path, loss function, weight) for each output in `_flat_losses`, computes
`value = loss(...)`, tells its metric the unweighted value, multiplies by the weight and sums. While a training step
is computed, we put in records of our own: their loss functions note each value, their weights are the weighting's
times the user's. So whatever Keras or the user's own `compute_loss` does stays as it is.

The weighting's variables must be among the model's metrics' variables: only so does Keras's JAX trainer thread
them through the compiled step. During `fit` they are also saved and loaded with the model's weights, as
`keras.callbacks.BackupAndRestore` does; afterwards the model is saved without them.
"""

import contextlib
import functools
import warnings

import keras
from keras import ops

from anytime_keras import graph
from anytime_keras.weighting import replicas


CARRIER = "_loss_weighting"  # the model's attribute, during `fit`, that holds the weighting's state


class TrainingLoss:
    """The loss of one model under one weighting.

    Args:
        model: compiled functional model with several outputs.
        weighting: `Weighting`; built here if it is not yet.
    """

    def __init__(self, model, weighting):
        self.model, self.weighting = model, weighting
        self.compiled = model._compile_loss
        self._positions = _positions(model)
        self.used = False  # whether a training step was made with this loss
        self._expected = False
        self._records = None  # the compiled loss's own
        self._carrier = None

    @classmethod
    def of(cls, model):
        """Returns the `TrainingLoss` that is installed on `model`, or None."""
        installed = getattr(model.__dict__.get("compute_loss"), "__self__", None)
        return installed if isinstance(installed, cls) else None

    def expect_fit(self):
        """Installs this loss for the `fit` that is about to start, and only for that.

        `fit` calls `make_train_function` when its callbacks are set. A `fit` that did not announce itself here is
        one without the weighting, and finds the model as it was: also after one that was interrupted, or refused
        before it began. A second `fit` with the weighting uses the same compiled step again.
        """
        if self._carrier is None:
            self._install()
        self._expected = True
        # Not by `setattr`, which would track the variables. Keras's saving visits each attribute of a model.
        vars(self.model)[CARRIER] = self._carrier

    def end_fit(self):
        """Leaves the state out of what is saved with the model from here on."""
        vars(self.model).pop(CARRIER, None)

    def forget_fit(self):
        """Takes `expect_fit` back, for `evaluate` and `predict`, which set their callbacks likewise."""
        self._expected = False
        self.end_fit()

    @property
    def up_to_date(self):
        """Whether the model has not been compiled again since."""
        return self.compiled is self.model._compile_loss

    @property
    def expected(self):
        return self._expected

    def _install(self):
        model = self.model
        self._carrier = _Carrier(self.weighting)
        model._metrics.append(self._carrier)
        self._compute_loss, self._make_train_function = model.compute_loss, model.make_train_function
        methods = {
            "compute_loss": self.compute_loss,
            "make_train_function": self.make_train_function,
            # JAX keeps compiled steps by the function they were made of, and finds all bound methods
            # `model.train_step` equal; a new object is a new step.
            "train_step": functools.partial(model.train_step),
            "fit": self._anew(model.fit),
            "train_on_batch": self._anew(model.train_on_batch),
        }
        self._replaced = {name: model.__dict__.get(name) for name in methods}
        for name, method in methods.items():
            setattr(model, name, method)
        self.weighting._synchronize = self.synchronize
        model.train_function = None

    def remove(self):
        """Leaves the model as it was."""
        model = self.model
        self.end_fit()
        model._metrics.remove(self._carrier)
        for name, own in self._replaced.items():
            delattr(model, name)
            if own is not None:  # the model's own, not its class's
                setattr(model, name, own)
        self.synchronize()
        self.weighting._synchronize = None
        self._carrier = None
        model.train_function = None

    def _anew(self, method):
        """Has a method begin without what a `fit` announced that was then refused."""

        @functools.wraps(method)
        def call(*args, **kwargs):
            self._expected = False
            return method(*args, **kwargs)

        return call

    def make_train_function(self, force=False):
        if not self._expected:
            self.remove()
            return self.model.make_train_function(force)
        self._expected = False
        return self._make_train_function(force)

    def synchronize(self):
        """Brings the variables up to date: Keras's JAX trainer keeps their values to itself within an epoch."""
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Computes the model's loss; in training, with the weighting's weights, and lets it learn."""
        if not training:
            return self._compute_loss(x, y, y_pred, sample_weight, training=False)
        self.used = True
        weights = self.weighting.current()
        with self._recording(weights, x, y, y_pred, sample_weight) as (losses, present):
            total = self._compute_loss(x, y, y_pred, sample_weight, training=True)
        losses = ops.stack(losses)
        present = _anywhere(present)
        batch = replicas.total(replicas.share(y_pred, losses.dtype) * ops.stop_gradient(losses))
        if self.weighting.by_batch:
            # The compiled loss has weighed each term before all were known.
            more = ops.cast(self.weighting.of_batch(batch, present) - weights, losses.dtype)
            total = total + ops.sum(ops.stop_gradient(more) * self._own_weights() * losses)
        measured = None if self.weighting.measure is None else self._measured(x, y, sample_weight)
        self.weighting.update(batch, measured, present)
        return total

    def _measured(self, *batch):
        """What the weighting's `measure` gives of the batch, if it is due; else zeros, without the work."""
        weighting = self.weighting

        def measured():
            return weighting.measure(self.model, weighting.exit_names, self._losses_of, *batch)

        if weighting.update_period == 1 or replicas.several():  # replicas can't meet within a condition
            return measured()
        return ops.cond(weighting.due(), measured, lambda: ops.zeros((weighting.num_exits,), "float32"))

    def _own_weights(self):
        """The weights that the user gave to `compile`, in the exits' order."""
        own = [1.0] * len(self._positions)
        for record in self._records:
            if record.loss_weights is not None:
                own[self._positions[record.path]] = record.loss_weights
        return ops.stack([ops.cast(weight, self.compiled.dtype) for weight in own])

    def _losses_of(self, x, y, y_pred, sample_weight):
        """Returns the exits' unweighted losses, a list of scalars, and leaves no trace in the metrics."""
        with self._recording(None, x, y, y_pred, sample_weight) as (losses, _):
            self._compute_loss_in_vain(x, y, y_pred, sample_weight)
        share = replicas.share(y_pred, self.compiled.dtype)
        return [share * loss for loss in losses]

    def _compute_loss_in_vain(self, *batch):
        """Computes the model's loss as it does without us, and throws away what that changes."""
        model = self.model
        variables = [*model.trainable_variables, *model.non_trainable_variables, *model.metrics_variables]
        with keras.StatelessScope([(variable, ops.convert_to_tensor(variable)) for variable in variables]):
            self._compute_loss(*batch, training=True)

    @contextlib.contextmanager
    def _recording(self, weights, *batch):
        """Within this context the compiled loss applies `weights` and records each exit's loss in the first yielded
        list, and in the second what `_has_samples` returns for it."""
        compiled, records = self.compiled, self._original_records(*batch)
        losses = [0.0] * len(self._positions)
        present = [None] * len(self._positions)

        def noting(loss, position):
            def call(y_true, y_pred, sample_weight=None):
                value = loss(y_true, y_pred, sample_weight)
                losses[position] += ops.cast(value, compiled.dtype)
                present[position] = _has_samples(loss, y_true, sample_weight)
                return value

            return call

        def weighed(own, position):
            if weights is None:
                return own
            weight = ops.cast(ops.stop_gradient(weights[position]), compiled.dtype)
            return weight if own is None else weight * own

        positions = [self._positions[record.path] for record in records]
        compiled._flat_losses = [
            record._replace(loss=noting(record.loss, position), loss_weights=weighed(record.loss_weights, position))
            for record, position in zip(records, positions)
        ]
        try:
            yield losses, present
        finally:
            compiled._flat_losses = records

    def _original_records(self, *batch):
        # Replicas of a strategy compute their steps in turns that may interleave with ours: the records kept
        # here, never those in place, are what the next step starts from and what is put back.
        if self._records is None:
            if not self.compiled.built:
                self._compute_loss_in_vain(*batch)
            self._records = self.compiled._flat_losses
        return self._records


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


def _anywhere(present):
    """Combines what `_has_samples` returned for each exit, over all replicas; None if all samples count."""
    if all(value is None for value in present):
        return None
    counts = ops.stack([ops.cast(True if value is None else value, "float32") for value in present])
    return ops.greater(replicas.total(counts), 0)


class _Carrier(keras.metrics.Metric):
    """Has Keras carry a weighting's variables through the compiled training step, and save them with weights."""

    def __init__(self, weighting):
        super().__init__(name="loss_weighting")
        self.weighting = weighting
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
        """Does nothing: Keras resets metrics at every epoch, a weighting goes on."""

    def update_state(self, *args, **kwargs):
        """Does nothing: the weighting is updated with the loss."""

    def result(self):
        return {}


def exit_names(model):
    """Lists the names of the outputs that the model is compiled to train, in the exits' order."""
    names = list(graph.outputs_by_name(model))
    loss = model.loss
    if isinstance(loss, dict):
        return [name for name in names if loss.get(name) is not None]
    if isinstance(loss, (list, tuple)):
        # Keras matches a list of losses with a dict of outputs in the order of sorted names.
        order = sorted(names) if isinstance(model.output, dict) else names
        trained = {name for name, term in zip(order, loss) if term is not None}
        return [name for name in names if name in trained]
    return names


def _positions(model):
    """Returns a dict from the path at which Keras finds an output to its exit's position among the trained ones."""
    names = list(graph.outputs_by_name(model))
    paths = [(name,) if isinstance(model.output, dict) else (index,) for index, name in enumerate(names)]
    trained = exit_names(model)
    return {path: trained.index(name) for path, name in zip(paths, names) if name in trained}
