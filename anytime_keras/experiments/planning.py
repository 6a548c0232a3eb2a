"""Lists the training runs of experiments."""

import collections
import functools
import itertools
import json

from anytime_keras import runtime
from anytime_keras.cost import exit_costs
from anytime_keras.data import sources
from anytime_keras.experiments.settings import label, network_config
from anytime_keras.experiments.summaries import at_fractions, grouped
from anytime_keras.training import Recipe

PLAIN = {"weighting": {"name": "constant"}}  # recipe changes of a network with one exit
# A training run: `labels` (`row`, `network`, `dataset`, `seed` and the experiment's own) and its `recipe`.
Planned = collections.namedtuple("Planned", "labels recipe")


def recipe(settings, network, dataset, seed, **changes):
    """Returns the paper's recipe (section 5.1) at the scale of the settings."""
    arguments = {"data": str(dataset)}
    if augment := sources.defaults(dataset).augment:  # named, so that results contain it
        arguments["augment"] = list(augment)
    scale = dict(epochs=settings.epochs_of(dataset), batch_size=settings.batch_size, precision=settings.precision)
    return Recipe.paper(network_config(network), arguments, **{**scale, "seed": seed, **changes})


def plan(settings, rows, networks=None, opt=None):
    """Lists the runs of all rows, networks (None for those of the settings), data sets and seeds, as `Planned`.

    `rows` maps a row's name to its recipe changes. `opt` adds runs that train a network for one exit only (row `OPT`,
    label `exit`): `"fractions"` for the exits that answer at `FRACTIONS`, `"all"` for every exit. On a CPU, such a
    network ends after its exit; on an accelerator it is complete, so that one program trains it beside the others.
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
    every, dataset = settings.networks, settings.datasets[0]
    anytime = [network for network in every if len(costs(settings, network, dataset)["exit"]) > 1]
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
    members = grouped(
        (tuple(each.labels[key] for key in ("row", "dataset", "seed")), each.recipe)
        for each in planned
        if each.labels["row"] != "OPT"
    )
    return [(dict(zip(("row", "dataset", "seed"), key)), each) for key, each in members.items() if len(each) > 1]


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
