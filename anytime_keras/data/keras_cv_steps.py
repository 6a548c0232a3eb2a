"""Augmentation by keras-cv (the extra `cv`), where Keras has no layer that does the same. TensorFlow only.

keras-cv draws from stateful generators, whose numbers depend on what ran before. Here every image gets its own seed,
which follows from the `StepSeed` and its place in the batch, and keras-cv draws from that: training resumes exactly
as with the other steps.
"""

import keras

# Names of keras-cv's layers and their arguments; the rest is its default.
STEPS = {
    # Cubuk et al., 2020. Unlike Keras's layer, draws operations for each image; three, of medium strength.
    "keras_cv_rand_augment": ("RandAugment", {"value_range": (0, 1)}),
    # Hendrycks et al., 2020. Keras's layer draws its operations once for the whole training.
    "keras_cv_aug_mix": ("AugMix", {"value_range": (0, 1)}),
    # Chen et al., 2020.
    "keras_cv_grid_mask": ("GridMask", {}),
    "keras_cv_channel_shuffle": ("ChannelShuffle", {}),
}


def step(name):
    """Returns the function `(images, seed) -> images` of a step, for RGB images; grey ones go through it as RGB.

    Args:
        name: str, one of `STEPS`.

    Raises:
        ValueError: if keras-cv is not installed, or Keras does not run on TensorFlow.
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
    except RuntimeError:  # with deterministic operations TensorFlow makes none; the layers ask, and do not use it here
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
    """Stands in for a `tf.random.Generator`: each draw follows from the seed and the number of draws before it."""

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
    """Has a keras-cv layer and those in it draw from `random`: their generators and their samplers of factors."""
    from keras_cv import core

    for part in layer._flatten_layers():
        part._random_generator = random
        for name, value in list(vars(part).items()):
            if isinstance(value, (core.UniformFactorSampler, core.NormalFactorSampler)):
                setattr(part, name, _sampler(value, random))


def _sampler(sampler, random):
    """Returns keras-cv's sampler as a function `(shape, dtype)` that draws from `random`."""
    import tensorflow as tf

    if hasattr(sampler, "lower"):
        return lambda shape=(), dtype="float32": random.uniform(shape, sampler.lower, sampler.upper, dtype)
    return lambda shape=(), dtype="float32": tf.clip_by_value(
        random.normal(shape, sampler.mean, sampler.stddev, dtype), sampler.min_value, sampler.max_value
    )


def _aug_mix(layer, image, random):
    """What the layer's `augment_image` does; its own TensorFlow loops would draw the same numbers in every turn."""
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
