"""The answers that predictors return."""

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass
class Answer:
    """The output of one exit for a batch.

    Attributes:
        logits: array of shape `(batch, classes)`.
        exit: str, the exit's name.
        position: int, the exit's index among the predictor's exits, from 0.
        seconds: float, time from the call until the answer was ready.
        late: bool, whether the answer missed the deadline or exceeded the budget.
        temperature: float by which logits are divided for `probabilities`.
        sigmoid: bool, whether the exit ends in a sigmoid. `logits` are then independent probabilities.

    Example:
    >>> answer = Answer(np.array([[0.0, 2.0, 1.0]]), exit="exit_1", position=0, seconds=0.002)
    >>> answer.classes.tolist(), f"{answer.confidence[0]:.0%} sure"
    ([1], '67% sure')
    """

    logits: np.ndarray
    exit: str
    position: int
    seconds: float
    late: bool = False
    temperature: float = 1.0
    sigmoid: bool = False

    @functools.cached_property
    def probabilities(self):
        """Array of shape `(batch, classes)`: the softmax of `logits / temperature`, or the sigmoid's outputs."""
        check_classes(self.logits.shape)
        return probabilities(self.logits, self.temperature, self.sigmoid)

    @property
    def confidence(self):
        """The probability of the likeliest class of each sample, shape `(batch,)`."""
        return self.probabilities.max(axis=-1)

    @property
    def classes(self):
        """The likeliest class of each sample, an int array of shape `(batch,)`."""
        check_classes(self.logits.shape)
        return self.logits.argmax(axis=-1)


@dataclasses.dataclass
class BatchAnswer:
    """The result of `Predictor.predict_batch`, in the order of the input samples.

    Attributes:
        logits: array of shape `(samples, classes)`.
        exits: list of str, the name of the exit that answered for each sample.
        positions: int array of shape `(samples,)`, the indices of those exits among the predictor's, from 0.
        confidence: array of shape `(samples,)`, the probability of the likeliest class.
        average_macs: float, average multiply-accumulates per sample, excluding padding. Exceeds the average cost of
            `exits` if confident samples could not be removed from the batch.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.zoo.load("resann2x16_adaloss_digits")
    >>> images, labels = next(iter(ak.data.load("digits").test))
    >>> predictor = ak.Predictor(model, example=images[:1])
    >>> answer = predictor.predict_batch(images, confidence=0.9)
    >>> len(answer.exits), answer.average_macs < model.exits[-1].macs
    (128, True)
    """

    logits: np.ndarray
    exits: list
    positions: np.ndarray
    confidence: np.ndarray
    average_macs: float

    @property
    def classes(self):
        """The likeliest class of each sample, an int array of shape `(samples,)`."""
        return self.logits.argmax(axis=-1)


def probabilities(logits, temperature=1.0, sigmoid=False):
    """Returns the softmax of `logits / temperature` over the last axis; sigmoid outputs are returned unchanged.

    Outputs that are already probabilities (they sum to one) are converted to logits by taking their logarithm.

    >>> probabilities(np.log([[1.0, 3.0]])).tolist()
    [[0.25, 0.75]]
    >>> probabilities([[0.2, 0.8]], temperature=0.5).round(2).astype(float).round(2).tolist()
    [[0.06, 0.94]]
    """
    logits = np.asarray(logits, "float32")
    if sigmoid:
        return logits
    logits = as_logits(logits) / temperature
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def check_classes(shape, where="an exit"):
    """Raises a ValueError unless an exit's output shape is `(samples, classes)` with at least two classes."""
    if len(shape) != 2 or (shape[1] is not None and shape[1] < 2):
        raise ValueError(
            "Confidence and classes need one output for each of two classes or more, shape (batch, classes). "
            f"Received: shape {tuple(shape)} from {where}. Use the `logits` of `predict`, or end in such a layer."
        )


def as_logits(outputs):
    """Returns the logarithm of outputs that are probabilities, and other outputs unchanged."""
    if outputs.size and (outputs >= 0).all() and np.abs(outputs.sum(axis=-1) - 1).max() < 1e-3:
        return np.log(np.maximum(outputs, 1e-30))
    return outputs


def as_array(tensor):
    """Converts a tensor to a NumPy array, in float32 if its dtype is not a NumPy float."""
    import keras  # here, because readers of exported networks have no Keras

    array = tensor if isinstance(tensor, np.ndarray) else np.asarray(keras.ops.convert_to_numpy(tensor))
    return array if array.dtype.kind == "f" else array.astype("float32")
