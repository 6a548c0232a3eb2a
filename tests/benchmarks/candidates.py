"""Weightings that `schemes` compares and that are not part of the library.

Each aims at the accuracy of AdaLoss's late exits without its loss of accuracy at the early ones.
"""

from keras import ops

from anytime_keras.weighting import AdaLossWeighting, adaloss_weights
from anytime_keras.weighting.base import state_variable


class ValidationGamma(AdaLossWeighting):
    """AdaLoss while it pays: gamma, at first 1, is halved (to 0.05 at least) after each epoch in which the last exit's
    validation loss falls to a new minimum, and doubled (to 1 at most) after any other epoch."""

    def build(self, exits):
        super().build(exits)
        self.best = float("inf")
        self._state["gamma"] = state_variable(1.0, (), "float32", "gamma")

    def _gamma_at(self, steps):
        return ops.convert_to_tensor(self._state["gamma"])

    def _choose_gamma(self, loss):
        gamma = float(self._read("gamma"))
        self._state["gamma"].assign(max(gamma / 2, 0.05) if loss < self.best else min(2 * gamma, 1.0))
        self.best = min(loss, self.best)

    def on_epoch_end(self, epoch, logs=None):
        self._choose_gamma(logs[f"val_{self.exit_names[-1]}_loss"])
        super().on_epoch_end(epoch, logs)


class Floor(AdaLossWeighting):
    """Losses below a tenth of the first one count as a tenth: exits that fit the data get equal weights."""

    def _weights_for(self, averages, steps, present):
        floor = 0.1 * ops.convert_to_tensor(self._state["first"])
        return super()._weights_for(ops.maximum(averages, floor), steps, present)


class RemainingLoss(AdaLossWeighting):
    """Weights by the inverse of each loss's distance to its smallest running mean so far, instead of its size."""

    initial_state = {**AdaLossWeighting.initial_state, "smallest": float("inf")}

    def next_state(self, state, losses, statistics):
        found = super().next_state(state, losses, statistics)
        smallest = ops.minimum(state["smallest"], found["averages"])
        # A part of the minimum remains, because no mean stays at it.
        remaining = ops.maximum(found["averages"] - 0.99 * smallest, 1e-4)
        return {**found, "smallest": smallest, "weights": adaloss_weights(remaining, self.gamma)}


class LastExitFirst(AdaLossWeighting):
    """The last exit alone in the first quarter of the batches, then AdaLoss with the last value of gamma."""

    def _weights_for(self, averages, steps, present):
        planned = ops.cast(ops.convert_to_tensor(self._state["planned_steps"]), "float32")
        last = ops.cast(ops.arange(self.num_exits) == self.num_exits - 1, "float32")
        joint = adaloss_weights(averages, self.gamma[-1], present=present)
        return ops.where(ops.cast(steps, "float32") < planned / 4, last, joint)


WEIGHTINGS = {
    "validation_gamma": ValidationGamma,
    "floor": Floor,
    "remaining_loss": RemainingLoss,
    "last_exit_first": LastExitFirst,
}


def teach_by_average(model):
    """Like `distillation.teach`, but the teacher is the mean prediction of the later half of the exits."""
    plain, late = model.compute_loss, model.exit_names[model.num_exits // 2 :]

    def compute_loss(x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if training:
            mean = sum(ops.softmax(ops.cast(y_pred[name], "float32")) for name in late) / len(late)
            teacher = ops.stop_gradient(ops.log(mean + 1e-7))
            labels = ops.cast(y if len(y.shape) > 1 else ops.expand_dims(y, -1), "float32")
            taught = ops.concatenate([labels, teacher], axis=-1)
            y = {name: y if name == late[-1] else taught for name in model.exit_names}
        return plain(x, y, y_pred, sample_weight, training)

    model.compute_loss = compute_loss
