"""One device, or those of JAX: where Keras's own `fit` trains."""

import contextlib

import keras
from keras import ops


class OneDevice:
    """Trains on one device; and what else a place to train may have to do, which here is nothing.

    Attributes:
        name: str, as `choose` knows it.
        replicas: int, how many share each batch.
        is_chief: bool, whether this process is the one that writes.
    """

    name, replicas, is_chief = "none", 1, True

    def check(self, recipe):
        """Raises ValueError if a recipe cannot be trained here as on one device."""

    def check_data(self, data, recipe):
        """Raises ValueError if a recipe cannot be trained here on the images of a `DataSet`."""
        if recipe.minutes is None and data.steps_per_epoch % recipe.steps_per_execution:
            # Keras would run into the next epoch's batches, since those come without end.
            raise ValueError(
                "`steps_per_execution` must divide the steps of an epoch. "
                f"Received: steps_per_execution={recipe.steps_per_execution}, {data.steps_per_epoch} steps an epoch "
                f"({data.sizes['train']} images in batches of {data.batch_size})."
            )

    def scope(self):
        """A context manager; what a training changes must be made in it."""
        return contextlib.nullcontext()

    def prepare(self, model):
        """Makes a compiled model, made in the scope, train as it would on one device."""

    def fit(self, model, data, plan, callbacks):
        """Trains a model; returns Keras's `History`.

        Args:
            model: compiled model, prepared.
            data: `DataSet`.
            plan: `Plan`.
            callbacks: list of Keras callbacks.
        """
        if keras.backend.backend() == "tensorflow":  # on JAX Keras itself makes it before
            make_state(model, data)
        return model.fit(
            plan.stream(data),
            steps_per_epoch=plan.steps,
            validation_data=plan.validation,
            epochs=plan.end,
            initial_epoch=plan.first,
            callbacks=callbacks,
            verbose=0,
            shuffle=False,
        )

    def any(self, flag):
        """Whether the flag is set in any process of the training."""
        return flag

    def agree(self, what):
        """Raises ValueError unless all processes of the training begin with the same, as JSON; waits for them."""

    def leave(self):
        """Waits until all processes have done their work, so that none takes another's end for its death."""

    def alone(self, model, build):
        """Returns the trained model on one device, for use without the others.

        Args:
            model: the model in training.
            build: function that makes such a model, compiled.
        """
        return model


class JaxDevices(OneDevice):
    """Trains on all devices of a JAX process, by `keras.distribution.DataParallel`: one program over global batches.

    Args:
        device_mesh: `keras.distribution.DeviceMesh`, or None for all devices.
    """

    name = "data_parallel"

    def __init__(self, device_mesh=None):
        self.distribution = _Shared(device_mesh)
        self.replicas = int(self.distribution.device_mesh.devices.size)

    def scope(self):
        return self.distribution.scope()

    def prepare(self, model):
        model.train_step, model.test_step = self._dividing(model.train_step), self._dividing(model.test_step)

    def _dividing(self, step):
        def divided(state, batch):
            return step(state, keras.tree.map_structure(self.distribution.divide, batch))

        return divided

    def fit(self, model, data, plan, callbacks):
        with self.scope():
            return super().fit(model, data, plan, callbacks)

    def alone(self, model, build):
        return copied(model, build)


class _Shared(keras.distribution.DataParallel):
    """Data parallelism that also takes batches which the devices cannot share evenly.

    Keras 3.15 lays out every batch as the first one, and JAX places no array whose length the devices do not divide.
    So each device is given the whole batch and the compiled step divides it; where it cannot, each device computes
    all of it, which gives the same.
    """

    def get_data_layout(self, data_shape):
        return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)

    def divide(self, array):
        if array is None or array.shape[0] % self.device_mesh.devices.size:
            return array
        return keras.distribution.distribute_tensor(array, super().get_data_layout(array.shape))


def make_state(model, data):
    """Makes the variables of loss, metrics and optimizer before the first step.

    Within a step that replicas run they cannot be made; and a step that makes variables is traced twice by TensorFlow.
    """
    images = ops.zeros((1, *data.image_shape))
    labels = ops.zeros((1, data.num_classes)) if data.one_hot else ops.zeros((1,), "int32")
    with keras.StatelessScope([(variable, ops.convert_to_tensor(variable)) for variable in model.variables]):
        outputs = keras.tree.map_structure(lambda output: ops.zeros((1, *output.shape[1:]), output.dtype), model.output)
        model.compute_loss(images, labels, outputs, training=False)
        model.compute_metrics(images, labels, outputs)
    if not model.optimizer.built:  # a checkpoint may be restored; Keras's loss scaling would begin anew
        model.optimizer.build(model.trainable_variables)


def copied(model, build):
    """Returns a new model, made by `build`, with a model's weights and those of its optimizer."""
    copy = build()
    copy.set_weights(model.get_weights())
    copy.optimizer.build(copy.trainable_variables)
    for own, trained in zip(copy.optimizer.variables, model.optimizer.variables):
        own.assign(ops.convert_to_numpy(trained))
    return copy
