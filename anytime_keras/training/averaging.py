"""The moving average of the weights, which Keras's optimizers keep. It is evaluated in addition to the weights."""

import itertools

import keras
from keras import ops

from anytime_keras._lazy import jax, tf

STEPS = 100  # after which nothing of the old statistics remains, with batch normalisation's momentum of 0.9


class KeptWeights(keras.callbacks.Callback):
    """Keeps the weights of the last epoch, which Keras's `fit` overwrites with their averages when it ends."""

    def on_epoch_end(self, epoch, logs=None):
        self._values = [ops.convert_to_numpy(variable) for variable in self.model.trainable_variables]

    def on_train_end(self, logs=None):
        for variable, value in zip(self.model.trainable_variables, self._values):
            variable.assign(value)


def averaged(model, recipe, data, steps=STEPS):
    """Returns a copy of a model with its optimizer's moving averages as weights.

    The statistics of batch normalisation belong to the original weights, so they are computed anew on training batches.
    """
    copy = recipe.build_model(data)
    copy.set_weights(model.get_weights())
    model.optimizer.finalize_variable_values(copy.trainable_variables)
    copy.optimizer.build(copy.trainable_variables)  # without its variables, Keras warns when the file is loaded
    refresh_statistics(copy, itertools.islice(iter(data.training_stream()), steps))
    return copy


def refresh_statistics(model, batches):
    """Passes batches of (images, labels) through a model in training mode, which updates statistics but no weights."""
    if keras.backend.backend() == "tensorflow":
        forward = tf.function(lambda images: model(images, training=True), reduce_retracing=True)
        for images, _ in batches:
            forward(images)
        return

    @jax.jit
    def forward(trainable, others, images):
        return model.stateless_call(trainable, others, images, training=True)[1]

    trainable = [variable.value for variable in model.trainable_variables]
    others = [variable.value for variable in model.non_trainable_variables]
    for images, _ in batches:
        others = forward(trainable, others, images)
    for variable, value in zip(model.non_trainable_variables, others):
        variable.assign(value)
