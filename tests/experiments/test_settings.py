"""Settings: networks and the scale of runs."""

import pytest

from anytime_keras.commands import reproduce
from anytime_keras.experiments.planning import Settings, network_config, recipe


def test_epochs_and_seeds_may_differ_between_data_sets():
    chosen = Settings(datasets=("a/one.npz", "two"), epochs={"one": 300, "two": 60}, seeds=(2, 1))
    assert [recipe(chosen, "5x16", each, 0).epochs for each in chosen.datasets] == [300, 60]
    assert [list(chosen.seeds_of(each)) for each in chosen.datasets] == [[0, 1], [0]]


def test_any_family_is_named_by_its_arguments():
    text = "5x16; resann50; msdnet:blocks=[2,2],exit_every=2,stem='small'"
    short, named, built = map(network_config, reproduce._split(text, ";"))
    assert short == {"name": "resann", "num_units": 5, "channels": 16} and named == {"name": "resann50"}
    assert built == {"name": "msdnet", "blocks": [2, 2], "exit_every": 2, "stem": "small"}


@pytest.mark.parametrize("text", ["5", "5x", "0x16", "5x16x2", "ax16", "resan:channels=4", "resann:4", "resann:a=b"])
def test_other_names_of_networks_are_refused(text):
    with pytest.raises(ValueError, match="must look like 5x16"):
        Settings(networks=(text,))


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(seeds=-1), "seeds=-1"),
        (dict(seeds=(2, 0)), r"seeds=\(2, 0\)"),
        (dict(seeds=True), "seeds=True"),
        (dict(seeds=(2, 1, 1)), "one for each data set"),
        (dict(datasets=()), "at least one data set"),
        (dict(datasets=("a/made.npz", "b/made.npz")), "distinct names"),
        (dict(epochs={"cifar10": 3}), "one number for each of.*cifar100"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changes)
