"""The scale of an experiment, the networks that it names, and its training runs."""

import ast
import collections
import dataclasses
import functools
import itertools
import pathlib
import re

from anytime_keras import models, runtime
from anytime_keras._checks import check_choice
from anytime_keras._errors import explained
from anytime_keras.cost import exit_costs
from anytime_keras.data import sources
from anytime_keras.experiments.summaries import at_fractions, grouped
from anytime_keras.training import Recipe
from anytime_keras.training.recipe import PRECISIONS

PLAIN = {"weighting": {"name": "constant"}}  # recipe changes of a network with one exit
# A training run: `labels` (`row`, `network`, `dataset`, `seed` and the experiment's own) and its `recipe`.
Planned = collections.namedtuple("Planned", "labels recipe")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The scale of an experiment. Epochs and seeds can be one number, or a dict with one for each data set."""

    datasets: tuple = ("cifar10", "cifar100")  # names or paths
    networks: tuple = ("5x16", "7x16", "9x16")  # see `network_config`
    epochs: int | dict = 60
    seeds: int | dict = 2  # the number of seeds: 0, 1, ...
    batch_size: int = 64
    precision: str = "float32"

    def __post_init__(self):
        labels = [label(dataset) for dataset in self.datasets]
        if not all(labels) or not labels or len(set(labels)) < len(labels):
            raise ValueError(
                "`datasets` must name at least one data set, with distinct names without directory and suffix, because "
                f"results use these names. Received: {self.datasets!r}."
            )
        for name, value in {"epochs": self.epochs, "seeds": self.seeds}.items():
            numbers = value if isinstance(value, dict) else dict.fromkeys(labels, value)
            if set(numbers) != set(labels) or not all(type(each) is int and each > 0 for each in numbers.values()):
                raise ValueError(f"`{name}` must be a positive int, or one for each of {labels}. Received: {value!r}.")
        check_choice("precision", self.precision, PRECISIONS)  # before any data is read
        for network in self.networks:
            network_config(network)


def on_dataset(value, dataset):
    """Returns the number for a data set of `Settings.epochs` or `Settings.seeds`."""
    return value[label(dataset)] if isinstance(value, dict) else value


def label(dataset):
    """Returns a data set's name without directory and suffix."""
    return pathlib.Path(str(dataset)).stem


def network_config(text):
    """Parses the name of a network to the arguments of `anytime_keras.models.build`.

    >>> network_config("5x16"), network_config("msdnet:blocks=[2,2]")
    ({'name': 'resann', 'num_units': 5, 'channels': 16}, {'name': 'msdnet', 'blocks': [2, 2]})
    """
    name, _, arguments = text.partition(":")
    if short := re.fullmatch("([1-9][0-9]*)x([1-9][0-9]*)", text):
        return {"name": "resann", "num_units": int(short[1]), "channels": int(short[2])}
    with explained(
        "Networks must look like 5x16 (units per block, channels), 'resann50' or "
        f"'denseann:depth=10,growth_rate=4'. Received: '{text}'. ",
        SyntaxError,
        ValueError,
    ):
        models.registry.check_name(name)
        call = ast.parse(f"dict({arguments})", mode="eval").body
        if call.args:
            raise ValueError("Arguments need names.")
        return {"name": name, **{each.arg: ast.literal_eval(each.value) for each in call.keywords}}


def recipe(settings, network, dataset, seed, **changes):
    """Returns the paper's recipe (section 5.1) at the scale of the settings."""
    arguments = {"data": str(dataset)}
    if augment := sources.defaults(dataset).augment:  # named, so that results contain it
        arguments["augment"] = list(augment)
    epochs = on_dataset(settings.epochs, dataset)
    scale = dict(epochs=epochs, batch_size=settings.batch_size, precision=settings.precision)
    return Recipe.paper(network_config(network), arguments, **{**scale, "seed": seed, **changes})


