"""How often a prediction gets worse from an exit to a later one."""

import numpy as np

FALLS = (0.01, 0.05, 0.1)


class Monotonicity:
    """Counts the samples whose prediction gets worse from an exit to a later one, as returned by `Curve.monotonicity`.

    The measure is that of [Jazbec et al., NeurIPS 2023](https://arxiv.org/abs/2306.02652): the probability of the true
    class should not fall. Probabilities are those after temperatures, if there are any, as `Predictor` returns them.

    Args:
        samples: `Samples`.
        name: str, the network's name.

    Attributes:
        falls: dict from 0.01, 0.05 and 0.1 to the share of samples for which the probability of the true class falls by
            more than that, from any exit to any later one.
        lost: float, the share of samples that some exit classifies correctly and the last exit does not.
        flips: float, the share of samples that some exit classifies correctly and some later exit does not.
        accuracies: dict from exit name to accuracy, from 0 to 1.

    Example:
    >>> from anytime_keras.evaluation import Samples
    >>> logits = np.log([[[0.75, 0.25], [0.5, 0.5]], [[0.72, 0.28], [0.2, 0.8]]])
    >>> found = Monotonicity(Samples.of(["exit_1", "exit_2"], logits, labels=np.array([0, 1])))
    >>> found.falls, found.lost, found.accuracies
    ({0.01: 0.5, 0.05: 0.0, 0.1: 0.0}, 0.0, {'exit_1': 0.5, 'exit_2': 1.0})
    """

    def __init__(self, samples, name=""):
        best = np.maximum.accumulate(samples.best_true, axis=0)
        largest = (best - samples.best_true).max(axis=0)
        self.name = name
        self.falls = {share: float((largest > share).mean()) for share in FALLS}
        ever = np.logical_or.accumulate(samples.correct, axis=0)
        wrong_again = ever & ~samples.correct
        self.lost, self.flips = float(wrong_again[-1].mean()), float(wrong_again.any(axis=0).mean())
        self.accuracies = dict(zip(samples.exit_names, samples.correct.mean(axis=1).tolist()))

    def __repr__(self):
        falls = ", ".join(f"{share:g}: {value:.2%}" for share, value in self.falls.items())
        return f"Monotonicity({self.name!r}, falls {falls}; lost {self.lost:.2%}, flips {self.flips:.2%})"
