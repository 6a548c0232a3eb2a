"""Batches examples: with `tf.data.Dataset` on TensorFlow, as arrays augmented on the device on JAX.

An epoch's order and all of its random choices depend only on (seed, epoch, position), so an interrupted run resumes
exactly.
"""

import keras
import numpy as np
from keras import ops

from anytime_keras._lazy import jax, tf
from anytime_keras.data.augment import StepSeed
from anytime_keras.data.examples import StreamExamples, processors


class Pipeline:
    """Turns stored images into the network's input batches: scales them to values from 0 to 1, then normalises them.

    The results are `(image - mean) / std`. `augment` is a function `(images, labels, seed) -> (images, labels)` or
    None; `num_classes` is for one-hot labels.
    """

    def __init__(self, examples, batch_size, mean, std, augment, num_classes, seed):
        self.examples, self.batch_size, self.augment, self.seed = examples, batch_size, augment, seed
        self.num_classes = num_classes
        self.steps = -(-len(examples) // batch_size)  # of an epoch; the last batch may be smaller
        self.whole_steps = max(len(examples) // batch_size, 1)  # with full batches, or with all images as one
        self._on_device = None
        self.factor = np.asarray(examples.scale / std, "float32")
        self.shift = np.asarray(mean / std, "float32")
        self.std = np.asarray(std, "float32")

    def finish(self, images, labels, seed=None, side=None):
        """Scales and normalises a stored batch, and augments it by `seed`, a `StepSeed`, in training.

        `side` is the short side in pixels to resize to; None keeps the size. Works in traced functions.
        """
        images = ops.cast(images, "float32")
        if self.num_classes is not None:
            labels = ops.one_hot(labels, self.num_classes, dtype="float32")
        if seed is not None and self.augment is not None:
            images, labels = self.augment(images * self.examples.scale, labels, seed)
            images = images / self.std - self.shift
        else:
            images = images * self.factor - self.shift
        return images if side is None else self.resized(images, side), labels

    def resized(self, images, side):
        """Resizes images to a short side of `side` pixels."""
        return ops.image.resize(images, self._size(side), antialias=True, data_format="channels_last")

    def _size(self, side):
        height, width = self.examples.image_shape[:2]
        return [side * length // min(height, width) for length in (height, width)]


class TensorFlowPipeline(Pipeline):
    """Produces `tf.data.Dataset`s of (images, labels)."""

    def resized(self, images, side):
        return tf.image.resize(images, self._size(side), antialias=True)  # Keras's does not accept a tensor as size

    def evaluation(self):
        """Returns one pass in stored order."""
        return self._finished(self._stored(), training=False)

    def training(self):
        """Returns one epoch, which is reshuffled and augmented again on each iteration."""
        epoch = tf.data.Dataset.random(seed=self.seed, rerandomize_each_iteration=True).take(1)
        batches = self._finished(epoch.flat_map(lambda number: self._stored(number % 2**30)), training=True)
        return batches.apply(tf.data.experimental.assert_cardinality(self.steps))

    def training_stream(self, first_epoch=0, first_step=0, whole=False, side=None):
        """Returns endless epochs; see `DataSet.training_stream`. On TensorFlow, `side` receives tensors."""
        def stored(epoch):
            batches = self._stored(epoch, whole)
            return batches.skip(tf.where(epoch == first_epoch, tf.constant(first_step, tf.int64), 0))

        stream = tf.data.Dataset.range(first_epoch, 2**30).flat_map(stored if first_step or whole else self._stored)
        return self._finished(stream, training=True, side=side)

    def _finished(self, stored, training, side=None):
        def finish(images, labels, numbers, epoch, step):
            seed = StepSeed(self.seed, epoch, step, numbers) if training else None
            return self.finish(images, labels, seed, None if side is None else side(epoch, step))

        batches = stored.map(finish, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return batches.prefetch(tf.data.AUTOTUNE).with_options(_untuned())

    def _stored(self, epoch=None, whole=False):
        """Returns stored batches (images, labels, numbers, epoch, step), shuffled if `epoch` is given."""
        whole = whole and len(self.examples) >= self.batch_size
        if isinstance(self.examples, StreamExamples):
            batches = self.examples.elements(epoch, self.seed).batch(self.batch_size, drop_remainder=whole)
        else:
            numbers = tf.range(len(self.examples), dtype=tf.int64)
            if epoch is not None:
                seed = tf.stack([tf.constant(self.seed, tf.int64), epoch])
                numbers = tf.random.experimental.stateless_shuffle(numbers, seed=seed)
            fetch = self._fetch_array() if self.examples.in_memory else self._fetch_files(epoch)
            batches = tf.data.Dataset.from_tensor_slices(numbers).batch(self.batch_size, drop_remainder=whole)
            batches = batches.map(fetch, num_parallel_calls=processors(), deterministic=True)
        number = tf.constant(0, tf.int64) if epoch is None else epoch
        return batches.enumerate().map(lambda step, batch: (*batch, number, step))

    def _fetch_array(self):
        if self._on_device is None:  # one copy, shared by all datasets
            with tf.device("CPU"), tf.init_scope():
                self._on_device = tf.constant(self.examples.images), tf.constant(self.examples.labels, tf.int32)
        images, labels = self._on_device
        return lambda numbers: (tf.gather(images, numbers), tf.gather(labels, numbers), numbers)

    def _fetch_files(self, epoch):
        def fetch(numbers, epoch):
            rngs = None if epoch < 0 else _rngs(self.seed, epoch, numbers)
            images, labels = self.examples.fetch(numbers, rngs)
            return images, labels.astype("int32")

        def fetched(numbers):
            inputs = [numbers, tf.constant(-1, tf.int64) if epoch is None else epoch]
            images, labels = tf.numpy_function(fetch, inputs, [tf.uint8, tf.int32])
            images = tf.ensure_shape(images, (None, *self.examples.image_shape))
            return images, tf.ensure_shape(labels, (None,)), numbers

        return fetched


def _untuned():
    """Returns `tf.data` options without autotuning.

    In TensorFlow 2.21 the autotuning thread is sometimes not woken when its iterator is deleted. The deletion then
    blocks until the thread's next period: as long as the iterator has existed, up to a minute.
    Stages without explicit parallelism then get one thread per processor, at most sixteen.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


class ArrayPipeline(Pipeline):
    """Produces `keras.utils.PyDataset`s of (images, labels), finished by one compiled function on the device."""

    def evaluation(self):
        return ArrayBatches(self, training=False)

    def training(self):
        return ArrayBatches(self, training=True)

    def training_stream(self, first_epoch=0, first_step=0, whole=False, side=None):
        return ArrayBatches(self, True, first_epoch, endless=True, first_step=first_step, whole=whole, side=side)

    def compiled(self, training):
        """Returns a function `(images, labels, side, seed, epoch, step, numbers) -> (images, labels)`."""

        def finish(images, labels, side, *step):
            return self.finish(images, labels, StepSeed(*step) if training else None, side)

        if keras.backend.backend() != "jax":
            return finish
        return jax.jit(finish, static_argnums=2)


class ArrayBatches(keras.utils.PyDataset):
    """The batches of a pipeline, accessed by index."""

    def __init__(self, pipeline, training, first_epoch=0, endless=False, first_step=0, whole=False, side=None):
        super().__init__()
        self.pipeline, self.training, self.endless = pipeline, training, endless
        self._first_step, self._steps, self._side = first_step, pipeline.whole_steps if whole else pipeline.steps, side
        self._first_epoch = self._epoch = first_epoch
        self._finish = pipeline.compiled(training)
        self._order = (None, None)

    @property
    def num_batches(self):
        return None if self.endless else self.pipeline.steps

    def __len__(self):
        return self.pipeline.steps

    def on_epoch_begin(self):
        if self.training and not self.endless:
            self._epoch += 1

    def __getitem__(self, step):
        pipeline, epoch = self.pipeline, self._epoch
        if self.endless:
            later, step = divmod(step + self._first_step, self._steps)
            epoch = self._first_epoch + later
        if not 0 <= step < self._steps:
            raise IndexError(step)
        numbers = self._numbers(epoch)[step * pipeline.batch_size : (step + 1) * pipeline.batch_size]
        rngs = _rngs(pipeline.seed, epoch, numbers) if self.training else None
        images, labels = pipeline.examples.fetch(numbers, rngs)
        side = None if self._side is None else int(self._side(epoch, step))
        return self._finish(images, labels.astype("int32"), side, pipeline.seed, epoch, step, numbers)

    def _numbers(self, epoch):
        if self._order[0] != epoch:
            count = len(self.pipeline.examples)
            order = epoch_order(self.pipeline.seed, epoch, count) if self.training else np.arange(count)
            self._order = (epoch, order)
        return self._order[1]


def epoch_order(seed, epoch, count):
    """Returns the indices of `count` images in the order of an `ArrayPipeline`'s epoch."""
    return np.random.default_rng([seed, epoch]).permutation(np.arange(count))


def _rngs(seed, epoch, numbers):
    """Yields a random number generator for each example of an epoch."""
    return (np.random.default_rng([seed, epoch, number]) for number in numbers)
