"""Calibration of the exits: whether an answer that is 92% confident is right in 92% of cases."""

import math

import numpy as np

from anytime_keras import _tables
from anytime_keras._checks import check_choice, check_int
from anytime_keras._lazy import style

MOST_PANELS = 4  # per row of a reliability plot


class Calibration:
    """Compares the exits' confidence with their accuracy, as returned by `Curve.calibration`.

    References: [Guo et al., 2017](https://arxiv.org/abs/1706.04599) for the expected calibration error and
    temperatures; [Geifman and El-Yaniv, 2017](https://arxiv.org/abs/1705.08500) for the risk-coverage curve.

    Args:
        samples: `Samples`.
        bins: int, number of intervals of confidence of equal width.
        name: str, the network's name.

    Attributes:
        errors: dict from exit name to its expected calibration error, from 0 to 1: the mean distance between confidence
            and accuracy over the intervals of confidence, weighted by their samples.
        calibrated_errors: the same after temperatures, or None if the network has none.

    Example:
    >>> from anytime_keras.evaluation import Samples
    >>> logits = np.log([[[0.9, 0.1]] * 4, [[0.2, 0.8], [0.8, 0.2], [0.8, 0.2], [0.8, 0.2]]])
    >>> found = Calibration(Samples.of(["exit_1", "exit_2"], logits, labels=np.array([1, 0, 0, 0])))
    >>> {name: round(error, 3) for name, error in found.errors.items()}
    {'exit_1': 0.15, 'exit_2': 0.2}
    >>> [values.tolist() for values in found.risk_coverage("exit_1")]
    [[0.25, 0.5, 0.75, 1.0], [0.25, 0.25, 0.25, 0.25]]
    """

    def __init__(self, samples, bins=15, name=""):
        check_int("bins", bins)
        self._samples, self._bins, self.name = samples, bins, name
        self.errors = self._errors(samples.confidences)
        self.calibrated_errors = None if samples.calibrated is None else self._errors(samples.calibrated)

    def __repr__(self):
        first, last = list(self.errors.values())[0], list(self.errors.values())[-1]
        return f"Calibration({self.name!r}, expected calibration error {first:.2%} to {last:.2%})"

    def _errors(self, confidences):
        pairs = zip(self._samples.exit_names, confidences, self._samples.correct)
        return {name: expected_error(own, correct, self._bins) for name, own, correct in pairs}

    def risk_coverage(self, exit_name):
        """Returns an exit's selective-prediction curve: two arrays of shape `(samples,)`.

        These are the coverage, ascending to 1, and the risk, from 0 to 1.

        If the network answers only for the most confident share of the samples (the coverage), the risk is the error
        rate among those. Confidence is that after temperatures, if there are any. Samples of equal confidence are
        answered together, and have the risk of all of them.

        Args:
            exit_name: str.
        """
        check_choice("exit_name", exit_name, self._samples.exit_names)
        row = self._samples.exit_names.index(exit_name)
        sure, wrong = self._samples.best_confidences[row], ~self._samples.correct[row]
        order = np.argsort(-sure, kind="stable")
        counts = np.arange(1, len(order) + 1)
        risks = np.cumsum(wrong[order]) / counts
        last = np.searchsorted(-sure[order], -sure[order], side="right") - 1  # of equal confidence
        return counts / len(order), risks[last]

    def table(self):
        """Returns the calibration as a text table, in percent: area under risk-coverage is the mean selective risk."""
        headings = ["exit", "accuracy", "confidence", "calibration error", "with temperature", "mean selective risk"]
        after = self.calibrated_errors or {}
        accuracies, confidences = self._samples.correct.mean(axis=1), self._samples.confidences.mean(axis=1)
        rows = []
        for (name, error), accuracy, confidence in zip(self.errors.items(), accuracies, confidences):
            shares = (accuracy, confidence, error, after.get(name), self.risk_coverage(name)[1].mean())
            rows.append([name, *("-" if share is None else f"{100 * share:.2f}" for share in shares)])
        return _tables.table(headings, rows)

    def plot(self, path=None, title=None):
        """Plots reliability: accuracy against confidence at each exit, before and after temperatures.

        Args:
            path: file for the plot; its suffix sets the format. None does not save it.
            title: str or None.

        Returns:
            A `matplotlib.figure.Figure`.
        """
        names = self._samples.exit_names
        columns = min(len(names), MOST_PANELS)
        rows = math.ceil(len(names) / columns)
        figure = style.picture(width=1.2 + 1.55 * columns, height=0.9 + 1.55 * rows)
        panels = np.ravel(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False))
        kinds = {"as trained": self._samples.confidences, "with temperature": self._samples.calibrated}
        kinds = {label: confidences for label, confidences in kinds.items() if confidences is not None}
        for row, (axes, name) in enumerate(zip(panels, names)):
            axes.plot([0, 100], [0, 100], color="0.6", linewidth=0.8, linestyle="--", zorder=1)
            for number, (label, own) in enumerate(kinds.items()):
                sure, right, _ = reliability(own[row], self._samples.correct[row], self._bins)
                look = {**style.look(number), "markersize": 3}
                axes.plot(100 * sure, 100 * right, label=label if row == 0 else None, **look)
            axes.set_title(name, fontsize=8)
            axes.set(xlim=(0, 100), ylim=(0, 100), xticks=[0, 50, 100], yticks=[0, 50, 100])
            axes.tick_params(labelsize=7)
            style.plain(axes)
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        figure.supxlabel("confidence (%)", fontsize=9)
        figure.supylabel("accuracy (%)", fontsize=9)
        if self.calibrated_errors:
            figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)
        if title:
            figure.suptitle(title, fontsize=10)
        return style.save(figure, path)

    def plot_risk_coverage(self, path=None, title=None):
        """Plots each exit's selective-prediction curve, and returns the figure.

        Exits go from dark (earliest) to light. `path` and `title` are as in `plot`.
        """
        axes = style.picture(height=3.6).add_subplot()
        names = self._samples.exit_names
        for color, name in zip(style.shades(len(names)), names):
            coverage, risk = self.risk_coverage(name)
            kept = np.unique(np.linspace(0, len(risk) - 1, 400).astype(int))
            axes.plot(100 * coverage[kept], 100 * risk[kept], color=color, linewidth=1.4, label=name)
        axes.set(xlabel="coverage: share of the samples that are answered (%)", ylabel="risk: error among these (%)")
        axes.set(xlim=(0, 100), ylim=(0, None))
        axes.figure.legend(loc="outside right center", frameon=False, fontsize=8)
        return style.finish(axes, path, title)


def reliability(
    confidences: np.ndarray, correct: np.ndarray, bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups samples by confidence into intervals of equal width.

    Returns three arrays with a value for each interval that has samples: mean confidence, accuracy, share of samples.

    >>> [values.tolist() for values in reliability(np.array([0.5, 0.75, 1.0]), np.array([False, True, True]), bins=2)]
    [[0.5, 0.875], [0.0, 1.0], [0.3333333333333333, 0.6666666666666666]]
    """
    confidences = np.asarray(confidences, "float64")
    interval = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)  # (low, high], as in Guo et al.
    counts = np.bincount(interval, minlength=bins)
    used = counts > 0
    sums = [np.bincount(interval, weights=values, minlength=bins)[used] for values in (confidences, correct)]
    return sums[0] / counts[used], sums[1] / counts[used], counts[used] / len(confidences)


def expected_error(confidences: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Returns the expected calibration error, from 0 to 1; arguments as in `reliability`."""
    sure, right, share = reliability(confidences, correct, bins)
    return float((share * np.abs(sure - right)).sum())
