"""Defines the experiments: what each trains, how its numbers are computed, and how they are shown."""

import dataclasses
import functools
import json
import pathlib
import typing

from anytime_keras import _errors
from anytime_keras.experiments import draw, summaries, tables
from anytime_keras.experiments.settings import (
    ADALOSS,
    CONST,
    HALF_END,
    LINEAR,
    QUICK,
    Planned,
    Settings,
    check_growing,
    costs,
    label,
    network_config,
    plan,
    recipe,
)


def _adaloss(**arguments):
    return {"weighting": {"name": "adaloss", **arguments}}


# From a table row to its recipe changes. AdaLoss's defaults are the paper's, so rows with default values share their
# training runs with Table 1.
BOTH = {"ADALOSS": ADALOSS, "CONST": CONST}
TABLE1 = {"CONST": CONST, "LINEAR": LINEAR, "ADALOSS": ADALOSS}
TABLE3 = {"gamma 0": _adaloss(gamma=0.0), "gamma 0.05": ADALOSS, "gamma 0.15": _adaloss(gamma=0.15)}
TABLE4 = {"momentum 0.9": ADALOSS, "momentum 0.99": _adaloss(momentum=0.99)}
TABLE5 = {"period 1": ADALOSS, "period 100": _adaloss(update_period=100)}
FIGURE3 = {"CONST": CONST, "HALF-END": HALF_END, "ADALOSS": ADALOSS}
BEYOND = {
    "CONST": CONST,
    "ADALOSS": ADALOSS,
    "gamma 1 to 0.05": _adaloss(gamma=[1.0, 0.05]),
    "label smoothing 0.1": {**ADALOSS, "label_smoothing": 0.1},
    "first order, period 10": _adaloss(first_order=True, update_period=10),
    "distillation": {**ADALOSS, "distillation": {"weight": 0.5, "temperature": 3.0}},
    "equilibrium": {**ADALOSS, "gradient_equilibrium": True},
    "mean of logarithms": _adaloss(mean="geometric"),
    "batch's own losses": _adaloss(mean="batch"),
    "uncertainty": {"weighting": {"name": "uncertainty"}},
    "GradNorm, period 10": {"weighting": {"name": "gradnorm", "update_period": 10}},
}

# Tiny ImageNet in place of ILSVRC; `--dataset=imagenet2012` runs ILSVRC.
IMAGENET = dict(datasets=("tiny_imagenet",), epochs=90, seeds=1, batch_size=256)
PAIR = dict(networks=("1x4", "2x4"))
PLAIN = "resann26:blocks=[{0},{0},{0},{0}],exit_every={1}"  # one exit makes it a plain network
DENSE = "denseann{0}:exit_every={1},first_exit={1}"


def plan_losses(settings):
    if len(settings.networks) != 1:
        raise ValueError(f"Figure 3 needs exactly one network. Received: {list(settings.networks)}.")
    return plan(settings, FIGURE3, opt="all")


def plan_pairs(settings, opt=None):
    """Lists the runs for pairs of networks, each a small one and the large one to compare it with."""
    if len(settings.networks) % 2:
        raise ValueError(
            "This experiment needs pairs of networks, each a small one followed by a large one. "
            f"Received: {list(settings.networks)}."
        )
    planned = []
    for small, large in zip(settings.networks[::2], settings.networks[1::2]):
        check_growing(settings, (small, large))
        runs = plan(settings, {"small ADALOSS": ADALOSS}, [small])
        runs += plan(settings, {"large CONST": CONST}, [large], opt)
        planned += [Planned({**one.labels, "pair": f"{small} against {large}"}, one.recipe) for one in runs]
    return planned


def plan_eanns(settings):
    """Lists the runs of networks that grow in cost, and OPT of the largest."""
    members(settings)
    return plan(settings, BOTH) + plan(settings, {}, settings.networks[-1:], opt="fractions")


def plan_members(settings):
    return [one for row, (change, own) in members(settings, True).items() for one in plan(settings, {row: change}, own)]


def members(settings, linear=False):
    """Maps each ensemble's row to the recipe changes and the networks of its members.

    Networks with one exit are plain networks. With `linear`, those of a family make one linear ensemble.
    """
    found = {row: (change, list(settings.networks)) for row, change in BOTH.items()}
    if linear:
        found = {}
        for network in settings.networks:
            family = network_config(network)["name"].rstrip("0123456789")
            several = len(costs(settings, network, settings.datasets[0])["exit"]) > 1
            row = "EANN of ADALOSS" if several else f"linear ensemble of {family}"
            found.setdefault(row, (ADALOSS if several else CONST, []))[1].append(network)
    for row, (_, networks) in found.items():
        if len(networks) < 2:
            raise ValueError(f"An ensemble needs two or more networks, smallest first. Received: {row}: {networks}.")
        check_growing(settings, networks)
    return found


