"""Computes the numbers of tables and figures from training runs.

A run is a dict with its labels (`row`, `network`, `dataset`, `seed`, ...) and its measurements, see `Runs.measured`.
"""

import statistics

from anytime_keras.experiments.settings import FRACTIONS, at_fractions, latest
from anytime_keras.inference import inflation

# Budgets at which lines are read, as fractions of a network's cost.
GRID = tuple(round(0.05 * number, 2) for number in range(1, 61))
BASES = (1.5, 2.0, 1 + 2**0.5, 3.0, 4.0)


def increase(own, base):
    """Returns the increase of `own` over `base` in percent, or None if one is missing or `base` is 0.

    >>> round(increase(0.11, 0.10), 6)
    10.0
    """
    return None if own is None or not base else 100 * (own / base - 1)


def mean(values):
    """Returns the mean of the values that are not None, or None if there are none."""
    values = [value for value in values if value is not None]
    return statistics.fmean(values) if values else None


def means(lines):
    """Averages the numbers of many cells elementwise, over seeds first, then over networks and data sets.

    Args:
        lines: list of pairs of a cell (network, data set, seed) and its numbers, which may be None.

    Returns:
        A list of floats, None where no cell has a number.

    >>> means([(("1x1", "a", 0), [1.0]), (("1x1", "a", 1), [3.0]), (("1x1", "b", 0), [6.0])])
    [4.0]
    """
    alike = {}
    for (network, dataset, _), values in lines:
        alike.setdefault((network, dataset), []).append(values)
    over_seeds = [[mean(each) for each in zip(*some)] for some in alike.values()]
    return [mean(each) for each in zip(*over_seeds)]


def means_by_seed(lines):
    """Returns the `means` of each seed shared by all networks and data sets, which show the spread between seeds.

    >>> means_by_seed([(("1x1", "a", 0), [1.0]), (("1x1", "a", 1), [3.0]), (("1x1", "b", 0), [6.0])])
    {0: [3.5]}
    """
    seeds = {}
    for (network, dataset, seed), _ in lines:
        seeds.setdefault((network, dataset), set()).add(seed)
    shared = sorted(set.intersection(*seeds.values()))
    return {seed: means([(where, values) for where, values in lines if where[-1] == seed]) for seed in shared}


def cell(run):
    """Returns the network, data set and seed of a run, which compared runs must share."""
    return run["network"], run["dataset"], run["seed"]


def _alone(runs, values):
    """Maps (cell, exit) of each run that was trained for one exit only to that exit's value."""
    return {
        (cell(run), run["exit"]): values(run)[run["exits"]["exit"].index(run["exit"])]
        for run in runs
        if run["row"] == "OPT"
    }


def relative_table(runs, base):
    """Compares test errors of rows at `FRACTIONS` of the cost.

    Args:
        runs: list of dicts.
        base: the row to compare with; `"OPT"` has a separate network for each fraction.

    Returns:
        A dict with `base` and `rows`, which maps a row's name to its `cells`, a list of dicts with `cell`, `errors` and
        `increase` in percent, and to their means over all cells, `error` (%) and `mean`.
    """
    own = {(run["row"], cell(run)): at_fractions(run["exits"]) for run in runs if run["row"] != "OPT"}
    alone = _alone(runs, lambda run: run["exits"]["error"])
    if alone:
        for run in [run for run in runs if run["row"] != "OPT"]:
            exits = at_fractions(run["exits"], "exit")
            own["OPT", cell(run)] = [alone.get((cell(run), exit_name)) for exit_name in exits]
    rows = {}
    for (row, where), errors in own.items():
        bases = own.get((base, where), [None] * len(FRACTIONS))
        one = {"cell": where, "errors": errors, "increase": list(map(increase, errors, bases))}
        rows.setdefault(row, {"cells": []})["cells"].append(one)
    for content in rows.values():
        content["mean"] = means([(one["cell"], one["increase"]) for one in content["cells"]])
        errors = means([(one["cell"], one["errors"]) for one in content["cells"]])
        content["error"] = [error and 100 * error for error in errors]
    return {"base": base, "rows": rows}


def losses(runs):
    """Compares the last epoch's training losses at each exit with networks trained for that exit only (Figure 3).

    Returns:
        A dict with `exits` and `rows`, which maps a row's name to its mean increase in percent at each exit, None at
        exits for which no separate network was trained.
    """
    alone = _alone(runs, lambda run: run["train_loss"])
    rows = {}
    for run in runs:
        if run["row"] != "OPT":
            bases = [alone.get((cell(run), exit_name)) for exit_name in run["exits"]["exit"]]
            rows.setdefault(run["row"], []).append((cell(run), list(map(increase, run["train_loss"], bases))))
    exits = max((run["exits"]["exit"] for run in runs), key=len)
    return {"exits": exits, "rows": {row: means(lines) for row, lines in rows.items()}}


