"""Computes the numbers of tables and figures from training runs. NaN stands for a number that is missing.

A run is a dict with its labels (`row`, `network`, `dataset`, `seed`, ...) and its measurements, see `Runs.measured`.
"""

import itertools

import numpy as np

from anytime_keras.inference import inflation

FRACTIONS = (0.25, 0.5, 0.75, 1.0)
GRID = tuple(round(0.05 * number, 2) for number in range(1, 61))  # budgets, as fractions of a network's cost
BASES = (1.5, 2.0, 1 + 2**0.5, 3.0, 4.0)


def latest(costs, values, budget):
    """Returns the value of the latest exit within a budget, or None if there is no such exit."""
    affordable = [value for cost, value in zip(costs, values) if cost <= budget * (1 + 1e-9)]
    return affordable[-1] if affordable else None


def at_fractions(exits, column="error"):
    """Returns a column's value at each of `FRACTIONS` of the last exit's cost, None before the first exit."""
    spent = exits["with_all_heads"]
    return [latest(spent, exits[column], fraction * spent[-1]) for fraction in FRACTIONS]


def increase(own, base):
    """Returns the increases of `own` over `base` in percent, NaN where one is missing or `base` is 0."""
    own, base = np.array(own, float), np.array(base, float)
    return 100 * (own / np.where(base > 0, base, np.nan) - 1)


def mean(rows):
    """Returns the elementwise mean of rows of equal length, leaving out NaN."""
    return np.ma.masked_invalid(np.array(list(rows), float)).mean(axis=0).filled(np.nan)


def grouped(pairs):
    """Returns a dict from the first items of pairs to lists of their second items."""
    found = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def means(lines, mean=mean):
    """Averages lines, pairs of a `cell` and its numbers, over seeds first, then over networks and data sets."""
    return mean(list(map(mean, grouped((where[:2], values) for where, values in lines).values())))


def means_by_seed(lines):
    """Returns the `means` of each seed shared by all networks and data sets, which show the spread between seeds."""
    seeds = grouped((where[:2], where[2]) for where, _ in lines).values()
    shared = sorted(set.intersection(*map(set, seeds)))
    return [means([(where, values) for where, values in lines if where[2] == seed]) for seed in shared]


def cell(run):
    """Returns what compared runs must share."""
    return run["network"], run["dataset"], run["seed"]


def _split(runs, values):
    """Returns the runs with all exits, and maps (cell, exit) of each run for one exit only to that exit's value."""
    alone = [run for run in runs if run["row"] == "OPT"]
    found = {(cell(run), run["exit"]): values(run)[run["exits"]["exit"].index(run["exit"])] for run in alone}
    return [run for run in runs if run["row"] != "OPT"], found


def relative(runs, base="OPT"):
    """Compares test errors of rows at `FRACTIONS` of the cost with those of the row `base`.

    Returns a dict with `base` and `rows`, which maps a row's name to its `increases` (%) and `errors` (from 0 to 1),
    lists of pairs of a cell and its numbers.
    """
    joint, alone = _split(runs, lambda run: run["exits"]["error"])
    own = {(run["row"], cell(run)): at_fractions(run["exits"]) for run in joint}
    for run in joint if alone else ():
        own["OPT", cell(run)] = [alone.get((cell(run), name)) for name in at_fractions(run["exits"], "exit")]
    rows = {}
    for (row, where), errors in own.items():
        content = rows.setdefault(row, {"increases": [], "errors": []})
        bases = own.get((base, where), [None] * len(FRACTIONS))
        content["increases"].append((where, increase(errors, bases)))
        content["errors"].append((where, errors))
    return {"base": base, "rows": rows}


def losses(runs):
    """Returns the `exits`, and in `rows` the mean increase (%) at each exit in the last training loss over OPT's."""
    joint, alone = _split(runs, lambda run: run["train_loss"])
    rows = {}
    for run in joint:
        least = [alone.get((cell(run), name)) for name in run["exits"]["exit"]]
        rows.setdefault(run["row"], []).append((cell(run), increase(run["train_loss"], least)))
    exits = max((run["exits"]["exit"] for run in runs), key=len)
    return {"exits": exits, "rows": {row: means(lines) for row, lines in rows.items()}}


