"""Collections of examples: arrays in memory, image files on disk, or a tensorflow-datasets split."""

import itertools
import warnings

import numpy as np

from anytime_keras import runtime
from anytime_keras._lazy import tf, tfds
from anytime_keras.data import crops


def processors():
    """Returns the number of processors this process may use, at most 32 since each holds a batch in memory."""
    return min(runtime.cores(), 32)


class ArrayExamples:
    """Images of one size in memory, uint8 or float, with their labels, and the `paths` of their files or None."""

    in_memory = True

    def __init__(self, images, labels, paths=None):
        self.images, self.labels, self.paths = images, np.asarray(labels), paths
        self.image_shape = tuple(images.shape[1:])
        self.scale = 1 / 255 if images.dtype == np.uint8 else 1.0  # to values from 0 to 1

    def __len__(self):
        return len(self.labels)

    def subset(self, indices):
        paths = None if self.paths is None else [self.paths[index] for index in indices]
        return ArrayExamples(self.images[indices], self.labels[indices], paths)

    def fetch(self, indices, rngs=None):
        """Returns the stored images, shape (len(indices), height, width, channels), and labels at these indices."""
        return self.images[indices], self.labels[indices]

    def moments(self, limit=None):
        """Returns the mean and standard deviation of each channel as two float arrays, for values from 0 to 1."""
        channels, width = self.image_shape[-1], self.image_shape[-1] * self.image_shape[-2]
        total, squares = np.zeros(width), np.zeros(width)
        for start in range(0, len(self), 100):
            lines = self.images[start : start + 100].astype("float64").reshape(-1, width)
            total += lines.sum(0)
            squares += np.square(lines, out=lines).sum(0)
        count = self.images.size // channels
        mean, square = (part.reshape(-1, channels).sum(0) / count for part in (total, squares))
        return self.scale * mean, self.scale * np.sqrt(np.maximum(square - mean**2, 0.0))


class FileExamples:
    """Image files of any size, decoded and cropped when fetched; `skipped` collects corrupt ones if it is not None."""

    in_memory = False
    scale = 1 / 255

    def __init__(self, paths, labels, image_shape, skipped=None):
        self.paths, self.labels, self.image_shape = list(paths), np.asarray(labels), tuple(image_shape)
        self.skipped = skipped

    def __len__(self):
        return len(self.labels)

    def subset(self, indices):
        paths = [self.paths[index] for index in indices]
        return FileExamples(paths, self.labels[indices], self.image_shape, self.skipped)

    def fetch(self, indices, rngs=None):
        """Returns images and labels at these indices.

        In training (with `rngs`), the next readable image replaces a skipped one, so that batches keep their size; in
        evaluation it is left out.
        """
        images, kept, last = [], [], None
        for index, rng in zip(indices, itertools.repeat(None) if rngs is None else rngs):
            for other in range(index, index + (1 if rng is None else len(self))):
                try:
                    path = self.paths[other % len(self)]
                    images.append(crops.decoded_crop(path, path, self.image_shape, rng))
                    kept.append(other % len(self))
                    break
                except crops.CorruptImage as error:
                    if self.skipped is None:
                        raise
                    self.skipped.add(self.paths[other % len(self)], error)
                    last = error
        if not images:
            raise last
        return np.stack(images), self.labels[kept]

    def moments(self, limit=2000):
        """As `ArrayExamples.moments`, over at most `limit` evenly spaced images."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(limit, len(self))).astype(int))
        return ArrayExamples(*self.fetch(chosen)).moments()


class Skipped:
    """Records the images skipped because they cannot be decoded, and warns once about each."""

    def __init__(self):
        self.paths = set()

    def __len__(self):
        return len(self.paths)

    def add(self, path, error):
        if path not in self.paths:
            self.paths.add(path)
            warnings.warn(f"{error} Left out, as `skip_corrupt` asks: {len(self)} so far.", stacklevel=2)


class StreamExamples:
    """A tensorflow-datasets split, or its part from `start` to `stop`, read sequentially and cropped to `image_shape`.

    Each training epoch starts at a random offset and shuffles within blocks; the examples on disk are shuffled already.
    """

    in_memory = False
    scale = 1 / 255
    labels = None
    block = 4096

    def __init__(self, builder, split, image_shape, start=0, stop=None):
        self.builder, self.split, self.image_shape = builder, split, tuple(image_shape)
        self.start, self.stop = start, int(builder.info.splits[split].num_examples) if stop is None else stop

    def __len__(self):
        return self.stop - self.start

    def divided(self, count):
        """Returns two parts: all but the last `count` examples, and the last `count`."""
        middle, own = self.stop - count, (self.builder, self.split, self.image_shape)
        return StreamExamples(*own, self.start, middle), StreamExamples(*own, middle, self.stop)

    def elements(self, epoch=None, seed=0):
        """Returns a `tf.data.Dataset` of (uint8 image, label, position in the epoch).

        With an `epoch`, examples are shuffled and cropped at random.
        """
        part, decoders = f"{self.split}[{self.start}:{self.stop}]", {"image": tfds.decode.SkipDecoding()}
        encoded = self.builder.as_dataset(split=part, shuffle_files=False, decoders=decoders)
        encoded = encoded.map(lambda example: (example["image"], tf.cast(example["label"], tf.int32)))
        number = tf.constant(-1, tf.int64) if epoch is None else epoch
        if epoch is not None:
            seeds = tf.stack([tf.constant(seed, tf.int64), epoch])
            first = tf.random.stateless_uniform((), seeds, maxval=min(self.block, len(self)), dtype=tf.int64)
            blocks = encoded.skip(first).concatenate(encoded.take(first)).batch(self.block).enumerate()
            encoded = blocks.map(
                lambda number, block: _shuffled(block, seeds + tf.stack([0, (number + 1) * 2**31]))
            ).unbatch()

        def crop(image, epoch, position):
            rng = None if epoch < 0 else np.random.default_rng([seed, epoch, position])
            return crops.decoded_crop(image, f"{self.split} of {self.builder.info.name}", self.image_shape, rng)

        def decoded(position, example):
            image = tf.numpy_function(crop, [example[0], number, position], tf.uint8)
            return tf.ensure_shape(image, self.image_shape), example[1], position

        return encoded.enumerate().map(decoded, num_parallel_calls=processors(), deterministic=True)

    def moments(self, limit=2000):
        images = np.stack([image for image, *_ in self.elements().take(limit).as_numpy_iterator()])
        return ArrayExamples(images, np.zeros(len(images), int)).moments()


def _shuffled(tensors, seed):
    order = tf.random.experimental.stateless_shuffle(tf.range(tf.shape(tensors[0])[0]), seed)
    return tuple(tf.gather(tensor, order) for tensor in tensors)
