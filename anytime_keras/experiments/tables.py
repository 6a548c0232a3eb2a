"""Computes tables of relative increases in test error from the results of training runs."""

import statistics

from anytime_keras.evaluation.curve import Curve, CurvePoint
from anytime_keras.experiments.planning import FRACTIONS


def curve_of(training):
    """Returns the `Curve` stored in a run's `exits`."""
    exits = training["exits"]
    return Curve([CurvePoint(**dict(zip(exits, values))) for values in zip(*exits.values())])


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
    {'0': [3.5]}
    """
    seeds = {}
    for (network, dataset, seed), _ in lines:
        seeds.setdefault((network, dataset), []).append(seed)
    first, *others = seeds.values()
    return {
        str(seed): means([(where, values) for where, values in lines if where[-1] == seed])
        for seed in first
        if all(seed in its for its in others)
    }


def cell(training):
    """Returns the network, data set and seed of a run, which compared runs must share."""
    return training["network"], training["dataset"], training["seed"]


def on_validation(trainings):
    """Returns copies of the runs with errors on validation images instead of test images."""
    return [
        {**training, "exits": {**training["exits"], "error": training["validation_error"]}} for training in trainings
    ]


def errors_at_fractions(training):
    """Returns the error at each of `FRACTIONS` of the network's cost (`Curve.at`), or None before the first exit."""
    points = [curve_of(training).at(fraction) for fraction in FRACTIONS]
    return [None if point.exit is None else point.error for point in points]


def optimal_errors(trainings):
    """Returns the errors at each of `FRACTIONS` of networks trained for one exit only.

    Args:
        trainings: list of dicts with the row `OPT`, whose networks may end early, and at least one other row in each
            cell.

    Returns:
        A dict from the cell to a list of errors.
    """
    alone = {(cell(training), training["exit"]): training for training in trainings if training["row"] == "OPT"}
    whole = {cell(training): curve_of(training) for training in trainings if training["row"] != "OPT"}
    errors = {}
    for where, curve in whole.items():
        reached = []
        for fraction in FRACTIONS:
            answering = curve.at(fraction).exit
            own = alone.get((where, answering))
            reached.append(None if own is None else own["exits"]["error"][own["exits"]["exit"].index(answering)])
        errors[where] = reached
    return errors


def relative_table(trainings, base):
    """Compares rows at fractions of the cost.

    Args:
        trainings: list of dicts with labels and `exits`.
        base: the row to compare with; `"OPT"` has a separate network for each fraction.

    Returns:
        A dict with `fractions`, `base` and `rows`. `rows` maps a row's name to a dict with:
        `mean`, the relative increase in error in percent, averaged over all cells (network, data set, seed) by `means`;
        `error`, the mean error in percent;
        `by_seed` (from `means_by_seed`), `by_network` and `by_dataset`, the increase for one seed, network or data set;
        `cells`, the errors and increases of each cell.
        The increases in the base's own row are 0.
    """
    own = {(training["row"], cell(training)): errors_at_fractions(training) for training in trainings}
    if base == "OPT":
        own = {key: errors for key, errors in own.items() if key[0] != "OPT"}
        own.update((("OPT", where), errors) for where, errors in optimal_errors(trainings).items())
    rows = {}
    for row in dict.fromkeys(training["row"] for training in trainings):
        cells = [
            {
                "network": where[0],
                "dataset": where[1],
                "seed": where[2],
                "errors": errors,
                "increase": [increase(*pair) for pair in zip(errors, own[base, where])],
            }
            for (own_row, where), errors in own.items()
            if own_row == row
        ]
        rows[row] = {
            "mean": means(lines_of(cells)),
            "error": means(
                [(where, [each and 100 * each for each in own]) for where, own in lines_of(cells, "errors")]
            ),
            "by_seed": means_by_seed(lines_of(cells)),
            **{f"by_{key}": _mean_by(key, cells) for key in ("network", "dataset")},
            "cells": cells,
        }
    return {"fractions": list(FRACTIONS), "base": base, "rows": rows}


def lines_of(cells, what="increase"):
    """Converts a row's `cells` to the argument of `means`."""
    return [((one["network"], one["dataset"], one["seed"]), one[what]) for one in cells]


def _mean_by(key, cells):
    groups = {}
    for one in cells:
        groups.setdefault(str(one[key]), []).append(one)
    return {name: means(lines_of(some)) for name, some in groups.items()}


def number(value, digits=2):
    """Formats a number with its sign for a table, or a dash for None.

    >>> number(3.14159), number(None)
    ('+3.14', '–')
    """
    return "–" if value is None else f"{value:+.{digits}f}"


def spread(cells, place):
    """Formats the smallest and largest of the seeds' means over a row's cells; empty for a single seed."""
    values = [own[place] for own in means_by_seed(lines_of(cells)).values() if own[place] is not None]
    return f" ({min(values):+.1f} to {max(values):+.1f})" if len(values) > 1 else ""


def _with_spread(values, cells):
    return [number(value) + spread(cells, place) for place, value in enumerate(values)]


def cells_of_table(summary, paper):
    """Formats a summary of `relative_table` beside the paper's numbers.

    Args:
        summary: dict.
        paper: dict from a row's name to the paper's numbers.

    Returns:
        The header and the rows, lists of str.
    """
    fractions = [f"{fraction:g}" for fraction in summary["fractions"]]
    header = ["", *(f"paper {fraction}" for fraction in fractions), *(f"here {fraction}" for fraction in fractions)]
    nothing = [None] * len(fractions)
    rows = []
    for row, content in summary["rows"].items():
        if row == summary["base"]:
            errors = ["–" if error is None else f"error {error:.2f}%" for error in content["error"]]
            rows.append([row, *map(number, [0.0] * len(fractions)), *errors])
            continue
        rows.append([row, *map(number, paper.get(row, nothing)), *_with_spread(content["mean"], content["cells"])])
        if len(content["by_dataset"]) > 1:
            for dataset, own in content["by_dataset"].items():
                cells = [one for one in content["cells"] if one["dataset"] == dataset]
                rows.append([f"{row} on {dataset}", *map(number, nothing), *_with_spread(own, cells)])
    return header, rows
