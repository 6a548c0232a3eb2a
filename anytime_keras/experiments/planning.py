"""Turns an experiment's settings into a list of labelled training runs."""

import dataclasses
import functools
import json
import pathlib

from anytime_keras import data, models, runtime
from anytime_keras.cost import exit_costs
from anytime_keras.data import sources
from anytime_keras.evaluation.curve import Curve, CurvePoint
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
        networks: pairs (n, c) of ResANNs.
        epochs: int; the learning rate is divided by 10 at 1/2 and 3/4 of the epochs.
        seeds: int, the number of seeds (0, 1, ...), or a tuple with one number per data set.
        batch_size: int.
        precision: Keras dtype policy.
        without: rows to omit.
        once: rows to run with the first seed only.

    Example:
    >>> Settings(networks=((5, 16),)).to_dict()["networks"]
    ['5x16']
    """

    datasets: tuple = ("cifar10", "cifar100")
    networks: tuple = ((5, 16), (7, 16), (9, 16))
    epochs: int = 60
    seeds: int = 2
    batch_size: int = 64
    precision: str = "float32"
    without: tuple = ()
    once: tuple = ()

    def __post_init__(self):
        labels = [label(dataset) for dataset in self.datasets]
        if not all(labels) or not labels or len(set(labels)) < len(labels):
            raise ValueError(
                "`datasets` must name at least one data set, with distinct names without directory and suffix, because "
                f"results use these names. Received: {self.datasets!r}."
            )
        numbers = self.seeds if isinstance(self.seeds, tuple) else (self.seeds,) * len(self.datasets)
        if len(numbers) != len(self.datasets) or not all(isinstance(each, int) and each > 0 for each in numbers):
            raise ValueError(
                "`seeds` must be a positive int, or one for each data set. "
                f"Received: seeds={self.seeds!r} for {self.datasets!r}."
            )

    def seeds_of(self, dataset):
        """Returns the seeds of a data set."""
        each = self.seeds if isinstance(self.seeds, tuple) else (self.seeds,) * len(self.datasets)
        return range(each[self.datasets.index(dataset)])

    def to_dict(self):
        """Returns the settings as plain data, with networks by name."""
        return {**dataclasses.asdict(self), "networks": [name(network) for network in self.networks]}


# Checks the code in a few minutes on a CPU; its numbers cannot be compared with the paper's.
QUICK = dict(datasets=("digits",), networks=((2, 4),), epochs=3, seeds=1)


@dataclasses.dataclass(frozen=True)
class Planned:
    """One training run of an experiment.

    Attributes:
        labels: dict with `row` (of the table, or line of the figure), `network`, `dataset`, `seed` and any further
            labels of the experiment.
        recipe: `Recipe`.
    """

    labels: dict
    recipe: Recipe


def name(network):
    """Returns the name of a ResANN (n, c).

    >>> name((9, 16))
    '9x16'
    """
    return "x".join(map(str, network))


def parse_networks(text):
    """Parses comma-separated names of ResANNs.

    >>> parse_networks("5x16,25x32")
    ((5, 16), (25, 32))
    """
    networks = [part.strip().split("x") for part in text.split(",")]
    if not all(len(pair) == 2 and all(number.isdigit() and int(number) for number in pair) for pair in networks):
        raise ValueError(f"Networks must look like 5x16,9x16 (units per block, channels). Received: '{text}'.")
    return tuple(tuple(map(int, pair)) for pair in networks)


def label(dataset):
    """Returns a data set's name without directory and suffix.

    >>> label("/data/cifar10.npz")
    'cifar10'
    """
    return pathlib.Path(str(dataset)).stem


def recipe(settings, network, dataset, seed, **changes):
    """Returns the paper's recipe (section 5.1) at the scale of the settings."""
    arguments = {"data": str(dataset)}
    known = sources.KNOWN.get(sources.known_name(dataset))
    if known is not None:  # a file named after a known data set is augmented and split like it
        arguments.update(augment=list(known.augment), validation=known.validation)
    model = {"name": "resann", "num_units": network[0], "channels": network[1]}
    scale = {name: getattr(settings, name) for name in ("epochs", "batch_size", "precision")}
    return Recipe.paper(model, arguments, **{**scale, "seed": seed, **changes})


def plan(settings, rows, networks=None, opt=None):
    """Lists the runs of all rows, networks, data sets and seeds.

    Args:
        settings: `Settings`.
        rows: dict from a row's name to its recipe changes.
        networks: pairs (n, c) that replace the settings' networks.
        opt: adds runs that train a network for one exit only (row `OPT`, label `exit`): `"fractions"` for the exits
            that answer at `FRACTIONS`, `"all"` for every exit, None for none. On a CPU, such a network ends after its
            exit. On an accelerator it is complete, so that the same program trains it side by side with the others.

    Returns:
        A list of `Planned`.
    """
    planned = []
    for dataset in settings.datasets:
        for network in networks or settings.networks:
            for seed in settings.seeds_of(dataset):
                labels = dict(network=name(network), dataset=label(dataset), seed=seed)
                for row, changes in rows.items():
                    if row not in settings.without and not (seed and row in settings.once):
                        own = recipe(settings, network, dataset, seed, **changes)
                        planned.append(Planned({"row": row, **labels}, own))
                for exit_name, changes in _alone(settings, network, dataset, opt):
                    own = recipe(settings, network, dataset, seed, **changes)
                    planned.append(Planned({"row": "OPT", **labels, "exit": exit_name}, own))
    return planned


def _alone(settings, network, dataset, opt):
    """Returns pairs of an exit's name and the recipe changes that train a network for this exit only."""
    if opt is None:
        return []
    curve = costs(settings, network, dataset)
    names = [point.exit for point in curve]
    changes = []
    for exit_name in names if opt == "all" else places(curve):
        # At least two exits, because for a single one Keras does not report the loss without weight decay.
        end = names[max(1, names.index(exit_name))]
        end = end if runtime.on_cpu() and end != names[-1] else None
        changes.append((exit_name, {"weighting": {"name": "single_exit", "exit": exit_name}, "last_exit": end}))
    return changes


def check_growing(settings, networks):
    """Raises ValueError unless each network costs more than the previous one."""
    costly = [costs(settings, network, settings.datasets[0])[-1].with_all_heads for network in networks]
    if any(large <= small for small, large in zip(costly, costly[1:])):
        raise ValueError(
            "Networks must be in increasing order of cost. "
            f"Received: {', '.join(map(name, networks))}, with {', '.join(map(str, costly))} multiply-accumulates."
        )


def costs(settings, network, dataset):
    """Returns the curve of an untrained network, with its costs and errors of 0."""
    return _costs(recipe(settings, network, dataset, 0).to_json())


@functools.cache
def _costs(text):
    untrained = Recipe.from_dict(json.loads(text))
    shape, classes = _data(json.dumps(untrained.data))
    model = models.build(**untrained.model, input_shape=shape, num_classes=classes)
    return Curve(
        [
            CurvePoint(cost.exit, 0.0, 0.0, cost.backbone, cost.with_head, cost.with_all_heads, cost.params)
            for cost in exit_costs(model)
        ]
    )


@functools.cache
def _data(text):
    loaded = data.load(**json.loads(text))
    return loaded.image_shape, loaded.num_classes


def places(curve):
    """Lists the distinct exits that `Curve.at` returns for `FRACTIONS`."""
    names = [curve.at(fraction).exit for fraction in FRACTIONS]
    return list(dict.fromkeys(exit_name for exit_name in names if exit_name is not None))
