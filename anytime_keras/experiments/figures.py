"""Plans and summarizes Figures 3, 5 and 6 and Proposition 4.1 of the paper."""

import math

from anytime_keras.experiments.planning import (
    ADALOSS,
    CONST,
    HALF_END,
    Planned,
    check_growing,
    label,
    name,
    plan,
    recipe,
)
from anytime_keras.experiments.tables import cell, curve_of, increase, mean, means, means_by_seed, number
from anytime_keras.inference import inflation

# Budgets at which averaged curves are read, as fractions of the small network's cost.
GRID = tuple(round(0.05 * number, 2) for number in range(1, 61))
BASES = (1.5, 2.0, 1 + 2**0.5, 3.0, 4.0)


# === Figure 3: training loss ===

SCHEMES = {"CONST": CONST, "HALF-END": HALF_END, "ADALOSS": ADALOSS}


def plan_losses(settings):
    if len(settings.networks) != 1:
        raise ValueError(
            f"Figure 3 needs exactly one network. Received: {[name(network) for network in settings.networks]}."
        )
    return plan(settings, SCHEMES, opt="all")


def losses(trainings):
    """Compares the last epoch's training losses at each exit with networks trained for that exit only.

    Returns:
        A dict with `exits` and `rows`. `rows` maps a row's name to its increase in percent at each exit, as `mean` over
        cells and `by_seed`. The increase is None at exits for which no separate network was trained.
    """
    alone = {
        (cell(training), training["exit"]): training["train_loss"][training["exits"]["exit"].index(training["exit"])]
        for training in trainings
        if training["row"] == "OPT"
    }
    rows = {}
    for training in trainings:
        if training["row"] != "OPT":
            bases = [alone.get((cell(training), exit_name)) for exit_name in training["exits"]["exit"]]
            own = [increase(*pair) for pair in zip(training["train_loss"], bases)]
            rows.setdefault(training["row"], []).append((cell(training), own))
    exits = max((training["exits"]["exit"] for training in trainings), key=len)
    return {
        "exits": exits,
        "rows": {row: {"mean": means(lines), "by_seed": means_by_seed(lines)} for row, lines in rows.items()},
    }


def table_of_losses(summary, paper):
    """Formats a summary of `losses`; returns the header and the rows."""
    rows = summary["rows"]
    lines = [
        [exit_name, *(number(content["mean"][place], 1) for content in rows.values())]
        for place, exit_name in enumerate(summary["exits"])
    ]
    return ["exit", *rows], lines


# === Figure 5: small networks with AdaLoss against large ones with CONST ===


def plan_pairs(settings):
    """Lists the runs for pairs of networks, each a small one and the large one to compare it with."""
    if len(settings.networks) % 2:
        raise ValueError(
            "Figure 5 needs pairs of networks, each a small one followed by a large one. "
            f"Received: {[name(network) for network in settings.networks]}."
        )
    planned = []
    for small, large in zip(settings.networks[::2], settings.networks[1::2]):
        check_growing(settings, (small, large))
        pair = f"{name(small)} against {name(large)}"
        for row, network, changes in (("small ADALOSS", small, ADALOSS), ("large CONST", large, CONST)):
            for one in plan(settings, {row: changes}, networks=[network]):
                planned.append(Planned({**one.labels, "pair": pair}, one.recipe))
    return planned


def pairs(trainings):
    """Compares error against cost of two networks, both relative to the small one's last exit.

    Returns:
        A dict with `pairs`, `grid` and `mean`. `pairs` lists `pair`, `dataset`, `seed` and, for each row, the `cost`
        and `increase` at its exits. `mean` averages all pairs at the budgets in `grid`, fractions of the small
        network's cost; it is None where one of them has no answer yet.
    """
    found = {}
    for training in trainings:
        key = training["pair"], training["dataset"], training["seed"]
        found.setdefault(key, {})[training["row"]] = training
    listed, read = [], {}
    for (pair, dataset, seed), rows in found.items():
        small = curve_of(rows["small ADALOSS"])
        last, error = small[-1].with_all_heads, small[-1].error
        entry = {"pair": pair, "dataset": dataset, "seed": seed}
        for row, training in rows.items():
            curve = curve_of(training)
            entry[row] = {
                "cost": [point.with_all_heads / last for point in curve],
                "increase": [increase(point.error, error) for point in curve],
            }
            line = [_read(entry[row]["cost"], entry[row]["increase"], each) for each in GRID]
            read.setdefault(row, []).append(((pair, dataset, seed), line))
        listed.append(entry)
    return {
        "pairs": listed,
        "grid": list(GRID),
        "mean": {row: _means_where_all(lines) for row, lines in read.items()},
    }


def table_of_pairs(summary, paper):
    """Formats a summary of `pairs`; returns the header and the rows."""
    shares = [0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0]
    at = [summary["grid"].index(share) for share in shares]
    lines = [[row, *(number(line[place], 1) for place in at)] for row, line in summary["mean"].items()]
    return ["increase (%) at a fraction of the small network's cost", *(f"{share:g}" for share in shares)], lines


def _read(costs, values, budget):
    """Returns the value of the latest exit within a budget, or None if there is no such exit."""
    affordable = [value for cost, value in zip(costs, values) if cost <= budget * (1 + 1e-9)]
    return affordable[-1] if affordable else None


def _means_where_all(lines):
    """Returns the elementwise `means`, with None where any line has None."""
    return [None if None in values else own for own, *values in zip(means(lines), *(line for _, line in lines))]


