"""Publication-quality plots of curves and training histories."""

import csv
import math
import pathlib

from anytime_keras._checks import check_choice
from anytime_keras._lazy import style
from anytime_keras.evaluation.curve import Curve

AXIS = {
    "with_all_heads": "multiply-accumulates, all heads so far",
    "with_head": "multiply-accumulates, own head",
    "backbone": "multiply-accumulates, without heads",
    "latency": "time to the answer, one image",
}
WEIGHT = "_weight"  # suffix of the weights that `LossWeighting` logs
MOST_LABELS = 9
FEW_CURVES = 2


def plot_curves(curves, path=None, cost="with_all_heads", title=None, fractions=(0.25, 0.5, 0.75, 1)):
    """Plots error against cost for one or more curves, on a logarithmic cost axis.

    Args:
        curves: list of `Curve`.
        path: file for the plot; its suffix (`.png`, `.pdf`, `.svg`) sets the format. None does not save it.
        cost: as in `Curve.at`.
        title: str or None. For a single curve, its name is put before the title and there is no legend.
        fractions: fractions of the largest cost of all curves, marked by thin lines.

    Returns:
        A `matplotlib.figure.Figure`, which notebooks display.

    Raises:
        ValueError: if there is no curve, a curve lacks that cost, or the path has no suffix.

    Example:
    >>> from anytime_keras.evaluation import Curve, CurvePoint
    >>> points = [CurvePoint("exit_1", 0.3, 1.0, 10, 10, 10, 5), CurvePoint("exit_2", 0.2, 0.8, 40, 40, 40, 9)]
    >>> figure = plot_curves([Curve(points, "small")], title="two exits")
    >>> figure.axes[0].get_xscale()
    'log'
    """
    curves = _curves(curves)
    axes = style.picture().add_subplot()
    last = max(curve.costs(cost)[-1] for curve in curves)
    for fraction in fractions:
        axes.axvline(fraction * last, color=style.GREY, linewidth=0.8, zorder=0)
        style.note_above(axes, fraction * last, f"{fraction:g}")
    draw_curves(axes, curves, cost)
    axes.set_xlabel(AXIS[cost] + (" (lines: shares of the largest)" if fractions else ""))
    return style.finish(axes, path, _legend_and_title(axes, curves, title), pad=14)


def draw_curves(axes, curves, cost):
    """Draws error against cost into the axes of a plot."""
    drawn = [list(zip(curve.costs(cost), (100 * error for error in curve.errors))) for curve in curves]
    for number, (curve, points) in enumerate(zip(curves, drawn)):
        look = style.look(number, covered=sum(_cover(later, points) for later in drawn[number + 1 :]))
        axes.plot(*zip(*points), label=curve.name, **look)
    axes.set_xscale("log")
    style.logarithmic(axes.xaxis, "s" if cost == "latency" else "")
    axes.set(xlabel=AXIS[cost], ylabel="error (%)", ylim=(0, None))


