"""Plots the paper's figures from their summaries."""

from anytime_keras.experiments.planning import FRACTIONS


def losses(summary):
    """Plots Figure 3: relative increase in training loss over the exits."""
    from anytime_keras.evaluation import style  # only plots need Matplotlib

    figure = style.picture()
    axes = figure.add_subplot()
    numbers = range(1, len(summary["exits"]) + 1)
    for line, (row, content) in enumerate(summary["rows"].items()):
        if len(content["by_seed"]) > 1:
            bounds = zip(*map(_drawn, content["by_seed"].values()))
            least, most = zip(*((min(values), max(values)) for values in bounds))
            axes.fill_between(numbers, least, most, color=style.look(line)["color"], alpha=0.15, linewidth=0)
        axes.plot(numbers, _drawn(content["mean"]), label=row, **style.look(line))
    axes.axhline(0, color="0.4", linewidth=0.8)
    axes.set_xlabel("exit")
    axes.set_ylabel("training loss over OPT's (%)")
    style.plain(axes)
    axes.legend(frameon=False)
    return figure


def pairs(summary):
    """Plots Figure 5: error against cost, both relative to the small network's last exit."""
    from anytime_keras.evaluation import style

    figure = style.picture()
    axes = figure.add_subplot()
    for line, (row, means) in enumerate(summary["mean"].items()):
        color = style.look(line)["color"]
        for pair in summary["pairs"] if len(summary["pairs"]) > 1 else ():
            own = pair[row]
            axes.step(own["cost"], _drawn(own["increase"]), where="post", color=color, alpha=0.25, linewidth=0.8)
        axes.step(summary["grid"], _drawn(means), where="post", label=f"{row}, mean", color=color, linewidth=1.6)
    axes.axhline(0, color="0.4", linewidth=0.8)
    _shares(axes)
    axes.set_xlabel("cost over the small network's")
    axes.set_ylabel("error over the small network's last (%)")
    style.plain(axes)
    axes.legend(frameon=False)
    return figure


def chains(summary):
    """Plots Figure 6 (a), the error within each budget for each data set, and (c), the weights of the exits."""
    from anytime_keras.evaluation import style

    data = summary["data"]
    figure = style.picture(4.6 * (len(data) + 1), 4.0)
    *lefts, right = figure.subplots(1, len(data) + 1)
    for axes, (dataset, content) in zip(lefts, data.items()):
        for line, (row, errors) in enumerate(content["lines"].items()):
            dashed = "--" if row.endswith("alone") else "-"
            color = style.look(line)["color"]
            axes.step(content["grid"], _drawn(errors), dashed, where="post", label=row, color=color, linewidth=1.4)
        _shares(axes)
        axes.set_xlabel(f"budget over the cost of {summary['largest']}")
        axes.set_ylabel("error (%)")
        axes.set_title(dataset, pad=14)
    for line, (dataset, content) in enumerate(data.items()):
        right.plot(range(1, len(content["weights"]) + 1), content["weights"], label=dataset, **style.look(line))
    right.set_xlabel("exit")
    right.set_ylabel("AdaLoss weight at the end")
    for axes in (*lefts, right):
        style.plain(axes)
        axes.legend(frameon=False, fontsize=8)
    return figure


def _shares(axes):
    """Sets up a logarithmic axis of relative costs and marks the fractions at which tables compare."""
    from anytime_keras.evaluation import style

    axes.set_xscale("log")
    style.logarithmic(axes.xaxis)
    for share in FRACTIONS:
        axes.axvline(share, color=style.GREY, linewidth=0.8, zorder=0)
        style.note_above(axes, share, f"{share:g}")


def _drawn(values):
    """Replaces None by NaN, which Matplotlib draws as a gap."""
    return [float("nan") if value is None else value for value in values]
