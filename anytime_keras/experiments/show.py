"""Shows summaries as tables (header and rows of str, beside the paper's entry) and as Matplotlib plots."""

import numpy as np

from anytime_keras._lazy import style
from anytime_keras.experiments.summaries import FRACTIONS, GRID, means, means_by_seed

HEADING = [f"{fraction:g}" for fraction in FRACTIONS]
SHARES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # of the reference network's cost


def text(value, form="{:+.1f}"):
    """Formats a number for a table, or a dash for NaN."""
    return "–" if np.isnan(value) else form.format(value)


def plain(value):
    return text(value, "{:.2f}")


def relative(summary, paper):
    """Formats increases beside the paper's, with the spread between seeds, or errors where there is no increase."""
    nothing, rows = [np.nan] * len(FRACTIONS), []
    for row, content in summary["rows"].items():
        zeros = [0.0] * len(FRACTIONS) if row == summary["base"] else None
        datasets = dict.fromkeys(where[1] for where, _ in content["errors"])
        for dataset in [None, *(datasets if len(datasets) > 1 else ())]:
            increases, errors = (
                [line for line in content[key] if dataset in (None, line[0][1])] for key in ("increases", "errors")
            )
            instead = [text(error, "error {:.2f}%") for error in 100 * means(errors)]
            here = [error if zeros or own == "–" else own for own, error in zip(_with_spread(increases), instead)]
            theirs = nothing if dataset else zeros or paper["rows"].get(row, nothing)
            rows.append([f"{row} on {dataset}" if dataset else row, *map(text, theirs), *here])
    return ["", *(f"paper {each}" for each in HEADING), *(f"here {each}" for each in HEADING)], rows


def _with_spread(lines):
    texts = []
    for value, *values in zip(means(lines), *means_by_seed(lines)):
        values = [each for each in values if not np.isnan(each)]
        texts.append(text(value) + (f" ({text(min(values))} to {text(max(values))})" if len(values) > 1 else ""))
    return texts


def losses(summary, paper):
    """Formats a summary of `losses`: the increases (%) of each row at each exit that has one."""
    exits = zip(summary["exits"], *summary["rows"].values())
    rows = [[name, *map(text, values)] for name, *values in exits if not np.isnan(values).all()]
    return ["exit", *summary["rows"]], rows


def budgets(summary, paper):
    """Formats each line of a summary of `budgets` or `pairs` at `SHARES` and its mean over budgets."""
    rows = []
    for title, panel in summary["panels"].items():
        for name, line in panel["lines"].items():
            values = [line[GRID.index(share)] for share in SHARES] + [panel["mean"][name]]
            rows.append([f"{name}, {title}" if len(summary["panels"]) > 1 else name, *map(plain, values)])
    for dataset, values in summary["weights"].items():
        late = sum(values[len(values) // 2 :]) / sum(values)
        rows.append([f"AdaLoss weight in the second half of exits, {dataset}", *[""] * len(SHARES), f"{late:.1%}"])
    unit = f"{summary['unit']} at budgets, {'; '.join(summary['panels'])} = 1"
    return [unit, *(f"{share:g}" for share in SHARES), "mean"], rows


def fractions(summary, paper):
    """Formats each network's errors (%) at `FRACTIONS` of its own cost beside the paper's, as in Table 2."""
    rows = [[f"{name} (paper)", *map(plain, errors)] for name, errors in paper["rows"].items()]
    for name, content in summary["fractions"]["rows"].items():
        rows.append([name, *map(plain, 100 * means(content["errors"]))])
    return ["error (%) at a fraction of the cost", *HEADING], rows


def inflations(summary, paper):
    """Formats a summary of `inflations`."""
    header = ["b", "networks", "workers", "sup C, bound", "sup C, simulated", "E[C], bound", "E[C], simulated"]
    return header, [
        [f"{base:.3g}", kind, str(workers), *(f"{value:.3f}" for value in values)]
        for base, kind, workers, *values in summary["rows"]
    ]


def draw_losses(summary):
    """Plots Figure 3: relative increase in training loss over the exits."""
    figure = style.picture()
    axes = figure.add_subplot()
    for line, (row, values) in enumerate(summary["rows"].items()):
        known = np.flatnonzero(~np.isnan(values))
        axes.plot(known + 1, np.array(values)[known], label=row, **style.look(line))
    axes.axhline(0, color="0.4", linewidth=0.8)
    axes.set(xlabel="exit", ylabel="training loss over OPT's (%)")
    style.plain(axes)
    axes.legend(frameon=False)
    return figure


def draw_budgets(summary):
    """Plots error within each budget, one axes for each panel, and the weights that AdaLoss learned."""
    count = len(summary["panels"]) + bool(summary["weights"])
    figure = style.picture(max(6.4, 4.6 * count), 4.2)
    every = figure.subplots(1, count, squeeze=False)[0]
    for axes, (title, panel) in zip(every, summary["panels"].items()):
        for line, (name, values) in enumerate(panel["lines"].items()):
            dashes = "-" if "of " in name else "--"  # ensembles and OPT are solid lines
            color = style.look(line)["color"]
            axes.step(GRID, values, dashes, where="post", label=name, color=color, linewidth=1.4)
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
