"""Lists the training runs of experiments."""

import functools
import itertools
import json
import typing

from anytime_keras import runtime
from anytime_keras.cost import exit_costs
from anytime_keras.data import sources
from anytime_keras.experiments.settings import label, network_config
from anytime_keras.experiments.summaries import at_fractions, grouped
from anytime_keras.training import Recipe

PLAIN = {"weighting": {"name": "constant"}}  # recipe changes of a network with one exit


class Planned(typing.NamedTuple):
    """A training run: `labels` (`row`, `network`, `dataset`, `seed` and the experiment's own) and its `recipe`."""

    labels: dict
    recipe: Recipe


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
    planned, joint = [], [({"row": row}, change) for row, change in rows.items()]
    for dataset, network in itertools.product(settings.datasets, settings.networks if networks is None else networks):
        changes = joint + (_alone(costs(settings, network, dataset), opt) if opt else [])
        for seed, (labels, change) in itertools.product(settings.seeds_of(dataset), changes):
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


def one_network(settings, rows, opt):
    """As `plan`, for the settings' only network."""
    if len(settings.networks) != 1:
        raise ValueError(
            f"This experiment needs exactly one network. Received: {list(settings.networks)}. Name it, such as "
            "--networks=3x8."
        )
    return plan(settings, rows, opt=opt)


def pairs(settings, rows, opt):
    """As `plan`, for pairs of networks: the first row for the small one, the second and OPT for the large one."""
    if len(settings.networks) % 2:
        raise ValueError(
            "This experiment needs pairs of networks, each a small one followed by a large one. "
            f"Received: {list(settings.networks)}."
        )
    (first, of_small), (second, of_large) = rows.items()
    planned = []
    for small, large in zip(settings.networks[::2], settings.networks[1::2]):
        _check_growing(settings, (small, large))
        runs = plan(settings, {first: of_small}, [small]) + plan(settings, {second: of_large}, [large], opt)
        planned += [Planned({**one.labels, "pair": f"{small} against {large}"}, one.recipe) for one in runs]
    return planned


def members(settings, rows, opt):
    """As `plan`, for the networks of `ensembles`; OPT is that of the largest anytime network."""
    anytime, linear = _kinds(settings)
    planned = plan(settings, rows, anytime) + plan(settings, {}, anytime[-1:], opt)
    return planned + [one for row, networks in linear.items() for one in plan(settings, {row: PLAIN}, networks)]


def ensembles(settings, rows):
    """Lists pairs of an ensemble's labels and its members' recipes, smallest first.

    The anytime networks make one EANN for each row, the networks of a family with one exit a linear ensemble. A single
    anytime network makes no EANN and is compared as it is.
    """
    anytime, linear = _kinds(settings)
    every = [(row, change, anytime) for row, change in rows.items() if len(anytime) > 1]
    every += [(row, PLAIN, networks) for row, networks in linear.items()]
    return [
        (
            dict(row=row, dataset=label(dataset), seed=seed),
            [recipe(settings, network, dataset, seed, **change) for network in networks],
        )
        for dataset, (row, change, networks) in itertools.product(settings.datasets, every)
        for seed in settings.seeds_of(dataset)
    ]


def _kinds(settings):
    """Returns the networks with several exits, and a dict from a linear ensemble's row to the networks with one."""
    every, dataset = settings.networks, settings.datasets[0]
    anytime = [network for network in every if len(costs(settings, network, dataset)["exit"]) > 1]
    families = {network: network_config(network)["name"].rstrip("0123456789") for network in every}
    linear = grouped((f"linear ensemble of {families[each]}", each) for each in every if each not in anytime)
    for row, networks in {"EANN": anytime, **linear}.items():
        if len(networks) < 2 and not (linear and row == "EANN"):
            raise ValueError(f"An ensemble needs two or more networks, smallest first. Received: {row}: {networks}.")
        _check_growing(settings, networks)
    return anytime, linear


def costs(settings, network, dataset):
    """Returns the names and costs of an untrained network's exits, a dict of lists."""
    return _costs(recipe(settings, network, dataset, 0).to_json())


@functools.cache
def _costs(text):
    untrained = Recipe.from_dict(json.loads(text))
    found = exit_costs(untrained.build_model(untrained.load_data()))
    return {"exit": [cost.exit for cost in found], "with_all_heads": [cost.with_all_heads for cost in found]}


def _check_growing(settings, networks):
    costly = [costs(settings, network, settings.datasets[0])["with_all_heads"][-1] for network in networks]
    if any(large <= small for small, large in zip(costly, costly[1:])):
        raise ValueError(
            "Networks must be in increasing order of cost. "
            f"Received: {', '.join(networks)}, with {', '.join(map(str, costly))} multiply-accumulates."
        )
