"""What an experiment trains, as plain data: settings -> a list of trainings with their labels."""

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
    """How large an experiment is.

    Attributes:
        datasets: names, or paths, as `anytime_keras.data.load` takes them.
        networks: pairs (n, c) of ResANNs.
        epochs: int; the learning rate is divided by 10 at 1/2 and 3/4 of them.
        seeds: int, how many; they are 0, 1, ... Or a tuple of such, one for each data set.
        batch_size: int.
        precision: Keras's dtype policy.
        without: rows that are left out, in Figure 3 exits too.
        once: rows that have the first seed alone.

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
        for name in ("epochs", "seeds", "batch_size"):
            value = getattr(self, name)
            each = value if name == "seeds" and isinstance(value, tuple) else (value,)
            if any(isinstance(number, bool) or not isinstance(number, int) or number < 1 for number in each):
                raise ValueError(f"`{name}` must be an int of 1 or more. Received: {name}={value!r}.")
        if not self.datasets or not all(map(str, self.datasets)):
            raise ValueError(f"`datasets` must name one data set or more. Received: {self.datasets!r}.")
        labels = [label(dataset) for dataset in self.datasets]
        if len(set(labels)) < len(labels):
            raise ValueError(
                "`datasets` must differ in their names without folder and ending, by which results tell them apart. "
                f"Received: {self.datasets!r}."
            )
        if isinstance(self.seeds, tuple) and len(self.seeds) != len(self.datasets):
            raise ValueError(
                f"`seeds` must be one number, or one for each data set. Received: seeds={self.seeds!r} for "
                f"{self.datasets!r}."
            )
        if self.once and all(len(self.seeds_of(dataset)) == 1 for dataset in self.datasets):
            raise ValueError(f"`once` needs two seeds or more. Received: once={self.once!r}, seeds={self.seeds!r}.")
        if not self.networks:
            raise ValueError("`networks` must name one ResANN or more. Received: none.")

    def seeds_of(self, dataset):
        """Returns the seeds of one of the data sets."""
        each = self.seeds if isinstance(self.seeds, tuple) else (self.seeds,) * len(self.datasets)
        return range(each[self.datasets.index(dataset)])

    def asks_for(self, row, seed):
        """Tells whether a row is trained with a seed."""
        return row not in self.without and not (seed and row in self.once)

    def to_dict(self):
        """Returns the settings as plain data, networks by name."""
        return {**dataclasses.asdict(self), "networks": [name(network) for network in self.networks]}


# A check of the code in a few minutes on a CPU: no number to compare with the paper's.
QUICK = dict(datasets=("digits",), networks=((2, 4),), epochs=3, seeds=1)


@dataclasses.dataclass(frozen=True)
class Planned:
    """One training of an experiment.

    Attributes:
        labels: dict: `row` of the table or line of the figure, `network`, `dataset`, `seed`, and what else the
            experiment tells its trainings apart by.
        recipe: `Recipe`.
    """

    labels: dict
    recipe: Recipe


def name(network):
    """The name of a ResANN (n, c).

    >>> name((9, 16))
    '9x16'
    """
    return "x".join(map(str, network))


def parse_networks(text):
    """Reads names of ResANNs.

    >>> parse_networks("5x16,25x32")
    ((5, 16), (25, 32))
    """
    networks = []
    for part in text.split(","):
        numbers = part.strip().split("x")
        if len(numbers) != 2 or not all(number.isdigit() and int(number) for number in numbers):
            raise ValueError(f"Networks are named such as 5x16,9x16 (units a block, channels). Received: '{text}'.")
        networks.append(tuple(map(int, numbers)))
    return tuple(networks)


def label(dataset):
    """A data set's name without its place.

    >>> label("/data/cifar10.npz")
    'cifar10'
    """
    return pathlib.Path(str(dataset)).stem


def recipe(settings, network, dataset, seed, **changes):
    """The paper's recipe (section 5.1), at the settings' scale."""
    data = {"data": str(dataset)}
    known = sources.KNOWN.get(label(dataset))
    if known is not None:  # a file's name says what it holds: augmented and split as the data set of that name
        data.update(augment=list(known.augment), validation=known.validation)
    num_units, channels = network
    return Recipe.paper(
        {"name": "resann", "num_units": num_units, "channels": channels},
        data,
        **{
            "epochs": settings.epochs,
            "batch_size": settings.batch_size,
            "precision": settings.precision,
            "seed": seed,
            **changes,
        },
    )


def plan(settings, rows, networks=None, opt=None):
    """Lists the trainings of rows over all networks, data sets and seeds.

    Args:
        settings: `Settings`.
        rows: dict from a row's name to what its recipe changes.
        networks: pairs (n, c) in place of the settings'.
        opt: `"fractions"` for a network trained for each exit that answers at `FRACTIONS`, `"all"` for one for every
            exit (row `OPT`, label `exit`), None for none. On a CPU such a network ends where it is to be optimal; on an
            accelerator it is whole, so that one program trains it beside the others.

    Returns:
        A list of `Planned`.
    """
    planned = []
    for dataset in settings.datasets:
        for network in networks or settings.networks:
            curve = costs(settings, network, dataset) if opt else None
            exits = {None: list, "fractions": lambda: places(curve), "all": lambda: [point.exit for point in curve]}
            for seed in settings.seeds_of(dataset):
                labels = dict(network=name(network), dataset=label(dataset), seed=seed)
                for row, changes in rows.items():
                    if settings.asks_for(row, seed):
                        own = recipe(settings, network, dataset, seed, **changes)
                        planned.append(Planned({"row": row, **labels}, own))
                for exit_name in [each for each in exits[opt]() if each not in settings.without]:
                    alone = {
                        "weighting": {"name": "single_exit", "exit": exit_name},
                        "last_exit": _end(curve, exit_name),
                    }
                    planned.append(
                        Planned(
                            {"row": "OPT", **labels, "exit": exit_name},
                            recipe(settings, network, dataset, seed, **alone),
                        )
                    )
    return planned


def _end(curve, exit_name):
    """The last exit of a network that is trained for one alone; None for all."""
    names = [point.exit for point in curve]
    # Two at least: of a network with one, Keras tells no loss without the weight decay.
    end = names[max(1, names.index(exit_name))]
    return end if runtime.on_cpu() and end != names[-1] else None


def check_growing(settings, networks):
    """Raises ValueError unless each network costs more than the one before."""
    costly = [costs(settings, network, settings.datasets[0])[-1].with_all_heads for network in networks]
    if any(large <= small for small, large in zip(costly, costly[1:])):
        raise ValueError(
            "Networks must be in growing order of cost. "
            f"Received: {', '.join(map(name, networks))}, with {', '.join(map(str, costly))} multiply-accumulates."
        )


def costs(settings, network, dataset):
    """The curve of a network that is not trained: costs alone, errors 0."""
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
    """The exits that answer at `FRACTIONS` of a network's cost, each once; by the rule of `Curve.at`."""
    names = [curve.at(fraction).exit for fraction in FRACTIONS]
    return list(dict.fromkeys(exit_name for exit_name in names if exit_name is not None))
