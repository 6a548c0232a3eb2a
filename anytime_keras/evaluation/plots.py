"""Pictures of curves that a paper could print."""

import pathlib

# Okabe and Ito's colours, which colour-blind readers tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
AXIS = {
    "with_all_heads": "multiply-accumulates, all heads so far",
    "with_head": "multiply-accumulates, own head",
    "backbone": "multiply-accumulates, without heads",
    "latency": "seconds to the answer, one image",
}


def plot_curves(curves, path=None, cost="with_all_heads", title=None, fractions=(0.25, 0.5, 0.75, 1)):
    """Draws error against cost for one or more curves, on a logarithmic cost axis.

    Args:
        curves: list of `Curve`.
        path: where to save the picture, its type by the ending (`.png`, `.pdf`, `.svg`); None saves none.
        cost: as in `Curve.at`.
        title: str or None.
        fractions: fractions of the dearest curve's last cost to mark by thin lines.

    Returns:
        The `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure  # not pyplot: no window, and no state shared with the user's own plots

    curves = list(curves)
    if not curves:
        raise ValueError("`curves` must hold one curve or more. Received: none.")
    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    last = max(curve.costs(cost)[-1] for curve in curves)
    for fraction in fractions:
        axes.axvline(fraction * last, color="0.85", linewidth=0.8, zorder=0)
        axes.annotate(
            f"{fraction:g}",
            (fraction * last, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=7,
            color="0.4",
        )
    for number, curve in enumerate(curves):
        axes.plot(
            curve.costs(cost),
            [100 * error for error in curve.errors],
            color=COLORS[number % len(COLORS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            linewidth=1.4,
            label=curve.name,
        )
    axes.set_xscale("log")
    axes.set_xlabel(AXIS[cost])
    axes.set_ylabel("error (%)")
    axes.grid(axis="y", color="0.92", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1 or curves[0].name:
        axes.legend(frameon=False)
    if title:
        axes.set_title(title, pad=14)
    if path is not None:
        path = pathlib.Path(path)
        if not path.suffix:
            raise ValueError(
                f"`path` needs an ending that tells the picture's type. Received: '{path}'. For example '{path}.png'."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    return figure