def pairs(runs):
    """Compares pairs of networks relative to the small one's last exit (Figure 5).

    Returns:
        As `budgets`, with one panel. Its lines are averaged increases in error (%).
    """
    last = {(run["pair"], *cell(run)[1:]): run["exits"] for run in runs if run["row"].startswith("small")}
    read = []
    for run in runs:
        where, exits = (run["pair"], *cell(run)[1:]), run["exits"]
        if where in last:
            spent, error = last[where]["with_all_heads"][-1], last[where]["error"][-1]
            values = [increase(each, error) for each in exits["error"]]
            read.append(("the small network", run["row"], where, exits["with_all_heads"], values, spent))
    return {"unit": "increase (%)", "panels": _panels(read), "weights": {}}


def budgets(runs, ensembles=(), alone="all"):
    """Compares errors within budgets of networks, ensembles and OPT, one panel for each data set.

    Args:
        runs, ensembles: lists of dicts.
        alone: `"all"` shows every network besides the ensembles, `"largest"` only the most expensive one.

    Returns:
        A dict with `unit`, `panels` and `weights`. `panels` maps a title to `lines`, errors (%) at the budgets of
        `GRID` relative to the panel's largest network, averaged over seeds, None before the first answer, and to
        `mean`, each line's mean over the budgets from where all lines have an answer to where the last one ends.
        `weights` maps a data set to the largest network's final AdaLoss weights.
    """
    read, weights = [], {}
    for dataset in dict.fromkeys(run["dataset"] for run in runs):
        own = [run for run in runs if run["dataset"] == dataset]
        largest = max(own, key=lambda run: run["exits"]["with_all_heads"][-1])
        title, spent = f"{largest['network']} on {dataset}", largest["exits"]["with_all_heads"][-1]
        shown = [run for run in own if alone == "all" or run["network"] == largest["network"]]
        shown = [{**run, "row": run["row"].removeprefix("EANN of ")} for run in shown if run["row"] != "OPT"]
        named = [(f"{run['network']} {run['row']}", run) for run in shown]
        named += [
            (one["row"] if " " in one["row"] else f"EANN of {one['row']}", one)
            for one in ensembles
            if one["dataset"] == dataset
        ]
        lines = [(name, one["seed"], one["exits"]["with_all_heads"], one["exits"]["error"]) for name, one in named]
        lines += _optimal(own)
        for name, seed, costs, errors in lines:
            read.append((title, name, (name, dataset, seed), costs, [100 * error for error in errors], spent))
        learned = [(cell(run), run["weight"]) for run in shown if "ADALOSS" in run["row"] and run["weight"]]
        learned = [(where, values) for where, values in learned if where[0] == largest["network"]]
        if learned and ensembles:
            weights[dataset] = means(learned)
    return {"unit": "error (%)", "panels": _panels(read), "weights": weights}


def _optimal(runs):
    """Returns lines (name, seed, costs, errors) of the networks that were trained for one exit only."""
    points = {}
    alone = _alone(runs, lambda run: list(zip(run["exits"]["with_head"], run["exits"]["error"])))
    for (where, _), point in alone.items():
        points.setdefault(where, []).append(point)
    return [(f"OPT of {network}", seed, *zip(*sorted(own))) for (network, _, seed), own in points.items()]


def _panels(read):
    """Reads lines (panel, name, cell, costs, values, cost of 1) at the budgets of `GRID` and averages them."""
    found, ends = {}, {}
    for title, name, where, costs, values, spent in read:
        line = [latest(costs, values, budget * spent) for budget in GRID]
        ends[title] = max(ends.get(title, 0), costs[-1] / spent)
        found.setdefault(title, {}).setdefault(name, []).append((where, line))
    panels = {}
    for title, named in found.items():
        lines = {
            name: [None if None in values else own for own, *values in zip(means(some), *(line for _, line in some))]
            for name, some in named.items()
        }
        columns = [values for budget, *values in zip(GRID, *lines.values()) if budget < ends[title] + GRID[0]]
        answered = [values for values in columns if None not in values]
        panels[title] = {"lines": lines, "mean": dict(zip(lines, map(mean, zip(*answered))))}
    return panels


def inflations():
    """Compares the bounds of Proposition 4.1 with a simulation.

    Returns:
        A dict with `rows`: base, kind of networks, number of workers, bound and simulated value of the largest
        inflation, and those of the mean inflation.
    """
    rows = []
    for anytime in (True, False):
        for workers in (1, 2):
            for base in BASES:
                bound = inflation.bounds(base, workers, anytime)
                seen = inflation.simulate(base, workers, anytime)
                kind = "anytime" if anytime else "regular"
                rows.append([base, kind, workers, bound.sup, seen.sup, bound.mean, seen.mean])
    return {"rows": rows}
