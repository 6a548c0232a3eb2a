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
TABLE1 = {"CONST": CONST, "LINEAR": LINEAR, "ADALOSS": ADALOSS}
TABLE3 = {"gamma 0": _adaloss(gamma=0.0), "gamma 0.05": ADALOSS, "gamma 0.15": _adaloss(gamma=0.15)}
TABLE4 = {"momentum 0.9": ADALOSS, "momentum 0.99": _adaloss(momentum=0.99)}
TABLE5 = {"period 1": ADALOSS, "period 100": _adaloss(update_period=100)}
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
        table: function from a summary and the paper's entry to the header and rows of a table.
        draw: function from a summary to a Matplotlib figure, or None.
        ensembles: function from `Settings` to pairs (labels of an ensemble, recipes of its members), or None.
        defaults, quick: dicts of `Settings` that differ from the usual defaults, for a full run and a quick check.
        optional: rows that `Settings.without` and `Settings.once` may name. The others are needed for comparison.

    Example:
    >>> EXPERIMENTS["table1"].settings(epochs=100).networks
    ((5, 16), (7, 16), (9, 16))
    """

    title: str
    plan: typing.Callable | None
    summarize: typing.Callable
    table: typing.Callable
    draw: typing.Callable | None = None
    ensembles: typing.Callable | None = None
    defaults: dict = dataclasses.field(default_factory=dict)
    quick: dict = dataclasses.field(default_factory=dict)
    optional: tuple = ()

    def settings(self, quick=False, **changes):
        """Returns the default `Settings`, or those of a quick check, with changes applied."""
        usual = {**QUICK, **self.quick} if quick else self.defaults
        made = Settings(**{**usual, **{name: value for name, value in changes.items() if value is not None}})
        for row in (*made.without, *made.once):
            if row not in self.optional:
                raise ValueError(f"'{row}' is not an optional row. {_errors.nearest(row, self.optional)}")
        return made


def _table(title, rows, base, needed=(), summarize=None):
    return Experiment(
        title,
        functools.partial(plan, rows=rows, opt="fractions" if base == "OPT" else None),
        summarize or (lambda trainings, ensembles: tables.relative_table(trainings, base)),
        lambda summary, paper: tables.cells_of_table(summary, paper["rows"]),
        optional=tuple(row for row in rows if row not in (base, *needed)),
    )


def _summarize_beyond(trainings, ensembles):
    """Adds the increases on validation images, which select a scheme. Test images only report the result."""
    held_out = tables.relative_table(tables.on_validation(trainings), "OPT")["rows"]
    return {
        **tables.relative_table(trainings, "OPT"),
        "validation": {row: {key: content[key] for key in ("mean", "cells")} for row, content in held_out.items()},
    }


EXPERIMENTS = {
    "table1": _table("Test error by scheme, relative to OPT", TABLE1, "OPT"),
    "table3": _table("AdaLoss's gamma", TABLE3, "gamma 0"),
    "table4": _table("AdaLoss's momentum", TABLE4, "momentum 0.9"),
    "table5": _table("AdaLoss's update period", TABLE5, "period 1"),
    "figure3": Experiment(
        "Training loss by depth, relative to OPT",
        figures.plan_losses,
        lambda trainings, ensembles: figures.losses(trainings),
        figures.table_of_losses,
        draw.losses,
        defaults=dict(datasets=("cifar100",), networks=((5, 16),)),
        optional=tuple(figures.SCHEMES),
    ),
    "figure5": Experiment(
        "Small networks with AdaLoss against large ones with CONST",
        figures.plan_pairs,
        lambda trainings, ensembles: figures.pairs(trainings),
        figures.table_of_pairs,
        draw.pairs,
        defaults=dict(networks=((7, 16), (13, 16), (9, 16), (17, 16))),  # two of the paper's pairs
        quick=dict(networks=((1, 4), (2, 4))),
    ),
    "figure6": Experiment(
        "EANNs of AdaLoss and of CONST networks, and the weights that AdaLoss learns",
        figures.plan_members,
        figures.chains,
        figures.table_of_chains,
        draw.chains,
        figures.ensembles,
        defaults=dict(networks=((7, 16), (13, 16), (25, 16))),  # the paper's depths
        quick=dict(networks=((1, 4), (2, 4))),
    ),
    "proposition": Experiment(
        "Proposition 4.1: cost inflation, bounds and simulation",
        None,
        lambda trainings, ensembles: figures.inflations(),
        figures.table_of_inflations,
    ),
    "beyond": _table(
        "Beyond the paper: other schemes, relative to OPT", BEYOND, "OPT", ("CONST", "ADALOSS"), _summarize_beyond
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
