"""The experiments by name: what each trains, how its numbers follow, and how they are shown."""

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


# Rows of the tables -> what the recipe changes. AdaLoss's defaults are the paper's, so rows that name them share their
# trainings with Table 1.
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
        plan: function from `Settings` to a list of `Planned`; None where nothing is trained.
        summarize: function from the results' `trainings` and `ensembles` to the table's or figure's numbers.
        lay_out: function from a summary and the paper's entry to a header and rows of a table.
        find: function from the same to sentences that tell what the numbers say.
        draw: function from a summary to a Matplotlib figure, or None.
        ensembles: function from `Settings` to pairs: labels of an ensemble, recipes of its members; None for none.
        defaults, quick: dicts, what its `Settings` are by default and for a quick check, where others than usual.
        note: str, what its numbers are, beyond what the page says of all.
        optional: function from `Settings` to groups of rows that `Settings.without` may name, though not all of a
            group; with all others something is compared. None if no row may be left out.
        once: bool, whether `Settings.once` may name the same rows: what is found compares numbers of the same seeds.

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
        """Returns the `Settings`: the defaults, or those of a quick check, and what is changed."""
        usual = {**QUICK, **self.quick} if quick else self.defaults
        made = Settings(**{**usual, **{name: value for name, value in changes.items() if value is not None}})
        self.check(made)
        return made

    def check(self, settings):
        """Raises ValueError if the settings leave out rows that are needed."""
        if settings.once and not self.once:
            raise ValueError(f"This experiment's rows need all seeds. Received: once={settings.once!r}.")
        if settings.without and self.optional is None:
            raise ValueError(f"This experiment needs all its rows. Received: without={settings.without!r}.")
        named = [*settings.without, *settings.once]
        if not named:
            return
        groups = self.optional(settings)
        for row in named:
            if row not in sum(groups, []):
                raise ValueError(f"'{row}' is no row that may be named. {_errors.nearest(row, sum(groups, []))}")
            if named.count(row) > 1:
                raise ValueError(
                    f"'{row}' is named twice. Received: without={settings.without!r}, once={settings.once!r}."
                )
        if any(set(settings.without).issuperset(group) for group in groups):
            every = "; ".join(", ".join(map(repr, group)) for group in groups)
            raise ValueError(f"Not all may be left out of {every}. Received: without={settings.without!r}.")


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
    found = [f"Of the paper's {compared} numbers that could be compared, {same} have the same sign here."]
    beside = [
        (f"{row} at {fraction:g}", theirs, ours)
        for row, numbers in known.items()
        for fraction, theirs, ours in zip(summary["fractions"], numbers, summary["rows"][row]["mean"])
        if ours is not None
    ]
    if beside and summary["base"] != "OPT":
        theirs, ours = (max(abs(each[place]) for each in beside) for place in (1, 2))
        found[0] += f" The largest change, up or down: {theirs:.2f} in the paper, {ours:.2f} here."
    places = [place for row in known for place in zip(*summary["rows"][row]["by_seed"].values())]
    apart = [place for place in places if len(place) > 1 and None not in place]
    if apart:
        split = sum(min(place) < 0 < max(place) for place in apart)
        found.append(f"Seeds of one number lie on both sides of 0 at {split} of {len(apart)} places.")
    if beside:
        where, theirs, ours = max(beside, key=lambda each: abs(each[2] - each[1]))
        found.append(f"Furthest from the paper: {where}, {ours:+.2f} for {theirs:+.2f}.")
    ordered = {
        "the paper": {row: paper["rows"][row][-1] for row in known},
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
        found.append(f"From best to worst at the full cost: {'; '.join(texts)}.")
    return found


def _summarize_beyond(trainings, ensembles):
    """The table, and its increases on validation images, by which to choose a scheme: test images are for telling."""
    held_out = tables.relative_table(tables.on_validation(trainings), "OPT")["rows"]
    return {
        **tables.relative_table(trainings, "OPT"),
        "validation": {row: {key: content[key] for key in ("mean", "cells")} for row, content in held_out.items()},
    }


def _find_beyond(summary, paper):
    rows = summary["rows"]
    lines = [line for where in (rows, summary["validation"]) for line in tables.lines_of(where["ADALOSS"]["cells"])]
    if any(None in values for _, values in lines):
        return ["AdaLoss's numbers are not defined here: OPT makes no error, or has no exit so early."]
    own, held_out = map(_above_adaloss, (rows, summary["validation"]))
    overall = {row: tables.mean(tables.means(lines)) for row, lines in own.items()}
    ordered = [f"{_with_seeds(row, own)} {overall[row]:+.1f}" for row in sorted(overall, key=overall.get)]
    chosen, told = ([_with_seeds(row, lines) for row in _keep_the_end(lines)] for lines in (held_out, own))
    return [
        *_find_winner(own, held_out),
        *(
            f"{row}: {rows[row]['mean'][0]:+.1f}% at 1/4 and {rows[row]['mean'][-1]:+.1f}% at the full cost."
            for row in _IN_TABLE_1
        ),
        f"Points above AdaLoss of the same seeds, mean of the four places, from best to worst: {_listed(ordered)}.",
        "Lower than AdaLoss at 1/4 and no more than a point higher at the full cost, mean over a row's seeds, on "
        f"validation images: {_listed(chosen)}. On test images: {_listed(told)}.",
    ]


def _with_seeds(row, lines):
    """A row's name, with how many seeds it has if AdaLoss has more."""
    few = len(lines[row]) < len(lines["ADALOSS"])
    return f"{row} ({len({seed for (*_, seed), _ in lines[row]})} of the seeds)" if few else row


def _find_winner(own, held_out):
    """A scheme wins if it keeps AdaLoss's end and lowers its beginning on validation images, with every seed."""
    seeds = list(dict.fromkeys(seed for (*_, seed), _ in own["ADALOSS"]))
    if len(seeds) == 1:
        return ["No winner is named: one seed does not tell what another would give."]
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
        f"{'' if winners else 'No winner is named. '}Lower than AdaLoss at 1/4 and no more than a point higher at the "
        f"full cost, on validation images, with each of {len(seeds)} seeds: {_listed(winners)}, of the rows that have "
        f"them all ({_listed(again)}).",
        f"Of all rows, {', '.join(f'with seed {seed}: {_listed(rows)}' for seed, rows in kept.items())}.",
        f"Points above AdaLoss at 1/4 and at the full cost, seed by seed, on test images: {_listed(points)}.",
    ]


def _above_adaloss(rows):
    """How many points rows are above AdaLoss of the same network, data set and seed, as `tables.means` takes it; rows
    that have no number somewhere are left out."""
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
    """The rows that are lower than AdaLoss at the first place and no more than a point higher at the last."""
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
    return [f"On average in the first and in the second half of exits, in percent: {means}."]


def _halves(values):
    return values[: len(values) // 2], values[len(values) // 2 :]


def _lay_out_pairs(summary, paper):
    shares = [0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0]
    places = [summary["grid"].index(share) for share in shares]
    lines = [[row, *(tables.number(line[place], 1) for place in places)] for row, line in summary["mean"].items()]
    return ["increase (%) within a share of the small one's cost", *(f"{share:g}" for share in shares)], lines


def _find_pairs(summary, paper):
    small, large = (summary["mean"][row] for row in ("small ADALOSS", "large CONST"))
    both = [(own, other) for own, other in zip(small, large) if None not in (own, other)]
    within = [pair for pair, share in zip(zip(small, large), summary["grid"]) if share <= 1 and None not in pair]
    if not both:
        return ["The small network's last exit makes no error here: relative errors are not defined."]
    ahead = sum(own <= other for own, other in within)
    ends, costs = ([pair["large CONST"][key][-1] for pair in summary["pairs"]] for key in ("increase", "cost"))
    return [
        f"Up to its own full cost the small network is at least as good at {ahead} of {len(within)} costs read.",
        f"The large one, of {tables.mean(costs):.2f} times the cost, ends {tables.mean(ends):+.1f}% from there.",
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
    return ["error (%), mean over budgets", *names, "ADALOSS over CONST (%)", "weight in the last half of exits"], lines


def _chains_increase(content):
    return tables.increase(content["mean"]["EANN of ADALOSS"], content["mean"]["EANN of CONST"])


def _find_chains(summary, paper):
    increases = [_chains_increase(content) for content in summary["data"].values()]
    better = sum(increase is not None and increase < 0 for increase in increases)
    found = [f"The EANN of AdaLoss networks is the better one on {better} of {len(increases)} data sets."]
    equal = [1.0] * len(next(iter(summary["data"].values()))["weights"])
    found.append(f"Equal weights would have {figures.share_of_last_half(equal):.1%} in the last half of exits.")
    late = sorted(summary["data"], key=lambda dataset: summary["data"][dataset]["late"])
    if len(late) > 1:
        theirs = [dataset for dataset in paper["late"] if dataset in late]
        beside = f"; in the paper {', '.join(theirs)}" if len(theirs) == len(late) else ""
        found.append(f"From least to most weight in the last half of exits: {', '.join(late)}{beside}.")
    return found


def _lay_out_inflations(summary, paper):
    header = ["b", "networks", "workers", "sup C, bound", "sup C, run", "E[C], bound", "E[C], run"]
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
        f"{kept} of the proposition's {2 * len(own)} bounds (anytime networks, one worker) hold in the run, of 12 "
        "networks.",
        "The rows of regular networks are limits of an endless sequence, those of two workers our reading of the "
        "paper's remark; a run of 12 may lie on either side.",
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
        note="Losses are means over the last epoch's batches, as training sees them: augmented, weights moving.",
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
        note="Errors are means over budgets in steps of 5% of the largest network's cost, from the first at which all "
        "columns answer.",
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
    """Returns the `Experiment` of a name."""
    if name not in EXPERIMENTS:
        raise ValueError(f"There is no experiment '{name}'. {_errors.nearest(name, EXPERIMENTS)}")
    return EXPERIMENTS[name]


@functools.cache
def paper():
    """The paper's own numbers and words, each with its place: what `paper.json` beside this file holds.

    Example:
    >>> paper()["table1"]["rows"]["ADALOSS"]
    [32.99, 9.97, 3.96, 2.73]
    """
    return json.loads((pathlib.Path(__file__).parent / "paper.json").read_text())
