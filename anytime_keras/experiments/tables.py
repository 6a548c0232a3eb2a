"""Formats summaries as tables. Each function returns the header and the rows, lists of str."""

from anytime_keras.experiments.settings import FRACTIONS
from anytime_keras.experiments.summaries import GRID, means, means_by_seed

HEADING = [f"{fraction:g}" for fraction in FRACTIONS]
SHARES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # of the reference network's cost


def number(value):
    """Formats a number with its sign for a table, or a dash for None.

    >>> number(3.14159), number(None)
    ('+3.1', '–')
    """
    return "–" if value is None else f"{value:+.1f}"


def plain(value, digits=2):
    """Formats a number for a table, or a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def relative(summary, paper):
    """Formats a summary of `relative_table` beside the paper's numbers, with the spread between seeds in brackets."""
    header = ["", *(f"paper {each}" for each in HEADING), *(f"here {each}" for each in HEADING)]
    nothing = [None] * len(FRACTIONS)
    rows = []
    for row, content in summary["rows"].items():
        if row == summary["base"]:
            rows.append([row, *map(number, [0.0] * len(FRACTIONS)), *map(_error, content["error"])])
            continue
        # Errors where the base is not trained yet.
        increases = zip(_with_spread(content["cells"]), content["error"])
        here = [_error(error) if own == "–" else own for own, error in increases]
        rows.append([row, *map(number, paper["rows"].get(row, nothing)), *here])
        datasets = dict.fromkeys(one["cell"][1] for one in content["cells"])
        for dataset in datasets if len(datasets) > 1 else ():
            cells = [one for one in content["cells"] if one["cell"][1] == dataset]
            rows.append([f"{row} on {dataset}", *map(number, nothing), *_with_spread(cells)])
    return header, rows


def _error(value):
    return "–" if value is None else f"error {value:.2f}%"


def _with_spread(cells):
    lines = [(one["cell"], one["increase"]) for one in cells]
    by_seed = list(means_by_seed(lines).values())
    texts = []
    for value, *values in zip(means(lines), *by_seed):
        values = [each for each in values if each is not None]
        texts.append(number(value) + (f" ({number(min(values))} to {number(max(values))})" if len(values) > 1 else ""))
    return texts


def losses(summary, paper):
    """Formats a summary of `losses`: the increases (%) of each row at each exit."""
    columns = zip(summary["exits"], *summary["rows"].values())
    return ["exit", *summary["rows"]], [[name, *map(number, values)] for name, *values in columns]


def budgets(summary, paper):
    """Formats each line of a summary of `budgets` or `pairs` at `SHARES` and its mean over budgets."""
    rows = []
    for title, panel in summary["panels"].items():
        for name, line in panel["lines"].items():
            values = [line[GRID.index(share)] for share in SHARES] + [panel["mean"].get(name)]
            rows.append([f"{name}, {title}" if len(summary["panels"]) > 1 else name, *map(plain, values)])
    for dataset, values in summary["weights"].items():
        late = sum(values[len(values) // 2 :]) / sum(values)
        rows.append([f"AdaLoss weight in the second half of exits, {dataset}", *[""] * len(SHARES), f"{late:.1%}"])
    unit = f"{summary['unit']} at budgets, {'; '.join(summary['panels'])} = 1"
    return [unit, *(f"{share:g}" for share in SHARES), "mean"], rows


def fractions(summary, paper):
    """Formats each network's errors (%) at `FRACTIONS` of its own cost beside the paper's, as in Table 2."""
    rows = [[f"{name} (paper)", *map(plain, errors)] for name, errors in paper["rows"].items()]
    rows += [[name, *map(plain, content["error"])] for name, content in summary["fractions"]["rows"].items()]
    return ["error (%) at a fraction of the cost", *HEADING], rows


def inflations(summary, paper):
    """Formats a summary of `inflations`."""
    header = ["b", "networks", "workers", "sup C, bound", "sup C, simulated", "E[C], bound", "E[C], simulated"]
    return header, [
        [f"{base:.3g}", kind, str(workers), *(plain(value, 3) for value in values)]
        for base, kind, workers, *values in summary["rows"]
    ]
