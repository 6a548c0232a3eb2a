"""Plots summaries with Matplotlib, which nothing else here needs."""

from anytime_keras.experiments.settings import FRACTIONS
from anytime_keras.experiments.summaries import GRID


def losses(summary):
    """Plots Figure 3: relative increase in training loss over the exits."""
    from anytime_keras.evaluation import style

    figure = style.picture()
    axes = figure.add_subplot()
    for line, (row, values) in enumerate(summary["rows"].items()):
        axes.plot(range(1, len(values) + 1), _drawn(values), label=row, **style.look(line))
    axes.axhline(0, color="0.4", linewidth=0.8)
    axes.set(xlabel="exit", ylabel="training loss over OPT's (%)")
    style.plain(axes)
    axes.legend(frameon=False)
    return figure


def budgets(summary):
    """Plots error within each budget, one axes for each panel, and the weights that AdaLoss learned."""
    from anytime_keras.evaluation import style

    count = len(summary["panels"]) + bool(summary["weights"])
    figure = style.picture(max(6.4, 4.6 * count), 4.2)
    every = figure.subplots(1, count, squeeze=False)[0]
    for axes, (title, panel) in zip(every, summary["panels"].items()):
        for line, (name, values) in enumerate(panel["lines"].items()):
            ensemble = "-" if "of " in name else "--"
            color = style.look(line)["color"]
            axes.step(GRID, _drawn(values), ensemble, where="post", label=name, color=color, linewidth=1.4)
        axes.set_xscale("log")
        style.logarithmic(axes.xaxis)
        for share in FRACTIONS:
            axes.axvline(share, color=style.GREY, linewidth=0.8, zorder=0)
            style.note_above(axes, share, f"{share:g}")
        axes.set(xlabel=f"budget over the cost of {title}", ylabel=summary["unit"])
    for line, (dataset, values) in enumerate(summary["weights"].items()):
        every[-1].plot(range(1, len(values) + 1), values, label=dataset, **style.look(line))
        every[-1].set(xlabel="exit", ylabel="AdaLoss weight at the end")
    for axes in every:
        style.plain(axes)
        axes.legend(frameon=False, fontsize=8)
    return figure


def _drawn(values):
    """Replaces None by NaN, which Matplotlib draws as a gap."""
    return [float("nan") if value is None else value for value in values]
