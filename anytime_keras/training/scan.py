"""Training on JAX with the data on the device and each epoch as one compiled program.

Keras's `fit` passes every variable from Python to the device at each step. If a step takes less than a millisecond,
that dominates the time. Here an epoch is one `jax.lax.scan` over Keras's stateless `train_step`. Images, losses,
weightings, metrics, optimizers and schedules are those of `fit`, so results agree to rounding.
"""

import functools
import itertools
import time

import keras
import numpy as np

from anytime_keras._lazy import jax
from anytime_keras.data.augment import StepSeed
from anytime_keras.data.batches import epoch_order
from anytime_keras.training.devices import make_state
from anytime_keras.weighting import Weighting, training_loss


def check_backend():
    """Raises ValueError unless Keras runs on JAX."""
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"`engine='scan'` needs Keras's JAX backend. Received: {keras.backend.backend()}. Set the environment "
            "variable KERAS_BACKEND=jax, or choose `engine='fit'`."
        )


def check_data(data):
    """Raises ValueError unless the images are in memory."""
    if not data.pipeline("train").examples.in_memory:
        raise ValueError(
            f"`engine='scan'` needs images that fit into memory. Received: '{data.name}', which is read from disk. "
            "Choose `engine='fit'`."
        )


def keep_programs(folder):
    """Sets JAX's compilation cache to a directory, so that networks of the same shape share compiled programs."""
    if jax.config.jax_compilation_cache_dir is None:  # not even by JAX_COMPILATION_CACHE_DIR
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))