def plan(settings, rows, networks=None, opt=None):
    """Lists the runs of all rows (from a name to recipe changes), networks, data sets and seeds, as `Planned`.

    `opt` adds runs that train a network for one exit only (row `OPT`, label `exit`): `"fractions"` for the exits that
    answer at `FRACTIONS`, `"all"` for every exit.
    """
    planned, joint = [], [({"row": row}, change) for row, change in rows.items()]
    for dataset, network in itertools.product(settings.datasets, settings.networks if networks is None else networks):
        changes = joint + (_alone(costs(network, dataset), opt) if opt else [])
        for seed, (labels, change) in itertools.product(range(on_dataset(settings.seeds, dataset)), changes):
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
        # On an accelerator the network is complete, so that one program trains it beside the others.
        end = end if runtime.on_cpu() and end != names[-1] else None
        change = {"weighting": {"name": "single_exit", "exit": exit_name}, "last_exit": end}
        changes.append(({"row": "OPT", "exit": exit_name}, change))
    return changes


def one_network(settings, rows, opt):
    """As `plan`, for the settings' only network."""
    if len(given := settings.networks) != 1:
        raise ValueError(f"This experiment needs exactly one network, such as --networks=3x8. Received: {list(given)}.")
    return plan(settings, rows, opt=opt)


def pairs(settings, rows, opt):
    """As `plan`, for pairs of networks: the first row for the small one, the second and OPT for the large one."""
    given, ((first, of_small), (second, of_large)) = settings.networks, rows.items()
    if len(given) % 2:
        raise ValueError(f"This experiment needs pairs of networks, a small and a large one. Received: {list(given)}.")
    planned = []
    for small, large in zip(given[::2], given[1::2]):
        _check_growing(settings, (small, large))
        runs = plan(settings, {first: of_small}, [small]) + plan(settings, {second: of_large}, [large], opt)
        planned += [Planned({**one.labels, "pair": f"{small} against {large}"}, one.recipe) for one in runs]
    return planned


def members(settings, rows, opt):
    """As `plan`, for networks of increasing cost that make ensembles; OPT is that of the largest anytime network.

    Those with several exits make an EANN for each row, those of a family with one exit a linear ensemble.
    """
    every = settings.networks
    anytime = [network for network in every if len(costs(network, settings.datasets[0])["exit"]) > 1]
    families = {network: network_config(network)["name"].rstrip("0123456789") for network in every}
    linear = grouped((f"linear ensemble of {families[each]}", each) for each in every if each not in anytime)
    for row, networks in {"EANN": anytime, **linear}.items():
        if len(networks) < 2 and not (linear and row == "EANN"):
            raise ValueError(f"An ensemble needs two or more networks, smallest first. Received: {row}: {networks}.")
        _check_growing(settings, networks)
    planned = plan(settings, rows, anytime) + plan(settings, {}, anytime[-1:], opt)
    return planned + [one for row, networks in linear.items() for one in plan(settings, {row: PLAIN}, networks)]


def ensembles(planned):
    """Lists pairs of an ensemble's labels and its members' recipes: the networks of a row, if there are two or more."""
    keys = ("row", "dataset", "seed")
    joint = [one for one in planned if one.labels["row"] != "OPT"]
    members = grouped((tuple(one.labels[key] for key in keys), one.recipe) for one in joint)
    return [(dict(zip(keys, labels)), recipes) for labels, recipes in members.items() if len(recipes) > 1]


@functools.cache
def costs(network, dataset):
    """Returns the names and costs of an untrained network's exits, a dict of lists."""
    untrained = Recipe.paper(network_config(network), str(dataset))
    found = exit_costs(untrained.build_model(untrained.load_data()))
    return {"exit": [cost.exit for cost in found], "with_all_heads": [cost.with_all_heads for cost in found]}


def _check_growing(settings, networks):
    costly = [costs(network, settings.datasets[0])["with_all_heads"][-1] for network in networks]
    if any(large <= small for small, large in itertools.pairwise(costly)):
        raise ValueError(
            "Networks must be in increasing order of cost. "
            f"Received: {', '.join(networks)}, with {', '.join(map(str, costly))} multiply-accumulates."
        )
