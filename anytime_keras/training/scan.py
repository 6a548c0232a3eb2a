"""Training on JAX with the data on the device and an epoch as one compiled program.

Keras's `fit` crosses from Python to the device at every step, with every variable; where a step takes under a
millisecond, that is most of the time. Here an epoch is one `jax.lax.scan` over Keras's own stateless `train_step`, so
that losses, weightings, metrics, optimizers and their schedules are those of `fit`, and so are the images: the numbers
agree to rounding.
"""

import itertools
import time

import keras
import numpy as np

from anytime_keras.data.augment import StepSeed
from anytime_keras.data.batches import epoch_order
from anytime_keras.weighting.training_loss import TrainingLoss


def check_backend():
    """Raises ValueError unless Keras runs on JAX."""
    if keras.backend.backend() != "jax":
        raise ValueError(
            "`engine='scan'` needs Keras's JAX backend. "
            f"Received: the {keras.backend.backend()} backend. Set KERAS_BACKEND=jax, or choose `engine='fit'`."
        )


def check_data(data):
    """Raises ValueError unless the images are in memory."""
    if not data.pipeline("train").examples.in_memory:
        raise ValueError(
            "`engine='scan'` needs images of one size that fit into memory. "
            f"Received: '{data.name}', which is read from disk. Choose `engine='fit'`."
        )


class Epochs:
    """Trains and validates a network, or several of one shape side by side, an epoch a call.

    The first model's graph computes them all; each model's variables hold its state between two calls.

    Args:
        models: list of compiled models that differ in their variables' values alone.
        data: `DataSet` with its images in memory.
        seeds: list of ints, each model's seed of order and augmentation.

    Raises:
        ValueError: if Keras does not run on JAX, or the images are not in memory.
    """

    def __init__(self, models, data, seeds):
        check_backend()
        check_data(data)
        self.models, self.data = list(models), data
        self.seeds = np.array(seeds, "int32")
        self._programs = {}
        self._resident = {}

    def prepare(self):
        """Makes the variables of metrics and optimizers; before the first epoch, under its callbacks.

        As in `fit`, `make_train_function` tells a weighting that this training is meant.
        """
        images, labels = self.data.pipeline("train").finish(*(array[:1] for array in self._images("train")))
        for model in self.models:
            model.optimizer.build(model.trainable_variables)
            outputs = keras.tree.map_structure(_zeros, model.output)
            model.compute_loss(images, labels, outputs, training=False)
            model.compute_metrics(images, labels, outputs)
            model.reset_metrics()
            model.make_train_function()

    def train(self, epoch):
        """Trains one epoch.

        Returns:
            A list of dicts, each model's loss and metrics.
        """
        return self._run("train", self._train, epoch)

    def refresh(self, epoch):
        """Passes the images of one epoch through the networks in training mode: only what layers track moves, such
        as the means and variances of batch normalisation."""
        self._run("train", self._refresh, epoch)

    def validate(self):
        """Evaluates the validation images; returns a list of dicts, each model's loss and metrics."""
        return self._run("validation", self._validate, 0)

    def compile(self, epoch=0):
        """Compiles what an epoch needs, without running it."""
        self._program("train", self._train, epoch)
        if self.data.validation is not None:
            self._program("validation", self._validate, 0)
        losses = [TrainingLoss.of(model) for model in self.models]
        for loss in losses[1:]:
            if loss is not None:
                loss.used = losses[0].used  # the first model's step is every model's

    # === One model's computation, traced ===

    def _train(self, state, *batches):
        model = self.models[0]
        return self._scan("train", lambda state, batch: model.train_step(state, batch)[1], state, *batches)

    def _validate(self, state, *batches):
        model = self.models[0]

        def step(state, batch):
            trainable, others, optimizer, metrics = state
            _, (trainable, others, metrics) = model.test_step((trainable, others, metrics), batch)
            return trainable, others, optimizer, metrics

        return self._scan("validation", step, state, *batches)

    def _refresh(self, state, *batches):
        model = self.models[0]

        def step(state, batch):
            trainable, others, optimizer, metrics = state
            _, others = model.stateless_call(trainable, others, batch[0], training=True)
            return trainable, others, optimizer, metrics

        return self._scan("train", step, state, *batches)

    def _scan(self, split, step, state, images, labels, order, rest, seed, epoch):
        """Takes a step for each row of `order`, then one for `rest`, the last and smaller batch, if there is one."""
        import jax
        import jax.numpy as jnp

        def take(state, number, chosen):
            step_seed = StepSeed(seed, epoch, number) if split == "train" else None
            return step(state, self.data.pipeline(split).finish(images[chosen], labels[chosen], step_seed))

        if len(order):
            numbers = jnp.arange(len(order), dtype="int32")
            state, _ = jax.lax.scan(lambda state, at: (take(state, *at), None), state, (numbers, order))
        return take(state, len(order), rest) if len(rest) else state

    # === Between the models' variables and the programs ===

    def _run(self, split, compute, epoch):
        for model in self.models:
            model.reset_metrics()
        program, arguments = self._program(split, compute, epoch)
        for model, state in zip(self.models, program(*arguments)):
            for variable, value in zip(itertools.chain(*_variables(model)), itertools.chain(*state)):
                variable.assign(value)
        return [{name: float(value) for name, value in model.get_metrics_result().items()} for model in self.models]

    def _program(self, split, compute, epoch):
        """Returns the compiled program for all models, and its arguments."""
        import jax
        import jax.numpy as jnp

        def run(states, *shared):
            if len(states) == 1:
                images, labels, orders, rests, seeds, epoch = shared
                return [compute(states[0], images, labels, orders[0], rests[0], seeds[0], epoch)]
            stacked = jax.tree.map(lambda *values: jnp.stack(values), *states)
            ended = jax.vmap(compute, in_axes=(0, None, None, 0, 0, 0, None))(stacked, *shared)
            return [jax.tree.map(lambda values: values[index], ended) for index in range(len(states))]

        states = [_state(model) for model in self.models]
        arguments = (states, *self._images(split), *self._batches(split, epoch), self.seeds, np.int32(epoch))
        if compute not in self._programs:
            self._programs[compute] = jax.jit(run).lower(*arguments).compile()
        return self._programs[compute], arguments

    def _images(self, split):
        if split not in self._resident:
            import jax.numpy as jnp

            examples = self.data.pipeline(split).examples
            self._resident[split] = jnp.asarray(examples.images), jnp.asarray(examples.labels.astype("int32"))
        return self._resident[split]

    def _batches(self, split, epoch):
        """Returns the numbers of an epoch's images, for each model: of shape (models, steps, batch) and, of the
        smaller last batch, (models, rest)."""
        count = self.data.sizes[split]
        if split == "train":
            size = self.data.batch_size
            orders = np.stack([epoch_order(seed, epoch, count) for seed in self.seeds.tolist()])
        else:
            size = _even(count, max(self.data.batch_size, 512))
            orders = np.tile(np.arange(count), (len(self.models), 1))
        whole = count // size * size
        orders = orders.astype("int32")
        return orders[:, :whole].reshape(len(self.models), -1, size), orders[:, whole:]