class Epochs:
    """Trains and validates one network, or several of the same shape side by side, one epoch per call.

    The first model's graph computes all of them. Between calls, each model's variables contain its state; those of
    metrics and optimizers are created here. `seeds` has each model's seed for shuffling and augmentation.
    """

    def __init__(self, models, data, seeds):
        self.models, self.data = list(models), data
        self.seeds = np.array(seeds, "int32")
        self._programs, self._resident = {}, {}
        for model in self.models:
            make_state(model, self.data)

    def train(self, batches, side=None):
        """Trains on batches from `epoch` or `round`; returns a list of dicts, each model's loss and metrics."""
        return self._run("train", self._train, batches, side)

    def validate(self):
        """Evaluates on the validation images; returns a list of dicts, each model's loss and metrics."""
        return self._run("validation", self._validate, self._in_order())

    def compile(self, batches, side=None, validates=True):
        """Compiles the programs of an epoch without running them."""
        self._program("train", self._train, batches, side)
        if validates:
            self._program("validation", self._validate, self._in_order())
        losses = [training_loss.of(model) for model in self.models]
        for loss in losses[1:]:
            if loss is not None:
                loss.used = losses[0].used  # the first model's step is every model's

    # === One model's computation, traced ===

    def _train(self, *batches):
        model = self.models[0]
        return self._scan("train", lambda state, batch: model.train_step(state, batch)[1], *batches)

    def _validate(self, *batches):
        model = self.models[0]

        def step(state, batch):
            trainable, others, optimizer, metrics = state
            _, (trainable, others, metrics) = model.test_step((trainable, others, metrics), batch)
            return trainable, others, optimizer, metrics

        return self._scan("validation", step, *batches)

    def _scan(self, split, step, side, state, images, labels, order, rest, epochs, steps, seed):
        """Takes one step for each row of `order`, then one for `rest`; `epochs` and `steps` seed their augmentation."""
        def take(state, epoch, number, chosen):
            step_seed = StepSeed(seed, epoch, number, chosen) if split == "train" else None
            return step(state, self.data.pipeline(split).finish(images[chosen], labels[chosen], step_seed, side))

        if count := len(order):
            rows = epochs[:count], steps[:count], order
            state, _ = jax.lax.scan(lambda state, at: (take(state, *at), None), state, rows)
        return take(state, epochs[-1], steps[-1], rest) if len(rest) else state

    # === Between the models' variables and the programs ===

    def _run(self, split, compute, batches, side=None):
        for model in self.models:
            model.reset_metrics()
        program, arguments = self._program(split, compute, batches, side)
        for model, state in zip(self.models, program(*arguments)):
            for variable, value in zip(itertools.chain(*_variables(model)), itertools.chain(*state)):
                variable.assign(value)
        return [{name: float(value) for name, value in model.get_metrics_result().items()} for model in self.models]

    def _program(self, split, compute, batches, side=None):
        """Returns the compiled program for all models, and its arguments."""
        def run(states, images, labels, orders, rests, epochs, steps, seeds):
            if len(states) == 1:
                shared = (images, labels, orders[0], rests[0], epochs, steps, seeds[0])
                return [compute(side, states[0], *shared)]
            stacked = jax.tree.map(lambda *values: jax.numpy.stack(values), *states)
            ended = jax.vmap(functools.partial(compute, side), in_axes=(0, None, None, 0, 0, None, None, 0))(
                stacked, images, labels, orders, rests, epochs, steps, seeds
            )
            return [jax.tree.map(lambda values: values[index], ended) for index in range(len(states))]

        # Four lists of arrays for each model, as Keras's `train_step` takes and returns them.
        states = [tuple([each.value for each in group] for group in _variables(model)) for model in self.models]
        arguments = (states, *self._images(split), *batches, self.seeds)
        if (compute, side) not in self._programs:
            self._programs[compute, side] = jax.jit(run).lower(*arguments).compile()
        return self._programs[compute, side], arguments

    def _images(self, split):
        if split not in self._resident:
            examples = self.data.pipeline(split).examples
            arrays = examples.images, examples.labels.astype("int32")
            self._resident[split] = tuple(map(jax.numpy.asarray, arrays))
        return self._resident[split]

    def epoch(self, epoch):
        """Returns an epoch's image numbers, shapes (models, steps, batch) and (models, rest), and each step's epoch and
        number."""
        orders = np.stack([epoch_order(seed, epoch, self.data.sizes["train"]) for seed in self.seeds.tolist()])
        return self._divided(orders, self.data.batch_size, epoch)

    def round(self, epoch, step, count):
        """Returns `count` whole batches, starting at a step of an epoch, in the form of `epoch`."""
        pipeline, size = self.data.pipeline("train"), min(self.data.batch_size, self.data.sizes["train"])
        passed = step + np.arange(count)
        epochs, steps = epoch + passed // pipeline.whole_steps, passed % pipeline.whole_steps
        orders = []
        for seed in self.seeds.tolist():
            shuffled = {at: epoch_order(seed, at, self.data.sizes["train"]) for at in set(epochs.tolist())}
            orders.append(
                [shuffled[at][number * size : (number + 1) * size] for at, number in zip(epochs.tolist(), steps)]
            )
        rest = np.empty((len(self.seeds), 0), "int32")
        return np.array(orders, "int32"), rest, epochs.astype("int32"), steps.astype("int32")

    def _in_order(self):
        """Returns the batches of the validation images."""
        count = self.data.sizes["validation"]
        size = _even(count, max(self.data.batch_size, 512))
        return self._divided(np.tile(np.arange(count), (len(self.models), 1)), size, 0)

    def _divided(self, orders, size, epoch):
        orders = orders.astype("int32")
        whole = orders.shape[1] // size * size
        steps = np.arange(-(-orders.shape[1] // size), dtype="int32")
        rows = orders[:, :whole].reshape(len(orders), -1, size)
        return rows, orders[:, whole:], np.full_like(steps, epoch), steps


def _even(count, most):
    """Returns a batch size up to `most` that leaves no smaller last batch; `most` if none is large enough."""
    return next((size for size in range(most, most // 8, -1) if count % size == 0), most)


def _variables(model):
    own = (model.trainable_variables, model.non_trainable_variables)
    return (*own, model.optimizer.variables, model.metrics_variables)


def fit(models, data, seeds, plan, callbacks=(), verbose=False):
    """Fits models side by side, as `Model.fit` does for one, and returns a list of Keras's `History`.

    `callbacks` is a list for each model. When training by the clock, a round of steps is one call of the compiled
    program, which callbacks see as one batch; otherwise batch hooks are not called. If a callback stops one model, all
    stop.
    """
    histories = [keras.callbacks.History() for _ in models]
    params = dict(epochs=plan.end, steps=plan.steps, verbose=0)
    lists = [
        keras.callbacks.CallbackList([*own, history], model=model, **params)
        for model, own, history in zip(models, callbacks, histories)
    ]

    def batches(number):
        if plan.clock is None:
            return program.epoch(number)
        epoch, step, _ = plan.start
        return program.round(epoch, step + (number - plan.first) * plan.steps, plan.steps)

    def side(number):
        return None if plan.side is None else int(plan.side(number, 0))

    def call(hook, *arguments):
        for each in lists:
            getattr(each, hook)(*arguments)

    program = Epochs(models, data, seeds)
    for model, each in zip(models, lists):
        model.stop_training = False
        for weighting in each.callbacks:
            if isinstance(weighting, Weighting):
                weighting.on_train_begin()  # the program contains it
    start = time.perf_counter()
    program.compile(batches(plan.first), side(plan.first), plan.validation is not None)
    if verbose:
        print(f"compiled in {time.perf_counter() - start:.1f} s", flush=True)
    call("on_train_begin")
    for number in range(plan.first, plan.end):
        call("on_epoch_begin", number)
        if plan.clock is not None:
            call("on_train_batch_begin", 0)
        logs = program.train(batches(number), side(number))
        if plan.clock is not None:
            call("on_train_batch_end", plan.steps - 1)
        if plan.validation is not None:
            call("on_test_begin")
            for own, measured in zip(logs, program.validate()):
                own.update((f"val_{name}", value) for name, value in measured.items())
            call("on_test_end")
        for each, own in zip(lists, logs):
            each.on_epoch_end(number, own)
        if any(model.stop_training for model in models):
            break
    call("on_train_end")
    return histories
