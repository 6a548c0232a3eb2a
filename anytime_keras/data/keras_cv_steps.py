"""Augmentation steps from keras-cv (the extra `cv`) for which Keras has no equivalent layer. TensorFlow only.

keras-cv draws from stateful generators, so its random numbers depend on earlier calls. Here each image gets a seed
derived from the `StepSeed` and its position in the batch, and keras-cv draws from that seed. Training therefore
resumes exactly, as with the other steps.
"""

import keras

from anytime_keras import graph

# keras-cv layers and their non-default arguments.
STEPS = {
    # Cubuk et al., 2020. Unlike Keras's layer, draws operations per image: three, of medium strength.
    "keras_cv_rand_augment": ("RandAugment", {"value_range": (0, 1)}),
    # Hendrycks et al., 2020. Keras's layer draws its operations once for the whole run.
    "keras_cv_aug_mix": ("AugMix", {"value_range": (0, 1)}),
    # Chen et al., 2020.
    "keras_cv_grid_mask": ("GridMask", {}),
    "keras_cv_channel_shuffle": ("ChannelShuffle", {}),
}


def step(name):
    """Returns one of `STEPS` as a function `(images, seed) -> images`; grey images are processed as RGB.

    Raises:
        ValueError: if keras-cv is not installed, or Keras's backend is not TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Steps of keras-cv need Keras's TensorFlow backend. Received: '{name}' on {keras.backend.backend()}. "
            "Keras's own `rand_augment` runs on every backend."
        )
    try:
        import keras_cv
    except ImportError as error:
        raise ValueError(
            f"Steps of keras-cv need keras-cv. Received: '{name}', and no keras-cv: {error}. "
            "`pip install '.[cv]'` in the library's checkout installs it."
        ) from error
    import tensorflow as tf

    try:
        tf.random.get_global_generator()
    except RuntimeError:  # in deterministic mode TensorFlow creates none; the layers request one but do not use it
        tf.random.set_global_generator(tf.random.Generator.from_seed(0))
    kind, arguments = STEPS[name]
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
        import tensorflow as tf

        self._count += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self._count)

    def uniform(self, shape, minval=0, maxval=None, dtype="float32"):
        import tensorflow as tf

        return tf.random.stateless_uniform(shape, self.next(), minval, maxval, dtype)

    def normal(self, shape, mean=0.0, stddev=1.0, dtype="float32"):
        import tensorflow as tf

        return tf.random.stateless_normal(shape, self.next(), mean, stddev, dtype)

    def gamma(self, shape, alpha):
        import tensorflow as tf

        return tf.random.stateless_gamma(shape, self.next(), alpha)


def _draw_from(layer, random):
    """Replaces the generators and factor samplers of a keras-cv layer and its sublayers with `random`."""
    from keras_cv import core

    for part in [layer, *graph.sublayers(layer)]:
        part._random_generator = random
        for name, value in list(vars(part).items()):
            if isinstance(value, (core.UniformFactorSampler, core.NormalFactorSampler)):
                setattr(part, name, _sampler(value, random))


def _sampler(sampler, random):
    """Converts a keras-cv sampler to a function `(shape, dtype)` that draws from `random`."""
    import tensorflow as tf

    if hasattr(sampler, "lower"):
        return lambda shape=(), dtype="float32": random.uniform(shape, sampler.lower, sampler.upper, dtype)
    return lambda shape=(), dtype="float32": tf.clip_by_value(
        random.normal(shape, sampler.mean, sampler.stddev, dtype), sampler.min_value, sampler.max_value
    )


def _aug_mix(layer, image, random):
    """Reimplements the layer's `augment_image`, whose TensorFlow loops would draw the same numbers every iteration."""
    import tensorflow as tf

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
