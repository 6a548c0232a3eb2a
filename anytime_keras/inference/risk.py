"""Confidence thresholds with a guarantee on what early exit costs in errors.

Reference: [Jazbec, Timans, Hadži Veljković, Sakmann, Zhang, Naesseth, Nalisnick, NeurIPS
2024](https://arxiv.org/abs/2405.20915), "Fast yet Safe: Early-Exiting with Risk Control".

The risk of a threshold is the mean loss of the answers that exit early by it, minus the mean loss of the last exit's
answers. Thresholds are tested from the highest down, each with the null hypothesis that its risk exceeds the tolerated
risk, until the first test fails (fixed-sequence testing, as in "Learn then Test", Angelopoulos et al., 2021). As the
sequence does not depend on the data, the last threshold that passes keeps the risk with the given confidence, even if
the risk is not monotone in the threshold. The test is the betting test of Waudby-Smith and Ramdas (2024), which the
paper uses for its upper confidence bounds.
"""

import bisect

import numpy as np

from anytime_keras._checks import check_number
from anytime_keras.evaluation.samples import class_numbers
from anytime_keras.inference.answers import probabilities
from anytime_keras.inference.early_exit import NEVER_SURE, exit_positions

LOSSES = ("error", "consistency")
# In descending order, and dense near 1, where the confidence of most samples lies. At 0, all take the first exit.
THRESHOLDS = np.concatenate([1 - np.geomspace(1e-6, 0.05, 60), np.linspace(0.945, 0, 190)])
LARGEST_BET = 0.75  # as a fraction of the bet that could lose everything