def pairs(runs):
    """As `budgets`, with one panel: increases in error (%) over the last exit of a pair's small network (Figure 5)."""
    last = {(run["pair"], *cell(run)[1:]): run["exits"] for run in runs if run["row"].startswith("small")}
    read = []
    for run in runs:
        where, exits = (run["pair"], *cell(run)[1:]), run["exits"]
        if where in last:
            spent, error = last[where]["with_all_heads"][-1], last[where]["error"][-1]
            values = increase(exits["error"], error)
            read.append(("the small network", run["row"], where, exits["with_all_heads"], values, spent))
    return {"unit": "increase (%)", "panels": _panels(read), "weights": {}}


def budgets(runs, ensembles=(), alone="all"):
    """Compares errors within budgets of networks (`alone`: "all" or the "largest"), ensembles and OPT.

    Returns a dict with `unit`, `panels` for each data set, and `weights`. `panels` maps a title to `lines`, errors (%)
    at the budgets of `GRID` relative to the largest network, NaN before the first answer, and to `mean`, each line's
    mean over the budgets at which all lines have an answer. `weights` are the largest network's, learned by AdaLoss.
    """
    read, weights = [], {}
    for dataset, every in grouped((run["dataset"], run) for run in runs).items():
        joint, optimal = _split(every, lambda run: list(zip(run["exits"]["with_head"], run["exits"]["error"])))
        # Of the networks with several exits, which a linear ensemble's members do not have.
        largest = max(every, key=lambda run: (len(run["exits"]["exit"]) > 1, run["exits"]["with_all_heads"][-1]))
        title, spent = f"{largest['network']} on {dataset}", largest["exits"]["with_all_heads"][-1]
        joint = [run for run in joint if alone == "all" or run["network"] == largest["network"]]
        named = [(f"{run['network']} {run['row']}", run) for run in joint]
        own = [one for one in ensembles if one["dataset"] == dataset]
        named += [(one["row"] if " of " in one["row"] else f"EANN of {one['row']}", one) for one in own]
        lines = [(name, one["seed"], one["exits"]["with_all_heads"], one["exits"]["error"]) for name, one in named]
        points = grouped((where, point) for (where, _), point in optimal.items())
        lines += [(f"OPT of {network}", seed, *zip(*sorted(each))) for (network, _, seed), each in points.items()]
        for name, seed, costs, errors in lines:
            read.append((title, name, (name, dataset, seed), costs, 100 * np.array(errors), spent))
        learned = [run for run in joint if run["network"] == largest["network"] and "ADALOSS" in run["row"]]
        learned = [(cell(run), run["weight"]) for run in learned if run["weight"]]
        if learned and ensembles:
            weights[dataset] = means(learned)
    return {"unit": "error (%)", "panels": _panels(read), "weights": weights}


def _panels(read):
    """Reads lines (panel, name, cell, costs, values, cost of 1) at the budgets of `GRID` and averages them."""
    panels = {}
    for title, group in grouped((one[0], one[1:]) for one in read).items():
        end = max(costs[-1] / spent for _, _, costs, _, spent in group)
        named = grouped(
            (name, (where, np.array([latest(costs, values, budget * spent) for budget in GRID], float)))
            for name, where, costs, values, spent in group
        )
        # NaN where one of the averaged networks has no answer yet.
        lines = {name: means(some, lambda rows: np.mean(rows, axis=0)) for name, some in named.items()}
        shared = np.array(list(lines.values()))[:, np.array(GRID) < end + GRID[0]]
        answered = shared[:, ~np.isnan(shared).any(axis=0)]
        panels[title] = {"lines": lines, "mean": dict(zip(lines, mean(answered.T)))}
    return panels


def fractions(runs):
    """Returns `budgets`, and in `fractions` each network's errors as in `relative` (Table 2)."""
    named = [{**run, "row": f"{run['network']} {run['row']}"} for run in runs]
    return {**budgets(runs), "fractions": relative(named)}


def inflations():
    """Compares Proposition 4.1's bounds on the largest and the mean inflation with a simulation, for each setting."""
    rows = []
    for kind, workers, base in itertools.product(("anytime", "regular"), (1, 2), BASES):
        bound = inflation.bounds(base, workers, kind == "anytime")
        seen = inflation.simulate(base, workers, kind == "anytime")
        rows.append([base, kind, workers, bound.sup, seen.sup, bound.mean, seen.mean])
    return {"rows": rows}
