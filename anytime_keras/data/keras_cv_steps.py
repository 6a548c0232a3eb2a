"""Augmentation steps from keras-cv (the extra `cv`) for which Keras has no equivalent layer. TensorFlow only.

keras-cv draws from stateful generators, so its random numbers depend on earlier calls. Here each image gets a seed
derived from the `StepSeed` and its position in the batch, and keras-cv draws from that seed. Training therefore
resumes exactly, as with the other steps.
"""

import keras_cv
import tensorflow as tf

from anytime_keras import graph


def step(kind, arguments):
    """Returns the keras-cv layer `kind` as a function `(images, seed) -> images`. Grey images are processed as RGB."""
    try:
        tf.random.get_global_generator()
    except RuntimeError:  # in deterministic mode TensorFlow creates none; the layers request one but do not use it
        tf.random.set_global_generator(tf.random.Generator.from_seed(0))
    layer = getattr(keras_cv.layers, kind)(**arguments)
    random = _Random()
    _draw_from(layer, random)
    change = _aug_mix if kind == "AugMix" else lambda layer, image, random: layer(image)

    def one(image_and_seed):
        image, seed = image_and_seed
        random.start(seed)
        return tf.ensure_shape(change(layer, image, random), image.shape)

    def step(images, seed):
        channels = images.shape[-1]
        if channels == 1:
            images = tf.repeat(images, 3, axis=-1)
        start = tf.bitcast(seed.next(), tf.int32)
        numbers = tf.range(tf.shape(images)[0])
        seeds = tf.map_fn(lambda number: tf.random.experimental.stateless_fold_in(start, number), numbers)
        return tf.map_fn(one, (images, seeds), fn_output_signature=images.dtype)[..., :channels]

    return step


class _Random:
    """Replaces a `tf.random.Generator`; each draw depends only on the seed and the number of earlier draws."""

    def start(self, seed):
        self._seed, self._count = seed, 0

    def next(self):
        self._count += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self._count)

    def uniform(self, shape, minval=0, maxval=None, dtype="float32"):
        return tf.random.stateless_uniform(shape, self.next(), minval, maxval, dtype)

    def normal(self, shape, mean=0.0, stddev=1.0, dtype="float32"):
        return tf.random.stateless_normal(shape, self.next(), mean, stddev, dtype)

    def gamma(self, shape, alpha):
        return tf.random.stateless_gamma(shape, self.next(), alpha)


def _draw_from(layer, random):
    """Replaces the generators and factor samplers of a keras-cv layer and its sublayers with `random`."""
    for part in [layer, *graph.sublayers(layer)]:
        part._random_generator = random
        for name, value in list(vars(part).items()):
            if isinstance(value, (keras_cv.core.UniformFactorSampler, keras_cv.core.NormalFactorSampler)):
                setattr(part, name, _sampler(value, random))


def _sampler(sampler, random):
    """Converts a keras-cv sampler to a function `(shape, dtype)` that draws from `random`."""
    if hasattr(sampler, "lower"):
        return lambda shape=(), dtype="float32": random.uniform(shape, sampler.lower, sampler.upper, dtype)
    return lambda shape=(), dtype="float32": tf.clip_by_value(
        random.normal(shape, sampler.mean, sampler.stddev, dtype), sampler.min_value, sampler.max_value
    )


def _aug_mix(layer, image, random):
    """Reimplements the layer's `augment_image`, whose TensorFlow loops would draw the same numbers every iteration."""
    fold_in = tf.random.experimental.stateless_fold_in
    gammas = random.gamma((layer.num_chains,), layer.alpha)
    one, other = tf.unstack(random.gamma((2,), layer.alpha))
    chains_seed = random.next()

    def chain(number):
        random.start(fold_in(chains_seed, number))
        depth = random.uniform((), layer.chain_depth[0], layer.chain_depth[1] + 1, "int32")
        turns_seed = random.next()

        def turn(level, chained):
            random.start(fold_in(turns_seed, level))
            return level + 1, layer._apply_op(chained, random.uniform((), 0, 9, "int32"))

        return tf.while_loop(lambda level, _: level < depth, turn, (0, image))[1]

    chained = tf.map_fn(chain, tf.range(layer.num_chains), fn_output_signature=image.dtype)
    mixed = tf.tensordot(gammas / tf.reduce_sum(gammas), chained, 1)
    share = one / (one + other)
    return share * image + (1 - share) * mixed
