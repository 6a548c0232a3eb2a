"""AdaLoss in NumPy, written from the paper (equation 7, sections C.1 and C.2), independent of the library."""

import numpy as np


class Reference:
    def __init__(self, num_exits, gamma, momentum, update_period=1, final_extra=0.0):
        self.gamma, self.momentum, self.update_period, self.final_extra = gamma, momentum, update_period, final_extra
        self.weights, self.averages, self.batches = np.ones(num_exits), None, 0

    def step(self, losses):
        """Updates the state with a batch's losses; returns the weighted loss of the batch."""
        losses = np.asarray(losses, "float64")
        total = float(np.sum(self.weights * losses))
        if not np.isfinite(losses).all():
            return total
        if self.averages is None:
            self.averages = losses
        else:
            self.averages = self.momentum * self.averages + (1 - self.momentum) * losses
        self.batches += 1
        if self.batches % self.update_period == 0:
            inverse = 1 / self.averages
            inverse = inverse / inverse.max()
            inverse[-1] += self.final_extra
            inverse = inverse / inverse.max()
            self.weights = inverse * (1 - self.gamma) + self.gamma
        return total


def train(model, batches, reference, loss, learning_rate, user_weights=None):
    """Trains with plain Keras and constant weights that the reference sets before each batch.

    Returns a list of (losses of the exits, total, averages, weights) a batch.
    """
    import keras

    history = []
    for x, y in batches:
        used = reference.weights * (1.0 if user_weights is None else np.asarray(user_weights))
        model.compile(
            keras.optimizers.SGD(learning_rate),
            loss=loss,
            loss_weights=[float(weight) for weight in used],
            run_eagerly=True,
        )
        logs = model.train_on_batch(x, y, return_dict=True)
        losses = [float(logs[f"{name}_loss"]) for name in model.exit_names]
        reference.step(losses)
        history.append((losses, float(logs["loss"]), reference.averages.copy(), reference.weights.copy()))
    return history
