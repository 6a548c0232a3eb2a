"""The experiments: their rows, networks and the paper's numbers are in `catalog.json`, what they share in `KINDS`."""

import dataclasses
import json
import pathlib
import typing

from anytime_keras import _errors
from anytime_keras.experiments import planning, show, summaries
from anytime_keras.experiments.settings import Settings

# Checks the code in a minute on a CPU; its numbers cannot be compared with the paper's.
QUICK = dict(datasets=["digits"], networks=["1x4"], epochs=3, seeds=1)


class Kind(typing.NamedTuple):
    """How the experiments of a kind list their runs, compute their numbers and show them."""

    plan: typing.Callable
    summarize: typing.Callable
    table: typing.Callable
    draw: typing.Callable | None = None


KINDS = {
    "relative": Kind(planning.plan, summaries.relative, show.relative),
    "losses": Kind(planning.one_network, summaries.losses, show.losses, show.draw_losses),
    "fractions": Kind(planning.plan, summaries.fractions, show.fractions, show.draw_budgets),
    "pairs": Kind(planning.pairs, summaries.budgets, show.budgets, show.draw_budgets),
    "relative pairs": Kind(planning.pairs, summaries.pairs, show.budgets, show.draw_budgets),
    "ensembles": Kind(planning.members, summaries.budgets, show.budgets, show.draw_budgets),
    "inflations": Kind(lambda settings, rows, opt: [], lambda runs: summaries.inflations(), show.inflations),
}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One table or figure.

    Attributes:
        title: str.
        kind: a key of `KINDS`.
        paper: dict with the paper's numbers and quotes, and their source.
        rows: dict from a row's name to its recipe changes; empty if nothing is trained. AdaLoss's defaults are the
            paper's, so that experiments share runs.
        opt: which networks to train for one exit only, see `planning.plan`.
        base: row with which a table of relative errors compares.
        defaults, quick: dicts of `Settings` that differ from the usual defaults, for a full run and a quick check.

    Example:
    >>> EXPERIMENTS["table1"].settings(epochs=100).networks
    ('5x16', '7x16', '9x16')
    >>> EXPERIMENTS["table1"].paper["rows"]["ADALOSS"]
    [32.99, 9.97, 3.96, 2.73]
    """

    title: str
    kind: str
    paper: dict
    rows: dict = dataclasses.field(default_factory=dict)
    opt: str | None = None
    base: str = "OPT"
    defaults: dict = dataclasses.field(default_factory=dict)
    quick: dict = dataclasses.field(default_factory=dict)

    def settings(self, quick=False, **changes):
        """Returns the default `Settings`, or those of a quick check, with changes applied."""
        usual = {**QUICK, **self.quick} if quick else self.defaults
        chosen = {**usual, **{name: value for name, value in changes.items() if value is not None}}
        return Settings(**{name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()})

    def plan(self, settings):
        """Lists the training runs, as `planning.Planned`."""
        return KINDS[self.kind].plan(settings, self.rows, opt=self.opt)

    def ensembles(self, settings):
        """Lists pairs of an ensemble's labels and its members' recipes."""
        return planning.ensembles(settings, self.rows) if self.kind == "ensembles" else []

    def summarize(self, runs, ensembles=()):
        """Computes the numbers of the table or figure from the results' runs and ensembles."""
        arguments = {"relative": [self.base], "ensembles": [ensembles, "largest"]}.get(self.kind, [])
        return KINDS[self.kind].summarize(runs, *arguments)

    def table(self, summary):
        """Returns the header and rows of a table."""
        return KINDS[self.kind].table(summary, self.paper)

    def draw(self, summary):
        """Returns a Matplotlib figure, or None if the experiment has none."""
        draw = KINDS[self.kind].draw
        return draw and draw(summary)


EXPERIMENTS = {
    name: Experiment(**entry)
    for name, entry in json.loads((pathlib.Path(__file__).parent / "catalog.json").read_text()).items()
}


def get(name):
    """Returns the `Experiment` with a name."""
    if name not in EXPERIMENTS:
        raise ValueError(f"Unknown experiment '{name}'. {_errors.nearest(name, EXPERIMENTS)}")
    return EXPERIMENTS[name]