def ensembles(settings, linear=False):
    """Lists pairs of an ensemble's labels and its members' recipes, smallest first."""
    return [
        (
            dict(row=row, dataset=label(dataset), seed=seed),
            [recipe(settings, network, dataset, seed, **change) for network in networks],
        )
        for dataset in settings.datasets
        for row, (change, networks) in members(settings, linear).items()
        for seed in settings.seeds_of(dataset)
    ]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One table or figure.

    Attributes:
        title: str.
        plan: function from `Settings` to a list of `Planned`; None if nothing is trained.
        summarize: function from the results' runs and ensembles to the numbers of the table or figure.
        table: function from a summary and the paper's entry to the header and rows of a table.
        draw: function from a summary to a Matplotlib figure, or None.
        ensembles: function from `Settings` to pairs (labels of an ensemble, recipes of its members), or None.
        defaults, quick: dicts of `Settings` that differ from the usual defaults, for a full run and a quick check.

    Example:
    >>> EXPERIMENTS["table1"].settings(epochs=100).networks
    ('5x16', '7x16', '9x16')
    """

    title: str
    plan: typing.Callable | None
    summarize: typing.Callable
    table: typing.Callable
    draw: typing.Callable | None = None
    ensembles: typing.Callable | None = None
    defaults: dict = dataclasses.field(default_factory=dict)
    quick: dict = dataclasses.field(default_factory=dict)

    def settings(self, quick=False, **changes):
        """Returns the default `Settings`, or those of a quick check, with changes applied."""
        usual = {**QUICK, **self.quick} if quick else self.defaults
        return Settings(**{**usual, **{name: value for name, value in changes.items() if value is not None}})


def _table(title, rows, base):
    planned = functools.partial(plan, rows=rows, opt="fractions" if base == "OPT" else None)
    return Experiment(title, planned, lambda runs, ensembles: summaries.relative_table(runs, base), tables.relative)


def _budgets(title, planned, alone="all", summarize=None, table=tables.budgets, **others):
    summarize = summarize or functools.partial(summaries.budgets, alone=alone)
    return Experiment(title, planned, summarize, table, draw.budgets, **others)


def _with_fractions(runs, ensembles):
    named = [{**run, "row": f"{run['network']} {run['row']}"} for run in runs]
    return {**summaries.budgets(runs), "fractions": summaries.relative_table(named, None)}


EXPERIMENTS = {
    "table1": _table("Test error by scheme, relative to OPT", TABLE1, "OPT"),
    "table2": _budgets(
        "Three families with CONST and AdaLoss on Tiny ImageNet in place of ILSVRC; the plot is Figure 5f",
        functools.partial(plan, rows=BOTH),
        summarize=_with_fractions,
        table=tables.fractions,
        defaults=dict(networks=("resann50", "denseann169", "msdnet38"), **IMAGENET),
        quick=dict(networks=("1x4", "denseann:depth=10,growth_rate=4,exit_every=1")),
    ),
    "table3": _table("AdaLoss's gamma", TABLE3, "gamma 0"),
    "table4": _table("AdaLoss's momentum", TABLE4, "momentum 0.9"),
    "table5": _table("AdaLoss's update period", TABLE5, "period 1"),
    "figure1": _budgets(
        "A small network with AdaLoss, a large one with CONST, and OPT",
        functools.partial(plan_pairs, opt="fractions"),
        defaults=dict(networks=("7x16", "13x16")),
        quick=PAIR,
    ),
    "figure3": Experiment(
        "Training loss by depth, relative to OPT",
        plan_losses,
        lambda runs, ensembles: summaries.losses(runs),
        tables.losses,
        draw.losses,
        defaults=dict(datasets=("cifar100",), networks=("5x16",)),
    ),
    "figure5": _budgets(
        "Small networks with AdaLoss against large ones with CONST",
        plan_pairs,
        summarize=lambda runs, ensembles: summaries.pairs(runs),
        defaults=dict(networks=("7x16", "13x16", "9x16", "17x16")),  # two of the paper's pairs
        quick=PAIR,
    ),
    "figure5de": _budgets(
        "Figures 5d and 5e, on Tiny ImageNet in place of ILSVRC: small networks with AdaLoss, large ones with CONST",
        plan_pairs,
        defaults=dict(networks=("resann50", "resann101", "msdnet33", "msdnet38"), **IMAGENET),
        quick=PAIR,
    ),
    "figure6": _budgets(
        "EANNs of AdaLoss and of CONST networks, OPT, and the weights that AdaLoss learns",
        plan_eanns,
        "largest",
        ensembles=ensembles,
        defaults=dict(networks=("7x16", "13x16", "25x16")),  # the paper's depths
        quick=PAIR,
    ),
    "figure6b": _budgets(
        "An EANN against linear ensembles, on Tiny ImageNet in place of ILSVRC",
        plan_members,
        "largest",
        ensembles=functools.partial(ensembles, linear=True),
        defaults=dict(
            networks=("resann26", "resann50", "resann101")
            + tuple(PLAIN.format(units, 4 * units) for units in (2, 4, 6, 8))
            + tuple(DENSE.format(*size) for size in ((121, 58), (169, 82), (201, 98))),
            **IMAGENET,
        ),
        quick=dict(
            networks=("1x4", "2x4", *(f"resann:num_units={n},channels=4,exit_every={3 * n}" for n in (1, 2)))
        ),
    ),
    "proposition": Experiment(
        "Proposition 4.1: cost inflation, bounds and simulation",
        None,
        lambda runs, ensembles: summaries.inflations(),
        tables.inflations,
    ),
    "beyond": _table("Beyond the paper: other schemes, relative to OPT", BEYOND, "OPT"),
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
