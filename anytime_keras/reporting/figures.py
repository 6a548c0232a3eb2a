"""The plots of a report, in the style of `anytime_keras.evaluation`."""

import numpy as np

from anytime_keras._lazy import style
from anytime_keras.evaluation.plots import draw_curves


def curves(curve, others):
    """Error against MACs and against time, beside smaller networks."""
    figure = style.picture(width=8.0, height=3.4)
    for axes, cost in zip(figure.subplots(1, 2, sharey=True), ("with_all_heads", "latency")):
        draw_curves(axes, [curve, *others.values()], cost)
        style.plain(axes)
    figure.axes[1].set_ylabel(None)
    if others:
        figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def monotonicity(methods):
    """Accuracy at each exit as trained and with both methods, and the share of samples that fall."""
    figure = style.picture(width=8.0, height=3.2)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    for number, (name, found) in enumerate(methods.items()):
        values = [100 * accuracy for accuracy in found.accuracies.values()]
        left.plot(range(1, len(values) + 1), values, label=name, **style.look(number))
        places = np.arange(len(found.falls)) + 0.27 * (number - 1)
        right.bar(places, [100 * share for share in found.falls.values()], width=0.25, color=style.COLORS[number])
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set(xlabel="exit", ylabel="accuracy (%)")
    left.legend(frameon=False, fontsize=8)
    right.set_xticks(range(len(found.falls)), [f"> {100 * share:g}" for share in found.falls])
    right.set(xlabel="fall of the true class (points)", ylabel="share of samples (%)")
    for axes in (left, right):
        style.plain(axes)
    return figure


def early_exit(curve, points, promised, others):
    """Accuracy against average cost: early exit, the same exit for all samples, and smaller networks."""
    figure = style.picture(width=6.4, height=4.0)
    axes = figure.add_subplot()
    lines = [
        ("one exit for all samples", curve.costs(), [1 - error for error in curve.errors], {}),
        ("early exit by confidence", [p["macs"] for p in points], [p["accuracy"] for p in points], {}),
    ]
    kept = [entry for entry in promised if "threshold" in entry]
    if kept:
        macs, accuracies = [entry["macs"] for entry in kept], [entry["accuracy"] for entry in kept]
        hollow = {"linestyle": "none", "markersize": 8, "markerfacecolor": "none"}
        lines.append(("early exit with a guarantee", macs, accuracies, hollow))
    for name, other in others.items():
        lines.append((name, other.costs(), [1 - error for error in other.errors], {}))
    for number, (label, costs, accuracies, options) in enumerate(lines):
        look = {**style.look(number), **options}
        axes.plot(costs, [100 * accuracy for accuracy in accuracies], label=label, **look)
    axes.set_xscale("log")
    style.logarithmic(axes.xaxis, "")
    axes.set(xlabel="average multiply-accumulates per sample", ylabel="accuracy (%)")
    style.plain(axes)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure
