"""Defines the experiments: what each trains, how its numbers are computed, and how they are shown."""

import dataclasses
import functools
import json
import pathlib
import typing

from anytime_keras import _errors
from anytime_keras.experiments import draw, figures, tables
from anytime_keras.experiments.planning import ADALOSS, CONST, LINEAR, QUICK, Settings, plan


def _adaloss(**arguments):
    return {"weighting": {"name": "adaloss", **arguments}}


# From a table row to its recipe changes. AdaLoss's defaults are the paper's, so rows with default values share their
# training runs with Table 1.
TABLE3 = {"gamma 0": _adaloss(gamma=0.0), "gamma 0.05": ADALOSS, "gamma 0.15": _adaloss(gamma=0.15)}
TABLE4 = {"momentum 0.9": ADALOSS, "momentum 0.99": _adaloss(momentum=0.99)}
TABLE5 = {"period 1": ADALOSS, "period 100": _adaloss(update_period=100)}
_IN_TABLE_1 = ("CONST", "ADALOSS")
BEYOND = {
    "CONST": CONST,
    "ADALOSS": ADALOSS,
    "first order, period 10": _adaloss(first_order=True, update_period=10),
    "gamma 1 to 0": _adaloss(gamma=[1.0, 0.0]),
    "distillation": {**ADALOSS, "distillation": {"weight": 0.5, "temperature": 3.0}},
    "equilibrium, CONST": {**CONST, "gradient_equilibrium": True},
    "equilibrium, ADALOSS": {**ADALOSS, "gradient_equilibrium": True},
    "mean of logarithms": _adaloss(mean="geometric"),
    "batch's own losses": _adaloss(mean="batch"),
    "uncertainty": {"weighting": {"name": "uncertainty"}},
    "GradNorm, period 10": {"weighting": {"name": "gradnorm", "update_period": 10}},
}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One table or figure.

    Attributes:
        title: str.
        plan: function from `Settings` to a list of `Planned`; None if nothing is trained.
        summarize: function from the results' `trainings` and `ensembles` to the numbers of the table or figure.
        lay_out: function from a summary and the paper's entry to the header and rows of a table.
        find: function from a summary and the paper's entry to sentences that state the findings.
        draw: function from a summary to a Matplotlib figure, or None.
        ensembles: function from `Settings` to pairs (labels of an ensemble, recipes of its members), or None.
        defaults, quick: dicts of `Settings` that differ from the usual defaults, for a full run and a quick check.
        note: str, an explanation of the numbers for the page.
        optional: function from `Settings` to groups of rows that `Settings.without` may name, but not all rows of a
            group. All other rows are needed for comparison. None if no row may be omitted.
        once: bool, whether `Settings.once` may name the optional rows. If so, `find` must compare equal seeds.

    Example:
    >>> EXPERIMENTS["table1"].settings(epochs=100).networks
    ((5, 16), (7, 16), (9, 16))
    """

    title: str
    plan: typing.Callable
    summarize: typing.Callable
    lay_out: typing.Callable
    find: typing.Callable
    draw: typing.Callable = None
    ensembles: typing.Callable = None
    defaults: dict = dataclasses.field(default_factory=dict)
    quick: dict = dataclasses.field(default_factory=dict)
    note: str = None
    optional: typing.Callable = None
    once: bool = False

    def settings(self, quick=False, **changes):
        """Returns the default `Settings`, or those of a quick check, with changes applied."""
        usual = {**QUICK, **self.quick} if quick else self.defaults
        made = Settings(**{**usual, **{name: value for name, value in changes.items() if value is not None}})
        self.check(made)
        return made

    def check(self, settings):
        """Raises ValueError if the settings omit rows that are needed."""
        if settings.once and not self.once:
            raise ValueError(f"This experiment needs all seeds for each row. Received: once={settings.once!r}.")
        if settings.without and self.optional is None:
            raise ValueError(f"This experiment needs all its rows. Received: without={settings.without!r}.")
        named = [*settings.without, *settings.once]
        if not named:
            return
        groups = self.optional(settings)
        for row in named:
            if row not in sum(groups, []):
                raise ValueError(f"'{row}' is not an optional row. {_errors.nearest(row, sum(groups, []))}")
            if named.count(row) > 1:
                raise ValueError(
                    f"A row may be named once. Received: '{row}' twice in without={settings.without!r}, "
                    f"once={settings.once!r}."
                )
        if any(set(settings.without).issuperset(group) for group in groups):
            every = "; ".join(", ".join(map(repr, group)) for group in groups)
            raise ValueError(f"Keep at least one row of each group: {every}. Received: without={settings.without!r}.")


def _table(title, rows, base, find=None, summarize=None, always=(), once=False):
    return Experiment(
        title,
        functools.partial(plan, rows=rows, opt="fractions" if base == "OPT" else None),
        summarize or (lambda trainings, ensembles: tables.relative_table(trainings, base)),
        lambda summary, paper: tables.cells_of_table(summary, paper["rows"]),
        find or _find_sizes,
        optional=(lambda settings: [[row for row in rows if row not in (base, *always)]]) if len(rows) > 2 else None,
        once=once,
    )


def _find_sizes(summary, paper):
    same, compared = tables.signs(summary, paper["rows"])
    known = {row: numbers for row, numbers in paper["rows"].items() if row in summary["rows"]}
    found = [f"{same} of the paper's {compared} comparable numbers have the same sign here."]
    beside = [
        (f"{row} at {fraction:g}", theirs, ours)
        for row, numbers in known.items()
        for fraction, theirs, ours in zip(summary["fractions"], numbers, summary["rows"][row]["mean"])
        if ours is not None
    ]
    if beside and summary["base"] != "OPT":
        theirs, ours = (max(abs(each[place]) for each in beside) for place in (1, 2))
        found[0] += f" The largest absolute change is {theirs:.2f} in the paper and {ours:.2f} here."
    places = [place for row in known for place in zip(*summary["rows"][row]["by_seed"].values())]
    apart = [place for place in places if len(place) > 1 and None not in place]
    if apart:
        split = sum(min(place) < 0 < max(place) for place in apart)
        found.append(f"Seeds disagree on the sign of {split} of {len(apart)} numbers.")
    if beside:
        where, theirs, ours = max(beside, key=lambda each: abs(each[2] - each[1]))
        found.append(f"Largest difference from the paper: {where}, {ours:+.2f} here and {theirs:+.2f} in the paper.")
    ordered = {
        "in the paper": {row: paper["rows"][row][-1] for row in known},
        "here": {row: summary["rows"][row]["mean"][-1] for row in known},
    }
    if summary["base"] != "OPT":
        for last in ordered.values():
            last[summary["base"]] = 0.0
    if len(paper["rows"]) > 1 and None not in ordered["here"].values():
        texts = [
            f"{where} {', '.join(f'{row} {last[row]:+.2f}' for row in sorted(last, key=last.get))}"
            for where, last in ordered.items()
        ]
        found.append(f"Ranking at full cost, best first: {'; '.join(texts)}.")
    return found


def _summarize_beyond(trainings, ensembles):
    """Adds the increases on validation images, which select a scheme. Test images only report the result."""
    held_out = tables.relative_table(tables.on_validation(trainings), "OPT")["rows"]
    return {
        **tables.relative_table(trainings, "OPT"),
        "validation": {row: {key: content[key] for key in ("mean", "cells")} for row, content in held_out.items()},
    }


def _find_beyond(summary, paper):
    rows = summary["rows"]
    lines = [line for where in (rows, summary["validation"]) for line in tables.lines_of(where["ADALOSS"]["cells"])]
    if any(None in values for _, values in lines):
        return ["AdaLoss's increases are undefined here, because OPT makes no errors or has no exit that early."]
    own, held_out = map(_above_adaloss, (rows, summary["validation"]))
    overall = {row: tables.mean(tables.means(lines)) for row, lines in own.items()}
    ordered = [f"{_with_seeds(row, own)} {overall[row]:+.1f}" for row in sorted(overall, key=overall.get)]
    chosen, told = ([_with_seeds(row, lines) for row in _keep_the_end(lines)] for lines in (held_out, own))
    return [
        *_find_winner(own, held_out),
        *(
            f"{row}: {rows[row]['mean'][0]:+.1f}% at 1/4 of the cost and {rows[row]['mean'][-1]:+.1f}% at full cost."
            for row in _IN_TABLE_1
        ),
        f"Points above AdaLoss with the same seeds, averaged over the four fractions, best first: {_listed(ordered)}.",
        "Below AdaLoss at 1/4 of the cost and at most one point above it at full cost, averaged over each row's "
        f"seeds, on validation images: {_listed(chosen)}. On test images: {_listed(told)}.",
    ]


def _with_seeds(row, lines):
    """Returns a row's name, with its number of seeds if AdaLoss has more."""
    few = len(lines[row]) < len(lines["ADALOSS"])
    count = len({seed for (*_, seed), _ in lines[row]})
    return f"{row} ({count} seed{'s' if count > 1 else ''})" if few else row


def _find_winner(own, held_out):
    """States which schemes beat AdaLoss with every seed: better early and as good at the end, on validation images."""
    seeds = list(dict.fromkeys(seed for (*_, seed), _ in own["ADALOSS"]))
    if len(seeds) == 1:
        return ["No scheme is declared better than AdaLoss, because results of one seed may be chance."]
    again = [row for row in own if row in held_out and row != "ADALOSS" and len(own[row]) == len(own["ADALOSS"])]
    of_seeds = {seed: {row: _of_seed(lines, seed) for row, lines in held_out.items()} for seed in seeds}
    kept = {
        seed: _keep_the_end({row: lines for row, lines in rows.items() if lines}) for seed, rows in of_seeds.items()
    }
    winners = [row for row in again if all(row in each for each in kept.values())]
    points = []
    for row in again:
        by_seed = [tables.means(_of_seed(own[row], seed)) for seed in seeds]
        points.append(f"{row} {', '.join(f'{values[0]:+.1f} and {values[-1]:+.1f}' for values in by_seed)}")
    return [
        (f"Better than AdaLoss: {_listed(winners)}. " if winners else "No scheme was better than AdaLoss. ")
        + "To count as better, a scheme's increase on validation images must be below AdaLoss's at 1/4 of the cost and "
        f"at most one point above it at full cost, with each of {len(seeds)} seeds. Schemes run with all seeds: "
        f"{_listed(again)}.",
        " ".join(f"Better with seed {seed}, of all schemes: {_listed(rows)}." for seed, rows in kept.items()),
        f"Points above AdaLoss on test images, at 1/4 of the cost and at full cost, for each seed: {_listed(points)}.",
    ]


def _above_adaloss(rows):
    """Returns how many points each row is above AdaLoss with the same network, data set and seed, for `tables.means`.

    Rows with a missing number are omitted.
    """
    base = dict(tables.lines_of(rows["ADALOSS"]["cells"]))
    lines = {row: tables.lines_of(content["cells"]) for row, content in rows.items() if row != "OPT"}
    return {
        row: [(where, [own - other for own, other in zip(values, base[where])]) for where, values in own_lines]
        for row, own_lines in lines.items()
        if not any(None in values for _, values in own_lines)
    }


def _of_seed(lines, seed):
    return [line for line in lines if line[0][-1] == seed]


def _keep_the_end(lines):
    """Returns the rows that are below AdaLoss at the first fraction and at most one point above it at the last."""
    means = {row: tables.means(own) for row, own in lines.items()}
    return [row for row, values in means.items() if values[0] < 0 and values[-1] <= 1]


def _listed(rows):
    return "; ".join(rows) or "none"


def _lay_out_losses(summary, paper):
    rows = summary["rows"]
    lines = [
        [exit_name, *(tables.number(content["mean"][place], 1) for content in rows.values())]
        for place, exit_name in enumerate(summary["exits"])
    ]
    return ["exit", *rows], lines


def _find_losses(summary, paper):
    means = "; ".join(
        f"{row} {', '.join(tables.number(tables.mean(part), 1) for part in _halves(content['mean']))}"
        for row, content in summary["rows"].items()
    )
    return [f"Mean increase over the first and the second half of the exits, in percent: {means}."]


