"""The experiments: their rows, networks and the paper's numbers are in `catalog.json`, what they share in `KINDS`."""

import collections
import dataclasses
import json
import pathlib

from anytime_keras.experiments import planning, show, summaries
from anytime_keras.experiments.planning import Settings

# Checks the code in a minute on a CPU; its numbers cannot be compared with the paper's.
QUICK = dict(datasets=["digits"], networks=["1x4"], epochs=3, seeds=1)

Kind = collections.namedtuple("Kind", "plan summarize table draw", defaults=[lambda summary: None])
# How the experiments of a kind list their runs, compute their numbers and show them.
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
    """One table or figure."""

    title: str
    kind: str  # a key of `KINDS`
    paper: dict  # the paper's numbers and quotes, and their source
    # From a row's name to its recipe changes. AdaLoss's defaults are the paper's, so that experiments share runs.
    rows: dict = dataclasses.field(default_factory=dict)
    opt: str | None = None  # which networks to train for one exit only, see `planning.plan`
    base: str = "OPT"  # the row with which a table of relative errors compares
    defaults: dict = dataclasses.field(default_factory=dict)  # the `Settings` of a full run
    quick: dict = dataclasses.field(default_factory=dict)  # those of a quick check that differ from `QUICK`

    def settings(self, quick=False, **changes):
        """Returns the `Settings` of a full run or a quick check, with changes."""
        chosen = {**({**QUICK, **self.quick} if quick else self.defaults), **changes}
        return Settings(**{name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()})

    def plan(self, settings):
        """Lists the training runs, as `planning.Planned`."""
        return KINDS[self.kind].plan(settings, self.rows, opt=self.opt)

    def summarize(self, runs, ensembles=()):
        """Computes the numbers of the table or figure from the results' runs and ensembles."""
        arguments = {"relative": [self.base], "ensembles": [ensembles, "largest"]}.get(self.kind, [])
        return KINDS[self.kind].summarize(runs, *arguments)


_entries = json.loads(pathlib.Path(__file__).with_name("catalog.json").read_text())
EXPERIMENTS = {name: Experiment(**entry) for name, entry in _entries.items()}
