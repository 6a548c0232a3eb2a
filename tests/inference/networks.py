"""Small networks with every form of graph, and a layer that calls a Python function."""

import keras
import numpy as np

import anytime_keras as ak

layers = keras.layers


def _head(x, name, classes=3):
    return layers.Dense(classes, name=name)(layers.GlobalAveragePooling2D()(x))


def residual():
    return ak.models.build("resann", num_units=2, channels=2, input_shape=(8, 8, 3), num_classes=3)


def small_resann():
    return ak.models.build("resann", num_units=1, channels=2, input_shape=(8, 8, 3), num_classes=3)


def dense():
    image = x = keras.Input((8, 8, 3))
    exits = {}
    for number in range(1, 5):
        features = layers.Conv2D(4, 3, padding="same", activation="relu")(layers.BatchNormalization()(x))
        x = layers.Concatenate()([x, features])
        exits[f"exit_{number}"] = _head(x, f"exit_{number}")
    return ak.AnytimeModel(image, exits)


def multi_scale():
    image = keras.Input((8, 8, 3))
    fine = layers.Conv2D(4, 3, padding="same")(image)
    coarse = layers.Conv2D(6, 3, strides=2, padding="same")(fine)
    exits = {}
    for number in range(1, 5):
        down = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu")(fine)
        fine = layers.Conv2D(4, 3, padding="same", activation="relu")(fine)
        coarse = layers.Concatenate()([layers.Conv2D(6, 3, padding="same", activation="relu")(coarse), down])
        exits[f"exit_{number}"] = _head(coarse, f"exit_{number}")
    return ak.AnytimeModel(image, exits)


def several_inputs():
    """A network that reads its second input from the second exit on, and its first input again at the end."""
    image, facts = keras.Input((8, 8, 3), name="image"), keras.Input((5,), name="facts")
    x = layers.Conv2D(4, 3, activation="relu")(image)
    first = _head(x, "first")
    x = layers.Conv2D(4, 3, activation="relu")(x)
    both = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), facts])
    second = layers.Dense(3, name="second")(both)
    third = layers.Dense(3, name="third")(layers.Concatenate()([both, layers.Flatten()(image)]))
    return ak.AnytimeModel({"image": image, "facts": facts}, {"first": first, "second": second, "third": third})


def eleven_exits(count=11):
    """A chain of layers; sorted by name, `exit_10` comes before `exit_2`."""
    features = x = keras.Input((4,))
    exits = {}
    for number in range(1, count + 1):
        x = layers.Dense(6, activation="relu")(x)
        exits[f"exit_{number}"] = layers.Dense(3, name=f"exit_{number}")(x)
    return ak.AnytimeModel(features, exits)


def two_exits(inputs, x):
    """Exits on features that are computed from `inputs`."""
    early = layers.Dense(3, name="early")(x)
    return ak.AnytimeModel(inputs, {"early": early, "late": layers.Dense(3, name="late")(layers.Dense(8, "relu")(x))})


class Positions(layers.Layer):
    """Adds a constant tensor that is too large for TensorFlow to copy it into a graph."""

    def build(self, input_shape):
        self.positions = keras.ops.convert_to_tensor(np.linspace(0, 1, 300, dtype="float32"))

    def call(self, x):
        return x + self.positions


class Counter(layers.Layer):
    """Counts its calls."""

    def build(self, input_shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x):
        self.calls.assign_add(1.0)
        return x + self.calls


class Noise(layers.Layer):
    def __init__(self):
        super().__init__()
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, x):
        return x + keras.random.normal((4,), seed=self.seed_generator)


def string_lookup():
    words = keras.Input((), dtype="string", name="words")
    found = layers.StringLookup(vocabulary=["a", "b"], name="lookup")(words)
    return two_exits(words, layers.Embedding(4, 4)(found)), np.array(["a", "none"])


def integer_lookup():
    numbers = keras.Input((), dtype="int64", name="numbers")
    found = layers.IntegerLookup(vocabulary=[5, 7], name="lookup")(numbers)
    return two_exits(numbers, layers.Embedding(4, 4)(found)), np.array([7, 9])


def text_vectorization():
    texts = keras.Input((), dtype="string", name="texts")
    words = layers.TextVectorization(vocabulary=["hi", "you"], output_sequence_length=4, name="lookup")(texts)
    x = layers.GlobalAveragePooling1D()(layers.Embedding(5, 4)(words))
    return two_exits(texts, x), np.array(["hi you", "none"])


def positions():
    features = keras.Input((300,), name="features")
    return two_exits(features, Positions()(features)), np.ones((2, 300), "float32")


GRAPHS = [residual, dense, multi_scale, several_inputs, eleven_exits]


def inputs_for(model, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {tensor.name: rng.normal(size=(batch, *tensor.shape[1:])).astype("float32") for tensor in model.inputs}
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


class Callback(layers.Layer):
    """Passes its input through a Python function in each call."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            result = tf.numpy_function(self.function, [x], tf.float32)
            result.set_shape(x.shape)
            return result
        import jax

        return jax.pure_callback(lambda x: self.function(np.asarray(x)), jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    def compute_output_shape(self, input_shape):
        return input_shape


def chain(functions):
    """A network of a dense layer, a callback and an exit for each function."""
    features = x = keras.Input((4,))
    exits = {}
    for number, function in enumerate(functions, 1):
        x = Callback(function)(layers.Dense(6, activation="tanh")(x))
        exits[f"exit_{number}"] = layers.Dense(3, name=f"exit_{number}")(x)
    return ak.AnytimeModel(features, exits)


def assert_same(ours, theirs):
    """Asserts equal bits; on JAX up to rounding, because XLA fuses stages differently."""
    if keras.backend.backend() == "tensorflow":
        np.testing.assert_array_equal(ours, theirs)
    else:
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
