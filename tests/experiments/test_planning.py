"""Settings (networks and the scale of runs), and from settings to runs: OPT's exits, shared runs, ensembles."""

import pytest

from anytime_keras.commands import reproduce
from anytime_keras.experiments import catalog, planning
from anytime_keras.experiments.planning import Settings, network_config, plan, recipe

TINY = dict(datasets=("digits",), networks=("1x4",), epochs=3, seeds=2)


def test_epochs_and_seeds_may_differ_between_data_sets():
    chosen = Settings(datasets=("a/one.npz", "two"), epochs={"one": 300, "two": 60}, seeds={"one": 2, "two": 1})
    assert [recipe(chosen, "5x16", each, 0).epochs for each in chosen.datasets] == [300, 60]
    planned = plan(chosen, {"CONST": {}}, ["1x4"])
    assert [(one.labels["dataset"], one.labels["seed"]) for one in planned] == [("one", 0), ("one", 1), ("two", 0)]


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
        (dict(seeds=-1), "`seeds` must be a positive int.*-1"),
        (dict(seeds={"cifar10": 2, "cifar100": 0}), "'cifar100': 0"),
        (dict(seeds=True), "`seeds` must be a positive int.*True"),
        (dict(seeds={"cifar10": 2}), "one for each of.*cifar100"),
        (dict(datasets=()), "at least one data set"),
        (dict(datasets=("a/made.npz", "b/made.npz")), "distinct names"),
        (dict(epochs={"cifar10": 3}), "one for each of.*cifar100"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changes)


def rows_of(planned):
    return [one.labels["row"] for one in planned]


def test_table_1_has_opt_at_the_exits_that_answer_and_shares_its_runs():
    chosen = Settings(**{**TINY, "networks": ("2x4",)})
    planned = catalog.EXPERIMENTS["table1"].plan(chosen)
    exits = planning.at_fractions(planning.costs("2x4", "digits"), "exit")
    opt = [name for name in dict.fromkeys(exits) if name]
    assert rows_of(planned)[: 3 + len(opt)] == ["CONST", "LINEAR", "ADALOSS"] + ["OPT"] * len(opt)
    assert planned[3].recipe.weighting == {"name": "single_exit", "exit": opt[0]} and opt[-1] == "exit_6"
    assert len(planned) == 2 * (3 + len(opt)) and planned[-1].recipe.seed == 1
    assert planned[0].recipe.schedule["boundaries"] == [0.5, 0.75] and planned[0].recipe.learning_rate == 0.1
    beyond = {one.recipe.to_json() for one in catalog.EXPERIMENTS["beyond"].plan(chosen)}
    shared = [one for one in planned if one.recipe.to_json() in beyond]
    assert set(rows_of(shared)) == {"CONST", "ADALOSS", "OPT"}, "trained once for both"


@pytest.mark.parametrize("on_cpu", [True, False])
def test_opts_networks_end_after_their_exit_on_a_cpu(on_cpu, monkeypatch):
    monkeypatch.setattr(planning.runtime, "on_cpu", lambda: on_cpu)
    planned = [one.recipe for one in plan(Settings(**{**TINY, "seeds": 1}), {}, opt="all")]
    assert [each.weighting["exit"] for each in planned] == ["exit_1", "exit_2", "exit_3"]
    assert [each.last_exit for each in planned] == (["exit_2", "exit_2", None] if on_cpu else [None] * 3)


def test_a_file_is_split_and_augmented_as_the_data_set_of_its_name():
    made = recipe(Settings(), "5x16", "/data/cifar10.npz", 0)
    assert made.data == {"data": "/data/cifar10.npz", "augment": ["pad_crop", "flip"], "validation": "last"}
    assert recipe(Settings(), "5x16", "cifar10_16px.npz", 0).data == {"data": "cifar10_16px.npz"}


def test_figures_refuse_networks_that_do_not_fit():
    for name, networks, message in (
        ("figure3", ("1x4", "2x4"), "one network.*1x4.*2x4"),
        ("figure5", ("1x4",), "pairs of networks.*1x4"),
        ("figure1", ("2x4", "1x4"), "increasing order.*2x4, 1x4"),
        ("figure6", ("1x4",), "two or more.*1x4"),
        ("figure6b", ("1x4", "2x4", "resann:num_units=1,channels=4,exit_every=3"), "two or more.*linear ensemble"),
    ):
        with pytest.raises(ValueError, match=message):
            catalog.EXPERIMENTS[name].plan(Settings(**{**TINY, "networks": networks}))


def test_figure_6b_trains_eanns_with_adaloss_and_plain_networks_as_such():
    chosen = catalog.EXPERIMENTS["figure6b"]
    planned = chosen.plan(chosen.settings(quick=True))
    assert rows_of(planned) == ["ADALOSS"] * 2 + ["linear ensemble of resann"] * 2
    assert [one.recipe.weighting["name"] for one in planned] == ["adaloss"] * 2 + ["constant"] * 2
    ensembles = planning.ensembles(planned)
    assert [labels["row"] for labels, _ in ensembles] == ["ADALOSS", "linear ensemble of resann"]
    assert [member for _, members in ensembles for member in members] == [one.recipe for one in planned]


def test_figure_6b_compares_a_single_anytime_network_with_linear_ensembles():
    plain = [f"resann:num_units={units},channels=4,exit_every={3 * units}" for units in (1, 2)]
    chosen = Settings(**{**TINY, "networks": ("1x4", *plain), "seeds": 1})
    assert rows_of(catalog.EXPERIMENTS["figure6b"].plan(chosen)) == ["ADALOSS"] + ["linear ensemble of resann"] * 2
    ((labels, members),) = planning.ensembles(catalog.EXPERIMENTS["figure6b"].plan(chosen))
    assert labels["row"] == "linear ensemble of resann" and len(members) == 2


def test_every_experiment_has_the_papers_statement():
    for chosen in catalog.EXPERIMENTS.values():
        assert chosen.paper["source"] and (chosen.paper.get("rows") or chosen.paper.get("claims"))
