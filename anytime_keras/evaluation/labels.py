"""Labels of a classifier: one class for each sample, as an int or a one-hot row."""

import numpy as np

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