def _even(count, most):
    """The size of batches, `most` or less, that leaves no smaller last one, or `most` if that would be far less."""
    return next((size for size in range(most, most // 8, -1) if count % size == 0), most)


def _zeros(output):
    return keras.ops.zeros((1, *output.shape[1:]), output.dtype)


def _state(model):
    """What Keras's `train_step` takes and gives: four lists of arrays."""
    return tuple([variable.value for variable in group] for group in _variables(model))


def _variables(model):
    return (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )


def fit(models, data, seeds, epochs, first_epoch=0, callbacks=(), verbose=False):
    """Does what `Model.fit` does, on models side by side.

    Callbacks act at the begin and end of training and of epochs; batches pass without them. Where one stops its
    model's training, all stop.

    Args:
        models, data, seeds: see `Epochs`.
        epochs, first_epoch: ints, where training ends and where it starts.
        callbacks: for each model a list of Keras callbacks.
        verbose: bool, whether to print how long compiling took.

    Returns:
        For each model Keras's `History`.
    """
    program = Epochs(models, data, seeds)
    histories = [keras.callbacks.History() for _ in models]
    params = dict(epochs=epochs, steps=data.steps_per_epoch, verbose=0)
    lists = [
        keras.callbacks.CallbackList([*own, history], model=model, **params)
        for model, own, history in zip(models, callbacks, histories)
    ]
    program.prepare()
    start = time.perf_counter()
    program.compile(first_epoch)
    if verbose:
        print(f"compiled in {time.perf_counter() - start:.1f} s", flush=True)
    for model, each in zip(models, lists):
        model.stop_training = False
        each.on_train_begin()
    for epoch in range(first_epoch, epochs):
        for each in lists:
            each.on_epoch_begin(epoch)
        logs = program.train(epoch)
        if data.validation is not None:
            for each in lists:
                each.on_test_begin()
            for own, measured in zip(logs, program.validate()):
                own.update((f"val_{name}", value) for name, value in measured.items())
            for each in lists:
                each.on_test_end()
        for each, own in zip(lists, logs):
            each.on_epoch_end(epoch, own)
        if any(model.stop_training for model in models):
            break
    for each in lists:
        each.on_train_end()
    return histories
