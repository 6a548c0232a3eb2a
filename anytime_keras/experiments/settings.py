"""Turns an experiment's settings into a list of labelled training runs."""

import ast
import dataclasses
import functools
import json
import pathlib
import typing

from anytime_keras import models, runtime
from anytime_keras.cost import exit_costs
from anytime_keras.data import sources
from anytime_keras.training import Recipe

FRACTIONS = (0.25, 0.5, 0.75, 1.0)
CONST, LINEAR, HALF_END, ADALOSS = (
    {"weighting": {"name": name}} for name in ("constant", "linear", "half_end", "adaloss")
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The scale of an experiment.

    Attributes:
        datasets: names or paths of data sets, as for `anytime_keras.data.load`.
        networks: tuple of str. "5x16" is a ResANN with 5 units in each block and 16 channels. Any other network is its
            name with the arguments of `anytime_keras.models.build`, such as "msdnet:blocks=[2,2],exit_every=2".
        epochs: int, or a dict with one number for each data set. The learning rate is divided by 10 at 1/2 and 3/4 of
            the epochs, on ILSVRC at 1/3 and 2/3.
        seeds: int, the number of seeds (0, 1, ...), or a tuple with one number for each data set.
        batch_size: int.
        precision: Keras dtype policy.

    Raises:
        ValueError: if an attribute is not valid.

    Example:
    >>> settings = Settings(datasets=("cifar10",), networks=("5x16",), epochs={"cifar10": 300})
    >>> settings.epochs_of("cifar10"), network_config("5x16")
    (300, {'name': 'resann', 'num_units': 5, 'channels': 16})
    """

    datasets: tuple = ("cifar10", "cifar100")
    networks: tuple = ("5x16", "7x16", "9x16")
    epochs: int | dict = 60
    seeds: int | tuple = 2
    batch_size: int = 64
    precision: str = "float32"

    def __post_init__(self):
        labels = [label(dataset) for dataset in self.datasets]
        if not all(labels) or not labels or len(set(labels)) < len(labels):
            raise ValueError(
                "`datasets` must name at least one data set, with distinct names without directory and suffix, because "
                f"results use these names. Received: {self.datasets!r}."
            )
        if isinstance(self.epochs, dict) and set(self.epochs) != set(labels):
            raise ValueError(f"`epochs` needs one number for each of {labels}. Received: epochs={self.epochs}.")
        numbers = self.seeds if isinstance(self.seeds, tuple) else (self.seeds,) * len(self.datasets)
        if len(numbers) != len(self.datasets) or not all(type(each) is int and each > 0 for each in numbers):
            raise ValueError(
                "`seeds` must be a positive int, or one for each data set. "
                f"Received: seeds={self.seeds!r} for {self.datasets!r}."
            )
        for network in self.networks:
            network_config(network)

    def seeds_of(self, dataset):
        """Returns the seeds of a data set."""
        each = self.seeds if isinstance(self.seeds, tuple) else (self.seeds,) * len(self.datasets)
        return range(each[self.datasets.index(dataset)])

    def epochs_of(self, dataset):
        """Returns the number of epochs on a data set."""
        return self.epochs[label(dataset)] if isinstance(self.epochs, dict) else self.epochs


# Checks the code in a minute on a CPU; its numbers cannot be compared with the paper's.
QUICK = dict(datasets=("digits",), networks=("1x4",), epochs=3, seeds=1)


class Planned(typing.NamedTuple):
    """A training run: `labels` (`row`, `network`, `dataset`, `seed` and the experiment's own) and its `recipe`."""

    labels: dict
    recipe: Recipe


def split_networks(text):
    """Splits a list of networks at semicolons, or at commas if none has arguments.

    >>> split_networks("5x16,9x16"), split_networks("5x16; denseann:depth=10,growth_rate=4")
    (('5x16', '9x16'), ('5x16', 'denseann:depth=10,growth_rate=4'))
    """
    return tuple(part.strip() for part in text.split(";" if ":" in text else ",") if part.strip())


def network_config(text):
    """Parses the name of a network to the arguments of `anytime_keras.models.build`.

    >>> network_config("msdnet:blocks=[2,2],exit_every=2")
    {'name': 'msdnet', 'blocks': [2, 2], 'exit_every': 2}
    """
    name, _, arguments = text.partition(":")
    short = text.split("x")
    if len(short) == 2 and all(number.isdigit() and int(number) for number in short):
        return {"name": "resann", "num_units": int(short[0]), "channels": int(short[1])}
    try:
        models.registry.check_name(name)
        call = ast.parse(f"dict({arguments})", mode="eval").body
        if call.args:
            raise ValueError("Arguments need names.")
        return {"name": name, **{each.arg: ast.literal_eval(each.value) for each in call.keywords}}
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            "Networks must look like 5x16 (units per block, channels), 'resann50' or "
            f"'denseann:depth=10,growth_rate=4'. Received: '{text}'. {error}"
        ) from error


def label(dataset):
    """Returns a data set's name without directory and suffix.

    >>> label("/data/cifar10.npz")
    'cifar10'
    """
    return pathlib.Path(str(dataset)).stem


def recipe(settings, network, dataset, seed, **changes):
    """Returns the paper's recipe (section 5.1) at the scale of the settings."""
    arguments = {"data": str(dataset)}
    augment = sources.defaults(dataset).augment
    if augment:  # named, so that results contain it
        arguments["augment"] = list(augment)
    scale = dict(epochs=settings.epochs_of(dataset), batch_size=settings.batch_size, precision=settings.precision)
    return Recipe.paper(network_config(network), arguments, **{**scale, "seed": seed, **changes})


def plan(settings, rows, networks=None, opt=None):
    """Lists the runs of all rows, networks, data sets and seeds.

    Args:
        settings: `Settings`.
        rows: dict from a row's name to its recipe changes.
        networks: names that replace the settings' networks.
        opt: adds runs that train a network for one exit only (row `OPT`, label `exit`): `"fractions"` for the exits
            that answer at `FRACTIONS`, `"all"` for every exit, None for none. On a CPU, such a network ends after its
            exit. On an accelerator it is complete, so that the same program trains it side by side with the others.

    Returns:
        A list of `Planned`.
    """
    planned = []
    for dataset in settings.datasets:
        for network in networks or settings.networks:
            alone = _alone(costs(settings, network, dataset), opt) if opt else []
            for seed in settings.seeds_of(dataset):
                for labels, change in [*(({"row": row}, change) for row, change in rows.items()), *alone]:
                    labels = {**labels, "network": network, "dataset": label(dataset), "seed": seed}
                    planned.append(Planned(labels, recipe(settings, network, dataset, seed, **change)))
    return planned


def _alone(exits, opt):
    """Returns pairs of labels and the recipe changes that train a network for one exit only."""
    names = exits["exit"]
    changes = []
    for exit_name in names if opt == "all" else dict.fromkeys(filter(None, at_fractions(exits, "exit"))):
        # At least two exits, because for a single one Keras does not report the loss without weight decay.
        end = names[max(1, names.index(exit_name))]
        end = end if runtime.on_cpu() and end != names[-1] else None
        change = {"weighting": {"name": "single_exit", "exit": exit_name}, "last_exit": end}
        changes.append(({"row": "OPT", "exit": exit_name}, change))
    return changes


def costs(settings, network, dataset):
    """Returns the names and costs of an untrained network's exits, a dict of lists."""
    return _costs(recipe(settings, network, dataset, 0).to_json())


@functools.cache
def _costs(text):
    untrained = Recipe.from_dict(json.loads(text))
    found = exit_costs(untrained.build_model(untrained.load_data()))
    return {"exit": [cost.exit for cost in found], "with_all_heads": [cost.with_all_heads for cost in found]}


def check_growing(settings, networks):
    """Raises ValueError unless each network costs more than the previous one."""
    costly = [costs(settings, network, settings.datasets[0])["with_all_heads"][-1] for network in networks]
    if any(large <= small for small, large in zip(costly, costly[1:])):
        raise ValueError(
            "Networks must be in increasing order of cost. "
            f"Received: {', '.join(networks)}, with {', '.join(map(str, costly))} multiply-accumulates."
        )


def latest(costs, values, budget):
    """Returns the value of the latest exit within a budget, or None if there is no such exit.

    >>> latest([10, 20], ["exit_1", "exit_2"], 15)
    'exit_1'
    """
    affordable = [value for cost, value in zip(costs, values) if cost <= budget * (1 + 1e-9)]
    return affordable[-1] if affordable else None


def at_fractions(exits, column="error"):
    """Returns a column's value at each of `FRACTIONS` of the last exit's cost, None before the first exit."""
    spent = exits["with_all_heads"]
    return [latest(spent, exits[column], fraction * spent[-1]) for fraction in FRACTIONS]