# === Figure 6: ensembles, and the weights that AdaLoss learns ===

MEMBERS = {"ADALOSS": ADALOSS, "CONST": CONST}


def plan_members(settings):
    if len(settings.networks) < 2:
        raise ValueError(
            "Figure 6 needs two or more networks to chain, smallest first. "
            f"Received: {[name(network) for network in settings.networks]}."
        )
    check_growing(settings, settings.networks)
    return plan(settings, MEMBERS)


def ensembles(settings):
    """Lists the ensembles, one for each row, data set and seed, with networks of all sizes.

    Returns:
        A list of pairs: a dict with `row`, `dataset` and `seed`, and the members' recipes, smallest first.
    """
    return [
        (
            dict(row=row, dataset=label(dataset), seed=seed),
            [recipe(settings, network, dataset, seed, **changes) for network in settings.networks],
        )
        for dataset in settings.datasets
        for row, changes in MEMBERS.items()
        for seed in settings.seeds_of(dataset)
    ]


def chains(trainings, chained):
    """Compares EANNs of AdaLoss networks with EANNs of CONST networks, and reports AdaLoss's final weights.

    Returns:
        A dict with `largest`, the largest network, and `data`, which has for each data set:
        `grid`, budgets as fractions of the largest network's cost;
        `lines`, the error (%) within each budget of each EANN and of the largest networks alone, averaged over seeds,
        None before the first answer;
        `mean`, each line's mean over the budgets at which all lines have an answer;
        `weights`, the final weights of the largest network's exits, averaged over seeds;
        `late`, the fraction of these weights in the second half of exits.
    """
    largest = max(trainings, key=lambda one: one["exits"]["with_all_heads"][-1])["network"]
    data = {}
    for dataset in dict.fromkeys(one["dataset"] for one in trainings):
        alone = [one for one in trainings if (one["dataset"], one["network"]) == (dataset, largest)]
        named = [(f"EANN of {one['row']}", one) for one in chained if one["dataset"] == dataset]
        named += [(f"{largest} {one['row']} alone", one) for one in alone]
        whole = alone[0]["exits"]["with_all_heads"][-1]
        end = max(one["exits"]["with_all_heads"][-1] for _, one in named) / whole
        grid = [round(0.05 * number, 2) for number in range(1, math.ceil(end / 0.05 - 1e-9) + 1)]
        read = {}
        for name_of_line, one in named:
            errors = [100 * error for error in one["exits"]["error"]]
            line = [_read(one["exits"]["with_all_heads"], errors, share * whole) for share in grid]
            read.setdefault(name_of_line, []).append(((largest, dataset, one["seed"]), line))
        lines = {name_of_line: _means_where_all(of_seeds) for name_of_line, of_seeds in read.items()}
        answered = [values for values in zip(*lines.values()) if None not in values]
        weights = means([(cell(one), one["weight"]) for one in alone if one["row"] == "ADALOSS"])
        data[dataset] = {
            "grid": grid,
            "lines": lines,
            "mean": dict(zip(lines, map(mean, zip(*answered)))),
            "weights": weights,
            "late": share_of_last_half(weights),
        }
    return {"largest": largest, "data": data}


def table_of_chains(summary, paper):
    """Formats a summary of `chains`; returns the header and the rows."""
    names = list(next(iter(summary["data"].values()))["lines"])
    lines = []
    for dataset, content in summary["data"].items():
        over = increase(content["mean"]["EANN of ADALOSS"], content["mean"]["EANN of CONST"])
        errors = [f"{content['mean'][line]:.2f}" for line in names]
        lines.append([dataset, *errors, number(over, 1), f"{100 * content['late']:.1f}%"])
    header = ["error (%), mean over budgets", *names, "ADALOSS over CONST (%)", "weight in the second half of exits"]
    return header, lines


def share_of_last_half(weights):
    """Returns the fraction of the weights in the second half of exits, including the middle one.

    >>> share_of_last_half([1.0, 1.0, 2.0])
    0.75
    """
    return sum(weights[len(weights) // 2 :]) / sum(weights)


# === Proposition 4.1 ===


def inflations():
    """Compares the bounds of Proposition 4.1 with a simulation.

    Returns:
        A dict with `rows`, which have the base, the kind of networks, the number of workers, and the bound and
        simulated value of the largest (`sup`) and the mean inflation.
    """
    rows = []
    for anytime in (True, False):
        for workers in (1, 2):
            for base in BASES:
                bound = inflation.bounds(base, workers, anytime)
                seen = inflation.simulate(base, workers, anytime)
                rows.append(
                    {
                        "base": base,
                        "networks": "anytime" if anytime else "regular",
                        "workers": workers,
                        "sup": {"bound": bound.sup, "simulated": seen.sup},
                        "mean": {"bound": bound.mean, "simulated": seen.mean},
                    }
                )
    return {"rows": rows}


def table_of_inflations(summary, paper):
    """Formats a summary of `inflations`; returns the header and the rows."""
    header = ["b", "networks", "workers", "sup C, bound", "sup C, simulated", "E[C], bound", "E[C], simulated"]
    lines = [
        [f"{row['base']:.3g}", row["networks"], str(row["workers"])]
        + [f"{row[what][how]:.3f}" for what in ("sup", "mean") for how in ("bound", "simulated")]
        for row in summary["rows"]
    ]
    return header, lines