def exit_losses(loss, logits, temperatures, labels, sigmoid=None):
    """Returns the loss of the answer of each exit for each sample, shape `(exits, samples)`.

    Args:
        loss: `"error"`, 1 for a wrong class; `"consistency"`, 1 for a class other than the last exit's; or a function
            of the probabilities, shape `(samples, classes)`, and the labels, that returns a number from 0 to 1 for each
            sample.
        logits: array of shape `(exits, samples, classes)`.
        temperatures: list of float, one for each exit.
        labels: int array of shape `(samples,)`; `"consistency"` does not use them.
        sigmoid: list of bool, whether each exit ends in a sigmoid; None if none does.

    Raises:
        ValueError: if a function's values are not numbers from 0 to 1.

    >>> logits = np.array([[[2.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    >>> exit_losses("error", logits, [1.0, 1.0], np.array([0, 1])).tolist()
    [[0.0, 0.0], [1.0, 0.0]]
    >>> exit_losses("consistency", logits, [1.0, 1.0], None).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    if loss == "error":
        return (logits.argmax(axis=-1) != labels).astype(float)
    if loss == "consistency":
        classes = logits.argmax(axis=-1)
        return (classes != classes[-1]).astype(float)
    each = zip(logits, temperatures, sigmoid or [False] * len(logits))
    losses = [np.asarray(loss(probabilities(*of_exit), labels), float) for of_exit in each]
    for values in losses:
        if values.shape != labels.shape or not ((values >= 0) & (values <= 1)).all():
            raise ValueError(
                f"`loss` must return a number from 0 to 1 for each of {len(labels)} samples. Received: shape "
                f"{values.shape}, values from {values.min()} to {values.max()}."
            )
    return np.stack(losses)


def safe_threshold(confidences, losses, risk, confidence=0.95, thresholds=THRESHOLDS):
    """Returns the lowest threshold in the sequence up to which all tests pass.

    Args:
        confidences: array of shape `(exits, samples)`, on validation data that are exchangeable with those to come.
        losses: array of shape `(exits, samples)`, from 0 to 1; see `exit_losses`.
        risk: float from 0 to 1, exclusive: the tolerated excess of the mean loss over the last exit's.
        confidence: float from 0 to 1, exclusive: the probability, over validation sets, that the risk is kept.
        thresholds: floats in descending order, chosen without these data.

    Returns:
        A float; `NEVER_SURE`, by which all samples take the last exit, if no threshold passes.

    Raises:
        ValueError: if there are too few samples for any threshold to pass.

    >>> rng = np.random.default_rng(0)
    >>> sure = rng.uniform(size=(2, 5000))
    >>> losses = np.stack([rng.uniform(size=5000) > 0.8 + 0.2 * sure[0], np.zeros(5000)]).astype(float)
    >>> 0.5 < safe_threshold(sure, losses, risk=0.02) < 1  # exact: the risk is 0.02 at a threshold of 0.55
    True
    """
    check_risk(risk, confidence)
    count = losses.shape[1]
    if not passes(np.zeros(count), risk, confidence):
        raise ValueError(
            f"`validation` is too small for risk={risk} at confidence={confidence}: with {count} samples, no threshold "
            f"can be tested successfully. Needed: {least_samples(risk, confidence)} samples or more, and several times "
            "that for a useful threshold. Pass more samples, a larger `risk` or a smaller `confidence`."
        )
    order = np.random.default_rng(0).permutation(count)  # the test reads samples one by one, in an arbitrary order
    confidences, excess = confidences[:, order], (losses - losses[-1])[:, order]
    lowest, before, passed = NEVER_SURE, None, False
    for threshold in thresholds:
        positions = exit_positions(confidences, threshold)
        if before is None or not np.array_equal(positions, before):
            before, passed = positions, passes(excess[positions, np.arange(count)], risk, confidence)
        if not passed:
            break
        lowest = float(threshold)
    return lowest


def lowest_within(confidences, losses, max_drop):
    """Returns the lowest threshold down to which the mean loss exceeds the last exit's by at most `max_drop`.

    This holds on the given samples and carries no guarantee for others; see `safe_threshold`.

    Args:
        confidences, losses: as in `safe_threshold`.
        max_drop: float from 0 to 1.

    >>> lowest_within(np.array([[0.9, 0.3], [1.0, 1.0]]), np.array([[0.0, 1.0], [0.0, 0.0]]), 0.0) > 0.3
    True
    """
    lowest, samples = NEVER_SURE, np.arange(losses.shape[1])
    for threshold in THRESHOLDS:
        drop = (losses[exit_positions(confidences, threshold), samples] - losses[-1]).mean()
        if drop > max_drop + 1e-12:
            break
        lowest = float(threshold)
    return lowest


def passes(excess, risk, confidence):
    """Tests whether the mean of `excess` is below `risk`, by betting on each sample (Waudby-Smith and Ramdas, 2024).

    If the mean is `risk` or more, the wealth of a gambler who bets on smaller values grows beyond `1 / (1 -
    confidence)` with a probability of at most `1 - confidence` (Ville's inequality). Values may be negative, since only
    those above `risk` lose the bet.

    Args:
        excess: array of shape `(samples,)`, independent and at most 1, in an arbitrary order.
        risk, confidence: as in `safe_threshold`.

    >>> passes(np.zeros(1000), 0.01, 0.95), passes(np.zeros(100), 0.01, 0.95)
    (True, False)
    """
    seen = np.arange(1, len(excess) + 1)
    means = (np.cumsum(excess) + 0.5) / (seen + 1)
    variances = (np.cumsum((excess - means) ** 2) + 0.25) / (seen + 1)
    known = np.concatenate([[0.25], variances[:-1]])  # a bet must not know the sample it is on
    goal = np.log(1 / (1 - confidence))
    bets = np.minimum(np.sqrt(2 * goal / len(excess) / known), LARGEST_BET / (1 - risk))
    return bool(np.cumsum(np.log1p(bets * (risk - excess))).max() >= goal)


def least_samples(risk, confidence):
    """Returns the number of samples from which a threshold can pass, if none of them has a loss.

    >>> least_samples(risk=0.01, confidence=0.95)
    402
    """
    enough = 1
    while not passes(np.zeros(enough), risk, confidence):
        enough *= 2
    return bisect.bisect_left(range(enough), True, enough // 2 + 1, key=lambda n: passes(np.zeros(n), risk, confidence))


def check_risk(risk, confidence):
    """Raises a ValueError unless `risk` and `confidence` are fractions between 0 and 1."""
    for name, value in (("risk", risk), ("confidence", confidence)):
        check_number(name, value, "between 0 and 1", lambda number: 0 < number < 1)


def check_targets(kind, targets, confidence, loss):
    """Raises a ValueError if the arguments of `Predictor.fit_thresholds` are not valid for a risk or a drop."""
    if not np.size(targets):
        raise ValueError(f"`{kind}` must be a number or a list with at least one. Received: {kind}={targets!r}.")
    for target in np.ravel(np.asarray(targets, object)):
        if kind == "risk":
            check_risk(target, confidence)
        else:
            check_number("max_drop", target, "from 0 to 1, as a fraction", lambda number: 0 <= number < 1)
    if loss not in LOSSES and not callable(loss):
        raise ValueError(f"`loss` must be one of {LOSSES} or a function. Received: loss={loss!r}.")


def fit(state, logits, labels, weights, kind, targets, confidence, loss):
    """Fits the threshold of each target for the exits and temperatures of a predictor's state.

    Returns:
        A dict from each target to its threshold, and a list of entries to store with the model.
    """
    if weights is not None:
        raise ValueError("Thresholds for a risk or a drop need samples of equal weight. Received: sample weights.")
    if kind == "max_drop" or loss != "consistency":
        labels = class_numbers(labels, logits.shape[1:], state.stages.exit_names[0])
    sure = state.confidences(logits)
    loss_of = "error" if kind == "max_drop" else loss
    losses = exit_losses(loss_of, logits, state.temperatures, labels, state.engine.sigmoid)
    of_state = {"exits": list(state.stages.exit_names), "temperatures": list(state.temperatures)}
    fitted, entries = {}, []
    for target in map(float, np.ravel(np.asarray(targets, object))):
        if kind == "risk":
            fitted[target] = safe_threshold(sure, losses, target, confidence)
            about = {"confidence": float(confidence), "loss": loss if isinstance(loss, str) else "custom"}
        else:
            fitted[target], about = lowest_within(sure, losses, target), {}
        entries.append({kind: target, "threshold": fitted[target], **about, "samples": len(losses[0]), **of_state})
    return fitted, entries
