"""Checks labels, and holds what `evaluate` keeps of each sample: class, confidence, the true class's probability."""

import dataclasses

import keras
import numpy as np

_ARRAYS = ("classes", "confidences", "true", "calibrated", "calibrated_true")  # fields of `Samples`


@dataclasses.dataclass(frozen=True)
class Samples:
    """The answers of all exits for each sample of a data set, without the logits.

    Takes 20 to 36 bytes per sample and exit.

    Attributes:
        exit_names: list of str, earliest first.
        labels: int array of shape `(samples,)`.
        classes: int array of shape `(exits, samples)`, the likeliest class.
        confidences: array of shape `(exits, samples)`, the probability of that class.
        true: array of shape `(exits, samples)`, the probability of the true class.
        calibrated, calibrated_true: the same as `confidences` and `true`, after division of the logits by the exit's
            temperature; None without temperatures.

    Example:
    >>> logits = np.log([[[0.75, 0.25], [0.5, 0.5]], [[0.1, 0.9], [0.2, 0.8]]])
    >>> samples = Samples.of(["exit_1", "exit_2"], logits, labels=np.array([0, 1]))
    >>> samples.classes.tolist(), samples.true.round(2).tolist()
    ([[0, 0], [1, 1]], [[0.75, 0.5], [0.1, 0.8]])
    >>> samples.correct.tolist()
    [[True, False], [False, True]]
    """

    exit_names: list
    labels: np.ndarray
    classes: np.ndarray
    confidences: np.ndarray
    true: np.ndarray
    calibrated: np.ndarray | None = None
    calibrated_true: np.ndarray | None = None

    @classmethod
    def of(cls, exit_names, logits, labels, temperatures=None):
        """Computes samples from outputs.

        Args:
            exit_names: list of str.
            logits: array of shape `(exits, samples, classes)`: logits or probabilities.
            labels: array of ints or one-hot rows.
            temperatures: dict from exit name to temperature, 1 where missing; None or empty for none.
        """
        builder = SamplesBuilder(exit_names, temperatures or {})
        builder.add(logits, labels)
        return builder.finish(len(labels))

    @classmethod
    def joined(cls, parts):
        """Joins exits of several networks, measured on the same data, to one `Samples`, or None if a part has none.

        Args:
            parts: list of pairs: `Samples`, and a dict from the names of its exits to keep to their new names.
        """
        if any(samples is None for samples, _ in parts):
            return None

        def stacked(field):
            arrays = [getattr(samples, field) for samples, _ in parts]
            if any(array is None for array in arrays):
                return None
            rows = ([samples.exit_names.index(name) for name in names] for samples, names in parts)
            return np.concatenate([array[chosen] for array, chosen in zip(arrays, rows)])

        names = [new for _, kept in parts for new in kept.values()]
        return cls(names, parts[0][0].labels, *map(stacked, _ARRAYS))

    def take(self, rows):
        """Returns the `Samples` with the given indices, an int array."""
        arrays = [getattr(self, field) for field in _ARRAYS]
        chosen = [None if array is None else array[:, rows] for array in arrays]
        return Samples(self.exit_names, self.labels[rows], *chosen)

    @property
    def correct(self):
        """Bool array of shape `(exits, samples)`, whether the likeliest class is the true one."""
        return self.classes == self.labels

    @property
    def best_confidences(self):
        """The calibrated confidences if there are temperatures, otherwise the exits' own."""
        return self.confidences if self.calibrated is None else self.calibrated

    @property
    def best_true(self):
        """The calibrated probabilities of the true class if there are temperatures, otherwise the exits' own."""
        return self.true if self.calibrated_true is None else self.calibrated_true


class SamplesBuilder:
    """Collects `Samples` batch by batch; for the arguments, see `Samples.of`."""

    def __init__(self, exit_names, temperatures):
        self.exit_names, self._parts = list(exit_names), []
        self._temperatures = [temperatures.get(name, 1.0) for name in exit_names] if temperatures else None

    def add(self, outputs, labels):
        """Adds a batch: one array of shape `(batch, classes)` for each exit, and the labels."""
        labels = class_numbers(keras.ops.convert_to_numpy(labels), np.shape(outputs[0]), self.exit_names[0])
        logs = [log_probabilities(np.asarray(output, "float64")) for output in outputs]
        part = [np.stack([log.argmax(axis=-1).astype("int32") for log in logs]), *_probabilities(logs, labels)]
        if self._temperatures:
            part += _probabilities([log_probabilities(log / t) for log, t in zip(logs, self._temperatures)], labels)
        self._parts.append((labels, part))

    def finish(self, count):
        """Returns the `Samples`, or None unless `count` samples were added."""
        if sum(len(labels) for labels, _ in self._parts) != count:
            return None
        labels = np.concatenate([labels for labels, _ in self._parts])
        arrays = [np.concatenate(arrays, axis=1) for arrays in zip(*(part for _, part in self._parts))]
        return Samples(self.exit_names, labels, *arrays)


def _probabilities(logs, labels):
    """Returns the largest and the true class's probabilities at each exit, two arrays of shape `(exits, samples)`.

    In float64, because float32 cannot order confidences within 1e-7 of 1.
    """
    largest = np.stack([np.exp(log.max(axis=-1)) for log in logs])
    true = np.stack([np.exp(log[np.arange(len(labels)), labels]) for log in logs])
    return largest, true


def log_probabilities(outputs: np.ndarray) -> np.ndarray:
    """Returns the logarithm of the softmax of outputs, or of the outputs themselves if they are probabilities."""
    if (outputs >= 0).all() and np.abs(outputs.sum(axis=1) - 1).max() < 1e-2:
        return np.log(np.maximum(outputs, 1e-12))
    shifted = outputs - outputs.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


ELSEWHERE = "For other networks, use `model.evaluate`, which computes the compiled loss and metrics."


def class_numbers(labels: np.ndarray, shape: tuple, exit_name: str) -> np.ndarray:
    """Returns labels, ints or one-hot rows, as ints of shape `(samples,)`, or raises ValueError if they do not fit.

    `shape` is that of an exit's outputs, `(samples, classes)`.

    >>> class_numbers(np.array([[0, 1, 0], [1, 0, 0]]), (2, 3), "exit_1").tolist()
    [1, 0]
    """
    if len(shape) != 2 or shape[1] < 2:
        raise ValueError(
            "The exits of a classifier must have shape (batch, classes), with two classes or more. Received: shape "
            f"{tuple(shape)} at '{exit_name}'. {ELSEWHERE}"
        )
    labels = np.asarray(labels)
    if labels.shape == tuple(shape):
        one_hot = ((labels == 0) | (labels == 1)).all(axis=1) & (labels.sum(axis=1) == 1)
        if not one_hot.all():
            bad = int(np.argmin(one_hot))
            raise ValueError(
                "Rows of labels must be one-hot, with a single 1. Received: "
                f"{labels[bad].tolist()!s:.60} for sample {bad}. {ELSEWHERE}"
            )
        return labels.argmax(axis=1)
    labels = labels.reshape(-1)
    whole = labels.dtype.kind in "iub" or (labels == np.floor(labels)).all()
    if labels.shape != tuple(shape[:1]) or not whole or labels.min() < 0 or labels.max() >= shape[1]:
        raise ValueError(
            f"Labels must be one class from 0 to {shape[1] - 1} for each of {shape[0]} samples. "
            f"Received: shape {labels.shape}, values from {labels.min()} to {labels.max()}. {ELSEWHERE}"
        )
    return labels.astype(int)