def _halves(values):
    return values[: len(values) // 2], values[len(values) // 2 :]


def _lay_out_pairs(summary, paper):
    shares = [0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0]
    places = [summary["grid"].index(share) for share in shares]
    lines = [[row, *(tables.number(line[place], 1) for place in places)] for row, line in summary["mean"].items()]
    return ["increase (%) at a fraction of the small network's cost", *(f"{share:g}" for share in shares)], lines


def _find_pairs(summary, paper):
    small, large = (summary["mean"][row] for row in ("small ADALOSS", "large CONST"))
    both = [(own, other) for own, other in zip(small, large) if None not in (own, other)]
    within = [pair for pair, share in zip(zip(small, large), summary["grid"]) if share <= 1 and None not in pair]
    if not both:
        return ["Relative errors are undefined here, because the small network's last exit makes no errors."]
    ahead = sum(own <= other for own, other in within)
    ends, costs = ([pair["large CONST"][key][-1] for pair in summary["pairs"]] for key in ("increase", "cost"))
    return [
        f"Up to its full cost, the small network is at least as accurate at {ahead} of {len(within)} costs.",
        f"The large network costs {tables.mean(costs):.2f} times as much; its last exit's error is "
        f"{tables.mean(ends):+.1f}% relative to the small network's.",
    ]


def _lay_out_chains(summary, paper):
    names = list(next(iter(summary["data"].values()))["lines"])
    lines = [
        [
            dataset,
            *(f"{content['mean'][line]:.2f}" for line in names),
            tables.number(_chains_increase(content), 1),
            f"{100 * content['late']:.1f}%",
        ]
        for dataset, content in summary["data"].items()
    ]
    header = ["error (%), mean over budgets", *names, "ADALOSS over CONST (%)", "weight in the second half of exits"]
    return header, lines


def _chains_increase(content):
    return tables.increase(content["mean"]["EANN of ADALOSS"], content["mean"]["EANN of CONST"])


def _find_chains(summary, paper):
    increases = [_chains_increase(content) for content in summary["data"].values()]
    better = sum(increase is not None and increase < 0 for increase in increases)
    found = [f"The EANN of AdaLoss networks has the lower mean error on {better} of {len(increases)} data sets."]
    equal = [1.0] * len(next(iter(summary["data"].values()))["weights"])
    found.append(f"With equal weights, the second half of exits would have {figures.share_of_last_half(equal):.1%}.")
    late = sorted(summary["data"], key=lambda dataset: summary["data"][dataset]["late"])
    if len(late) > 1:
        theirs = [dataset for dataset in paper["late"] if dataset in late]
        beside = f"; in the paper {', '.join(theirs)}" if len(theirs) == len(late) else ""
        found.append(f"Data sets by weight in the second half of exits, lowest first: {', '.join(late)}{beside}.")
    return found


def _lay_out_inflations(summary, paper):
    header = ["b", "networks", "workers", "sup C, bound", "sup C, simulated", "E[C], bound", "E[C], simulated"]
    lines = [
        [f"{row['base']:.3g}", row["networks"], str(row["workers"])]
        + [f"{row[what][how]:.3f}" for what in ("sup", "mean") for how in ("bound", "simulated")]
        for row in summary["rows"]
    ]
    return header, lines


def _find_inflations(summary, paper):
    own = [row for row in summary["rows"] if row["networks"] == "anytime" and row["workers"] == 1]
    kept = sum(row[what]["simulated"] <= row[what]["bound"] for row in own for what in ("sup", "mean"))
    return [
        f"{kept} of the proposition's {2 * len(own)} bounds (anytime networks, one worker) hold in a simulation of 12 "
        "networks.",
        "Bounds for regular networks are limits for an infinite sequence. Bounds for two workers are our "
        "interpretation of the paper's remark. A simulation of 12 networks may be above or below either.",
    ]


EXPERIMENTS = {
    "table1": _table(
        "Test error by scheme, relative to OPT", {"CONST": CONST, "LINEAR": LINEAR, "ADALOSS": ADALOSS}, "OPT"
    ),
    "table3": _table("AdaLoss's gamma", TABLE3, "gamma 0"),
    "table4": _table("AdaLoss's momentum", TABLE4, "momentum 0.9"),
    "table5": _table("AdaLoss's update period", TABLE5, "period 1"),
    "figure3": Experiment(
        "Training loss by depth, relative to OPT",
        figures.plan_losses,
        lambda trainings, ensembles: figures.losses(trainings),
        _lay_out_losses,
        _find_losses,
        draw.losses,
        note="Losses are averaged over the last epoch's batches, with augmentation and while weights change.",
        defaults=dict(datasets=("cifar100",), networks=((5, 16),)),
        optional=figures.rows_of_losses,
    ),
    "figure5": Experiment(
        "Small networks with AdaLoss against large ones with CONST",
        figures.plan_pairs,
        lambda trainings, ensembles: figures.pairs(trainings),
        _lay_out_pairs,
        _find_pairs,
        draw.pairs,
        defaults=dict(networks=((7, 16), (13, 16), (9, 16), (17, 16))),  # two of the paper's pairs
        quick=dict(networks=((1, 4), (2, 4))),
    ),
    "figure6": Experiment(
        "EANNs of AdaLoss and of CONST networks, and the weights that AdaLoss learns",
        figures.plan_members,
        figures.chains,
        _lay_out_chains,
        _find_chains,
        draw.chains,
        figures.ensembles,
        note="Errors are averaged over budgets in steps of 5% of the largest network's cost, starting with the first "
        "budget at which all columns have an answer.",
        defaults=dict(networks=((7, 16), (13, 16), (25, 16))),  # the paper's depths
        quick=dict(networks=((1, 4), (2, 4))),
    ),
    "proposition": Experiment(
        "Proposition 4.1: cost inflation, bounds and simulation",
        None,
        lambda trainings, ensembles: figures.inflations(),
        _lay_out_inflations,
        _find_inflations,
    ),
    "beyond": _table(
        "Beyond the paper: other schemes, relative to OPT",
        BEYOND,
        "OPT",
        _find_beyond,
        _summarize_beyond,
        always=_IN_TABLE_1,
        once=True,
    ),
}


def get(name):
    """Returns the `Experiment` with a name."""
    if name not in EXPERIMENTS:
        raise ValueError(f"Unknown experiment '{name}'. {_errors.nearest(name, EXPERIMENTS)}")
    return EXPERIMENTS[name]


@functools.cache
def paper():
    """Returns the paper's numbers and quotes with their sources, from `paper.json` in this directory.

    Example:
    >>> paper()["table1"]["rows"]["ADALOSS"]
    [32.99, 9.97, 3.96, 2.73]
    """
    return json.loads((pathlib.Path(__file__).parent / "paper.json").read_text())
