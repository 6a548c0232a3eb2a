"""Training with Keras's `fit`: on one device, or on all devices of a JAX process."""

import contextlib

import keras
from keras import ops


class OneDevice:
    """Trains on one device. Multi-device strategies override its hooks.

    `replicas` is the number of devices that share each batch; `is_chief`, whether this process writes files.
    """

    name, replicas, is_chief = "none", 1, True

    def check(self, recipe):
        """Raises ValueError if the strategy cannot train a recipe as one device would."""

    def check_data(self, data, recipe):
        """Raises ValueError if the strategy cannot train a recipe on a `DataSet`."""
        if recipe.minutes is None and data.steps_per_epoch % recipe.steps_per_execution:
            # The stream of batches is endless, so Keras would read batches of the next epoch.
            raise ValueError(
                "`steps_per_execution` must divide the steps of an epoch. "
                f"Received: steps_per_execution={recipe.steps_per_execution}, {data.steps_per_epoch} steps per epoch "
                f"({data.sizes['train']} images in batches of {data.batch_size})."
            )

    def scope(self):
        """Returns a context manager in which all variables must be created."""
        return contextlib.nullcontext()

    def prepare(self, model):
        """Changes a compiled model, created in the scope, so that it trains as on one device."""

    def fit(self, model, data, plan, callbacks):
        """Trains a prepared model on a `DataSet` by a `Plan`; returns Keras's `History`."""
        if keras.backend.backend() == "tensorflow":  # on JAX, Keras itself does so
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
        """Returns whether the flag is set in any process."""
        return flag

    def agree(self, what):
        """Waits for all processes; raises ValueError unless they pass equal JSON data."""

    def leave(self):
        """Waits for all processes to finish, so that none mistakes the exit of another for a crash."""

    def alone(self, model, build):
        """Returns the trained model on one device; the function `build` returns a new, compiled one."""
        return model


class JaxDevices(OneDevice):
    """Trains on all devices of a JAX process, or of a `device_mesh`, with `keras.distribution.DataParallel`."""

    name = "data_parallel"

    def __init__(self, device_mesh=None):
        self.distribution = _Shared(device_mesh)
        self.replicas = int(self.distribution.device_mesh.devices.size)

    def scope(self):
        return self.distribution.scope()

    def prepare(self, model):
        def dividing(step):
            return lambda state, batch: step(state, keras.tree.map_structure(self.distribution.divide, batch))

        model.train_step, model.test_step = dividing(model.train_step), dividing(model.test_step)

    def fit(self, model, data, plan, callbacks):
        with self.scope():
            return super().fit(model, data, plan, callbacks)

    def alone(self, model, build):
        return copied(model, build)


class _Shared(keras.distribution.DataParallel):
    """Data parallelism that also accepts batches that do not divide evenly by the number of devices.

    Keras 3.15 uses the layout of the first batch for all batches, and JAX cannot shard an array whose length is not a
    multiple of the number of devices. So each device gets the whole batch, and the compiled step shards it if it can.
    """

    def get_data_layout(self, data_shape):
        return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)

    def divide(self, array):
        if array is None or array.shape[0] % self.device_mesh.devices.size:
            return array
        return keras.distribution.distribute_tensor(array, super().get_data_layout(array.shape))


def make_state(model, data):
    """Creates the variables of loss, metrics and optimizer, which replicas cannot create within a step.

    TensorFlow would trace a step that creates them twice.
    """
    images = ops.zeros((1, *data.image_shape))
    labels = ops.zeros((1, data.num_classes)) if data.one_hot else ops.zeros((1,), "int32")
    with keras.StatelessScope([(variable, ops.convert_to_tensor(variable)) for variable in model.variables]):
        outputs = keras.tree.map_structure(lambda output: ops.zeros((1, *output.shape[1:]), output.dtype), model.output)
        model.compute_loss(images, labels, outputs, training=False)
        model.compute_metrics(images, labels, outputs)
    if not model.optimizer.built:  # else a restored checkpoint would lose its loss scale
        model.optimizer.build(model.trainable_variables)


def copied(model, build):
    """Returns a new model from `build` with the weights and the optimizer state of a model."""
    copy = build()
    copy.set_weights(model.get_weights())
    copy.optimizer.build(copy.trainable_variables)
    for own, trained in zip(copy.optimizer.variables, model.optimizer.variables):
        own.assign(ops.convert_to_numpy(trained))
    return copy
