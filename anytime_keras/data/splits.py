"""Holds out examples, stratified by class and reproducibly by a seed."""

import numbers

import numpy as np


def hold_out(labels: np.ndarray, amount: float, seed: int | list[int], what: str) -> tuple[np.ndarray, np.ndarray]:
    """Selects a fraction or a number of examples to hold out, stratified by class.

    Returns the sorted indices kept and held out. Every class keeps at least one example. Raises ValueError, which names
    the split `what`, if nothing would be kept or held out.
    """
    wanted = number(amount, len(labels), what)
    rng = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    shares = wanted * counts / len(labels)
    taken = np.floor(shares).astype(int)
    rest = np.argsort(-(shares - taken), kind="stable")[: wanted - taken.sum()]
    taken[rest] += 1
    taken = np.minimum(taken, counts - 1)
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:number] for label, number in zip(classes, taken)]
    held = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(labels)), held), held


def number(amount: float, available: int, what: str) -> int:
    """Converts a fraction or a number of examples to a number, or raises; see `hold_out`."""
    whole = isinstance(amount, numbers.Integral)
    share = isinstance(amount, numbers.Real) and not whole and 0 < amount < 1
    wanted = int(amount) if whole else round(amount * available) if share else 0
    if isinstance(amount, bool) or not 0 < wanted < available:
        raise ValueError(
            f"`{what}` must be a fraction between 0 and 1, or a number of examples below that of the training images. "
            f"Received: {what}={amount!r} with {available} training images."
        )
    return wanted
