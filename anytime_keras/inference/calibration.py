"""Calibration on validation data: selecting useful exits and fitting temperatures."""

import numpy as np

from anytime_keras.inference.answers import as_logits


def better_exits(logits, labels, weights=None):
    """Lists the exits with fewer errors than all earlier ones; the remaining exits never improve the prediction.

    This applies the rule by which an EANN selects among its networks (Hu et al., AAAI 2019, section 4) to exits.

    Args:
        logits: array of shape `(exits, samples, classes)`.
        labels: int array of shape `(samples,)`.
        weights: array of shape `(samples,)`, sample weights; None weighs all samples equally.

    Returns:
        A list of positions, which always includes the first.

    >>> better_exits(np.array([[[1, 0], [1, 0]], [[1, 0], [1, 0]], [[1, 0], [0, 1]]]), np.array([0, 1]))
    [0, 2]
    """
    errors = np.average(logits.argmax(axis=-1) != labels, axis=1, weights=weights)
    return [position for position in range(len(errors)) if position == 0 or errors[position] < errors[:position].min()]


def fit_temperature(logits, labels, weights=None):
    """Fits the temperature that minimizes the negative log-likelihood of the labels.

    Reference: [Guo et al., 2017](https://arxiv.org/abs/1706.04599), section 4.2.

    Args:
        logits: array of shape `(samples, classes)`.
        labels: int array of shape `(samples,)`, or probabilities of shape `(samples, classes)`.
        weights: array of shape `(samples,)`, sample weights; None weighs all samples equally.

    Returns:
        A float from 0.01 to 100, by which to divide the logits.

    >>> logits = np.log(np.array([[0.75, 0.25]] * 4))
    >>> round(fit_temperature(10 * logits, np.array([0, 0, 0, 1])), 3)
    10.0
    """
    logits = as_logits(np.asarray(logits, "float64"))
    chosen = logits[np.arange(len(labels)), labels] if np.ndim(labels) == 1 else (labels * logits).sum(axis=1)
    low, high = np.log(0.01), np.log(100.0)
    # The log-likelihood is concave in 1 / temperature, so bisect for the root of its slope.
    for _ in range(50):
        middle = (low + high) / 2
        scaled = logits / np.exp(middle)
        shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        expected = (shares * logits).sum(axis=1) / shares.sum(axis=1)
        if np.average(expected - chosen, weights=weights) > 0:  # overconfident
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))
