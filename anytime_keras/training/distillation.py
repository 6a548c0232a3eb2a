"""Self-distillation: earlier exits also learn from the predictions of the last one.

Reference: [Zhang et al., 2019](https://arxiv.org/abs/1905.08094), without the part on features; the loss is that of
[Hinton et al., 2015](https://arxiv.org/abs/1503.02531).
"""

import math

import keras
from keras import ops

from anytime_keras._checks import check_number


@keras.saving.register_keras_serializable(package="anytime_keras")
class DistilledLoss(keras.losses.Loss):
    """A classification loss plus the divergence from a teacher: `loss + weight * T^2 * KL`.

    KL is the divergence of `softmax(logits / T)` from `softmax(teacher / T)`. The teacher's logits are appended to the
    labels, in one tensor of shape `(batch, labels + classes)`. With plain labels, only the loss is computed.

    Args:
        loss: `keras.losses.Loss` on logits; labels are ints or one-hot vectors.
        weight: float, 0 or more.
        temperature: float above 0, T. Above 1, the teacher's less likely classes count more.
    """

    def __init__(self, loss, weight=1.0, temperature=1.0, name="distilled", **kwargs):
        super().__init__(name=name, **kwargs)
        check_number("weight", weight, "0 or more", lambda value: 0 <= value < math.inf)
        check_number("temperature", temperature, "above 0", lambda value: 0 < value < math.inf)
        self.loss, self.weight, self.temperature = loss, weight, temperature

    def call(self, y_true, y_pred):
        classes = y_pred.shape[-1]
        if len(y_true.shape) < 2 or y_true.shape[-1] <= classes:
            return self.loss.call(y_true, y_pred)
        labels, teacher = y_true[..., :-classes], y_true[..., -classes:]
        theirs = ops.log_softmax(teacher / self.temperature)
        ours = ops.log_softmax(y_pred / self.temperature)
        divergence = ops.sum(ops.exp(theirs) * (theirs - ours), axis=-1)  # (batch,)
        return self.loss.call(labels, y_pred) + self.weight * self.temperature**2 * divergence

    def get_config(self):
        own = {"loss": keras.losses.serialize(self.loss), "weight": self.weight, "temperature": self.temperature}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "loss": keras.losses.deserialize(config["loss"])})


def distilled_loss(loss, arguments):
    """Returns the loss of an exit that learns from the last one."""
    try:
        return DistilledLoss(loss, **arguments)
    except TypeError as error:
        raise ValueError(
            f"`distillation` takes `weight` and `temperature`. Received: distillation={arguments!r}."
        ) from error


def teach(model):
    """Makes a model pass the last exit's logits to the `DistilledLoss` of the other exits in training.

    Validation and `evaluate` compute the plain loss.
    """
    plain, teacher = model.compute_loss, model.exit_names[-1]

    def compute_loss(x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if training:
            logits = ops.cast(ops.stop_gradient(y_pred[teacher]), "float32")
            labels = ops.cast(y if len(y.shape) > 1 else ops.expand_dims(y, -1), "float32")
            taught = ops.concatenate([labels, logits], axis=-1)
            y = {name: y if name == teacher else taught for name in model.exit_names}
        return plain(x, y, y_pred, sample_weight, training)

    model.compute_loss = compute_loss