def plot_increases(curves, optimal, path=None, value="loss", title=None):
    """Plots how much worse each exit is than a network trained for that exit only (the paper's Figure 3).

    The increase in percent is `100 * (value / optimal value - 1)`. The paper plots the training loss; for that, measure
    the curves on training images without augmentation.

    Args:
        curves: list of `Curve`, one per weighting.
        optimal: `Curve` whose points come from separate networks, each trained for one exit only. Exits are matched by
            name; it need not have all of them.
        path, title: as in `plot_curves`.
        value: `"loss"` or `"error"`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: if a curve lacks an exit of `optimal`, or an optimal value is 0.

    Example:
    >>> from anytime_keras.evaluation import Curve, CurvePoint
    >>> def curve(name, *losses):
    ...     return Curve([CurvePoint(f"exit_{n}", 0.1, loss, n, n, n, n) for n, loss in enumerate(losses, 1)], name)
    >>> figure = plot_increases([curve("CONST", 0.4, 0.3)], curve("OPT", 0.4, 0.2))
    >>> figure.axes[0].lines[-1].get_ydata().round(1).tolist()
    [0.0, 50.0]
    """
    curves = _curves(curves)
    check_choice("value", value, ("loss", "error"))
    if not isinstance(optimal, Curve):
        raise ValueError(f"`optimal` must be a `Curve`. Received: {type(optimal).__name__}.")
    base = {point.exit: getattr(point, value) for point in optimal}
    if nothing := [name for name, number in base.items() if not number > 0]:
        raise ValueError(f"`optimal` must have a {value} above 0 at each exit. Received: 0 or NaN at {nothing}.")
    axes = style.picture(height=3.6).add_subplot()
    axes.axhline(0, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
    for number, curve in enumerate(curves):
        own = {point.exit: (place, getattr(point, value)) for place, point in enumerate(curve, 1)}
        if missing := [name for name in base if name not in own]:
            raise ValueError(f"The curve '{curve.name}' lacks exits of `optimal`: {missing}. Its exits: {list(own)}.")
        places = [own[name][0] for name in base]
        increases = [100 * (own[name][1] / base[name] - 1) for name in base]
        axes.plot(places, increases, label=curve.name, **style.look(number))
    axes.set_xticks(range(1, len(curves[0]) + 1))
    axes.set(xlabel="exit", ylabel=f"relative increase in {value} (%)")
    return style.finish(axes, path, _legend_and_title(axes, curves, title))


def plot_weights(history, path=None, title=None):
    """Plots the loss weight of each exit over epochs, as logged by `AdaLoss` or `LossWeighting`.

    Args:
        history: the result of `fit` or its `.history`, `Run.history`, or the path of a run's `history.csv`.
        path: as in `plot_curves`.
        title: str or None.

    Returns:
        A `matplotlib.figure.Figure`. Exits go from dark (earliest) to light.

    Raises:
        ValueError: if the history contains no weights.

    Example:
    >>> figure = plot_weights({"loss": [3.0, 2.5], "exit_1_weight": [1.0, 0.6], "exit_2_weight": [1.0, 1.0]})
    >>> [line.get_label() for line in figure.axes[0].lines]
    ['exit_1', 'exit_2']
    """
    weights = {key.removesuffix(WEIGHT): values for key, values in _history(history).items() if key.endswith(WEIGHT)}
    if not weights:
        raise ValueError(
            f"`history` must contain loss weights (`<exit>{WEIGHT}`). Received: no weights. Train with "
            "`callbacks=[ak.AdaLoss()]`, listed before callbacks that write logs."
        )
    axes = style.picture(height=3.6).add_subplot()
    labelled = {round(place * (len(weights) - 1) / (MOST_LABELS - 1)) for place in range(MOST_LABELS)}
    for number, (color, (name, values)) in enumerate(zip(style.shades(len(weights)), weights.items())):
        label = name if number in labelled or len(weights) <= MOST_LABELS else f"_{name}"  # not in the legend
        axes.plot(range(1, len(values) + 1), values, color=color, linewidth=1.6, label=label)
    if all(value > 0 for values in weights.values() for value in values):
        axes.set_yscale("log")
        style.logarithmic(axes.yaxis)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="epoch", ylabel="weight of the exit's loss")
    axes.figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return style.finish(axes, path, title)


def _curves(curves):
    curves = list(curves)
    if not curves or not all(isinstance(curve, Curve) for curve in curves):
        raise ValueError(f"`curves` must contain at least one `Curve`, and nothing else. Received: {curves!r:.60}.")
    return curves


def _cover(later, points):
    """Returns whether a line through `later` hides a segment of the one through `points`, or its only point."""
    shared = {(x, round(y, 6)) for x, y in later} & {(x, round(y, 6)) for x, y in points}
    return len(shared) >= min(2, len(points))


def _legend_and_title(axes, curves, title):
    """Adds a legend and returns the title. A single curve is named in the title instead of a legend."""
    if len(curves) > FEW_CURVES:  # outside the axes, because no corner is sure to be free
        axes.figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    elif len(curves) > 1:
        axes.legend(frameon=False)
    else:
        return ": ".join(filter(None, [curves[0].name, title]))
    return title


def _history(history):
    """Returns a run's logs as a dict from a name to its value in each epoch."""
    if isinstance(history, (str, pathlib.Path)):
        with open(history, newline="") as file:
            rows = list(csv.DictReader(file))
        history = [{key: float(value) if value else math.nan for key, value in row.items()} for row in rows]
    history = getattr(history, "history", history)
    if isinstance(history, list):
        return {key: [epoch.get(key, math.nan) for epoch in history] for key in (history[0] if history else {})}
    return dict(history)
