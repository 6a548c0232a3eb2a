"""Training on the replicas of a `tf.distribute` strategy with the results of one device.

Keras 3.15's `fit` does not give them. Under `MultiWorkerMirroredStrategy` it fails before the first step ("Attempt to
convert a value (PerReplica..."), and it weights examples unequally if replicas share a batch unevenly. So this module
has its own loop over Keras's `train_step` and `test_step`. Callbacks are called as by `fit`, but without logs of
batches.
"""

import contextlib
import functools
import json
import threading
import zlib
from unittest import mock

import keras
import tensorflow as tf
from keras import ops

from anytime_keras import graph
from anytime_keras.training.devices import OneDevice, copied, make_state
from anytime_keras.weighting import replicas

# Arguments of optimizers that Keras applies to the gradients of each replica.
OWN = {"clips": ("clipnorm", "clipvalue", "global_clipnorm"), "accumulates": ("gradient_accumulation_steps",)}
# TensorFlow's errors if another process is lost.
LOST: tuple = (tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)
LOST += (tf.errors.FailedPreconditionError, tf.errors.InternalError, tf.errors.UnavailableError)


class Replicas(OneDevice):
    """Trains on the replicas of a `tf.distribute` strategy."""

    def __init__(self, name, strategy):
        self.name, self.strategy = name, strategy
        self.replicas = strategy.num_replicas_in_sync
        resolver = strategy.cluster_resolver if name == "multi_worker" else None
        jobs = resolver.cluster_spec().as_dict() if resolver else {}
        self.workers = sum(map(len, jobs.values())) or 1
        chief = ("chief" if "chief" in jobs else "worker", 0)
        self.is_chief = self.workers == 1 or (resolver.task_type, resolver.task_id) == chief

    def check(self, recipe):
        if recipe.minutes is not None and self.workers > 1:
            raise ValueError(
                "Training on several workers needs `epochs`, because each worker has its own clock. Received: "
                f"minutes={recipe.minutes}. Pass `epochs` instead."
            )
        for does, arguments in OWN.items() if self.replicas > 1 else ():
            asked = [name for name in arguments if recipe.optimizer.get(name) is not None]
            if asked:
                raise ValueError(
                    f"Keras {does} each replica's own gradients, not those of the global batch. "
                    f"Received: strategy='{self.name}' with optimizer={recipe.optimizer}. Leave {', '.join(asked)} "
                    "out, or train on one device."
                )

    def check_data(self, data, recipe):
        images, size = data.sizes["train"], data.batch_size
        if _smallest(images, size) >= self.replicas:
            return
        sizes = [other for other in range(1, images + 1) if _smallest(images, other) >= self.replicas]
        choice = f"batch_size={min(sizes, key=lambda other: abs(other - size))}, or " if sizes else ""
        raise ValueError(
            f"Each of the {self.replicas} replicas needs an image of every batch. Received: batch_size={size} and "
            f"{images} training images, so the smallest batch has {_smallest(images, size)}. "
            f"Choose {choice}fewer devices."
        )

    def scope(self):
        return self.strategy.scope()

    def prepare(self, model):
        for layer in graph.sublayers(model):
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True

    def alone(self, model, build):
        return copied(model, build)

    # === Between processes ===

    def any(self, flag):
        return bool(self._sum([flag])[0])

    def agree(self, what):
        # All numbers are equal if and only if count * (sum of squares) = (sum)^2.
        number = zlib.crc32(json.dumps(what, sort_keys=True).encode()) % 2**20
        count, total, squares = map(int, self._sum([1, number, number**2]))
        if count * squares != total**2:
            raise ValueError(
                "All workers must start with the same recipe, the same data and the same last checkpoint. "
                f"Received: {what} here, and other values in another worker. Start all of them with the same command "
                "and a shared folder."
            )

    def leave(self):
        # The chief has written everything, so it does not matter if another process is gone by now.
        with contextlib.suppress(ConnectionError) if self.is_chief else contextlib.nullcontext():
            self._sum([0])

    def _sum(self, numbers):
        """Sums ints over all replicas of all processes, and waits for them."""
        if self.workers == 1:
            return numbers
        with self._together():
            sums = self._adding(tf.constant(numbers, tf.int64))
            return self.strategy.experimental_local_results(sums)[0].numpy()

    @functools.cached_property
    def _adding(self):
        def add(values):
            values = tf.identity(values)  # on this replica's device
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)

        return tf.function(lambda values: self.strategy.run(add, args=(values,)), autograph=False)

    @contextlib.contextmanager
    def _together(self):
        """Turns TensorFlow's errors about a lost process into one clear `ConnectionError`."""
        try:
            yield
        except LOST as error:
            if self.workers == 1:
                raise
            raise ConnectionError(
                "Another worker is gone or cannot be reached, so this one stops. Restart all workers with "
                "`resume=True` (--resume) to continue after the last checkpoint. TensorFlow says: "
                f"{error.message.splitlines()[0]:.300}"
            ) from error

    # === The loop ===

    def fit(self, model, data, plan, callbacks):
        history = keras.callbacks.History()
        params = dict(epochs=plan.end, steps=plan.steps, verbose=0)
        callbacks = keras.callbacks.CallbackList([*callbacks, history], model=model, **params)
        with self._together():
            # Callbacks stay outside the scope, where other processes would wait for a variable that one creates.
            with self.scope():
                make_state(model, data)
            model.stop_training = False
            train = self._passes(model, model.train_step, plan.stream(data), parts, plan.steps)
            test = self._validation(model, data, plan)
            logs = None
            callbacks.on_train_begin()
            for epoch in range(plan.first, plan.end):
                callbacks.on_epoch_begin(epoch)
                with _counting_examples(model):
                    logs = train(callbacks.on_train_batch_begin, callbacks.on_train_batch_end)
                if test is not None:
                    callbacks.on_test_begin()
                    measured = test(callbacks.on_test_batch_begin, callbacks.on_test_batch_end)
                    callbacks.on_test_end(measured)
                    logs.update((f"val_{name}", value) for name, value in measured.items())
                callbacks.on_epoch_end(epoch, logs)
                if self.any(model.stop_training):
                    break
            callbacks.on_train_end(logs)
        return history

    def _validation(self, model, data, plan):
        """Validates batch by batch as on one device, since Keras's mean of an exit's losses counts batches."""
        if plan.validation is None:
            return None

        def step(batch):
            *batch, there = batch

            def test():
                model.test_step(tuple(batch))
                return True

            tf.cond(there, test, lambda: False)

        # Each round gives one batch to every replica; in the last round, some replicas may get none.
        batches = data.validation.map(lambda *batch: (*batch, True))
        count = data.pipeline("validation").steps
        rounds = -(-count // self.replicas)
        none = batches.take(1).map(lambda *batch: (*batch[:-1], False)).repeat(rounds * self.replicas - count)
        return self._passes(model, step, batches.concatenate(none).repeat(), turns, rounds)

    def _passes(self, model, step, batches, deal, num_steps):
        """Returns a function that takes the next `num_steps` steps on all replicas and returns the loss and metrics.

        `step` computes a batch on one replica; `deal` selects the `batches` of a `tf.distribute.InputContext`.
        """
        # With endless data, replicas need not ask each other whether any is left.
        batches = batches.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
        iterator = iter(self.strategy.distribute_datasets_from_function(lambda context: deal(batches, context)))
        step = tf.autograph.experimental.do_not_convert(step)
        at_once = model.steps_per_execution

        @tf.function(autograph=False)
        def take(iterator, count):
            def one(done):
                self.strategy.run(step, args=(iterator.get_next(),))
                return done + 1

            if at_once == 1:
                one(0)
            else:
                tf.while_loop(lambda done: done < count, one, [0], parallel_iterations=1)

        def run(begin, end):
            model.reset_metrics()
            for first in range(0, num_steps, at_once):
                count = min(at_once, num_steps - first)
                begin(first)
                take(iterator, tf.constant(count))
                end(first + count - 1)
                if model.stop_training:
                    break
            return {name: float(value) for name, value in model.get_metrics_result().items()}

        return run


@contextlib.contextmanager
def _counting_examples(model):
    """Weights each replica's loss by its number of examples, where Keras assumes that all replicas have equally many.

    That is the case in the sum of gradients and in the mean of each exit's losses; Keras already weights the mean of
    the total loss.
    """
    plain = model.compute_loss
    here = threading.local()  # TensorFlow traces each replica in a thread of its own

    def compute_loss(x=None, y=None, y_pred=None, sample_weight=None, training=True):
        here.share = replicas.share(y_pred)
        loss = plain(x, y, y_pred, sample_weight, training)
        value = ops.stop_gradient(loss)
        return value + ops.cast(here.share, loss.dtype) * (loss - value)

    def counted(update):
        return lambda value, sample_weight=None: update(value, here.share if sample_weight is None else sample_weight)

    means = [metric for metric in model.metrics if type(metric) is keras.metrics.Mean and metric.name != "loss"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(model, "compute_loss", compute_loss))
        for mean in means:
            stack.enter_context(mock.patch.object(mean, "update_state", counted(mean.update_state)))
        yield


def turns(batches, context):
    """Deals whole batches to the replicas in turn, and returns those of this process."""
    own = context.num_replicas_in_sync // context.num_input_pipelines

    def is_own(number, batch):
        return number // own % context.num_input_pipelines == context.input_pipeline_id

    return batches.enumerate().filter(is_own).map(lambda number, batch: batch).prefetch(own)


def parts(batches, context):
    """Cuts each global batch into parts that differ by at most one example.

    Returns the parts of this process's replicas in their order. Every process prepares whole batches, because
    augmentation draws random numbers for a whole batch.
    """
    total = context.num_replicas_in_sync
    own = total // context.num_input_pipelines
    first = context.input_pipeline_id * own

    def cut(images, labels):
        bounds = tf.shape(images)[0] * tf.range(first, first + own + 1) // total
        numbers = tf.data.Dataset.range(own)
        return numbers.map(lambda part: tuple(tensor[bounds[part] : bounds[part + 1]] for tensor in (images, labels)))

    return batches.flat_map(cut).prefetch(own)


def _smallest(images, batch_size):
    """Returns the size of an epoch's smallest batch."""
    return min(images, images % batch_size or batch_size)
