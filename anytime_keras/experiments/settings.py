"""The scale of an experiment, and the networks that it names."""

import ast
import dataclasses
import pathlib

from anytime_keras import models


@dataclasses.dataclass(frozen=True)
class Settings:
    """The scale of an experiment. Epochs and seeds can be one number, or one for each data set."""

    datasets: tuple = ("cifar10", "cifar100")  # names or paths
    networks: tuple = ("5x16", "7x16", "9x16")  # see `network_config`
    epochs: int | dict = 60
    seeds: int | tuple = 2  # the number of seeds: 0, 1, ...
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
        numbers = self._seeds()
        if len(numbers) != len(self.datasets) or not all(type(each) is int and each > 0 for each in numbers):
            raise ValueError(
                "`seeds` must be a positive int, or one for each data set. "
                f"Received: seeds={self.seeds!r} for {self.datasets!r}."
            )
        for network in self.networks:
            network_config(network)

    def _seeds(self):
        return self.seeds if isinstance(self.seeds, tuple) else (self.seeds,) * len(self.datasets)

    def seeds_of(self, dataset):
        """Returns the seeds of a data set."""
        return range(self._seeds()[self.datasets.index(dataset)])

    def epochs_of(self, dataset):
        """Returns the number of epochs on a data set."""
        return self.epochs[label(dataset)] if isinstance(self.epochs, dict) else self.epochs


def label(dataset):
    """Returns a data set's name without directory and suffix."""
    return pathlib.Path(str(dataset)).stem


def split_networks(text):
    """Splits a list of networks at semicolons, or at commas if none has arguments."""
    return tuple(part.strip() for part in text.split(";" if ":" in text else ",") if part.strip())


def network_config(text):
    """Parses the name of a network to the arguments of `anytime_keras.models.build`.

    >>> network_config("5x16"), network_config("msdnet:blocks=[2,2]")
    ({'name': 'resann', 'num_units': 5, 'channels': 16}, {'name': 'msdnet', 'blocks': [2, 2]})
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
