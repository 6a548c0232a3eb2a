"""Tables and figures follow from results by arithmetic that is worked out by hand here."""

import copy
import json
import math
import pathlib
import shlex
import shutil

import pytest

from anytime_keras import experiments
from anytime_keras.experiments import figures, page, report, tables
from anytime_keras.experiments.planning import Settings, label, parse_networks, places, plan
from tests.experiments.results import EXITS, MACHINE, alone, training

PAPER = experiments.paper()


def test_increases_over_opt_at_fractions_of_the_cost():
    trainings = [
        training("CONST", [0.50, 0.33, 0.24, 0.22]),
        training("ADALOSS", [0.60, 0.30, 0.20, 0.10]),
        *alone([0.40, 0.30, 0.20, 0.20]),
    ]
    summary = tables.relative_table(trainings, "OPT")
    assert summary["rows"]["CONST"]["mean"] == pytest.approx([25.0, 10.0, 20.0, 10.0])
    assert summary["rows"]["ADALOSS"]["mean"] == pytest.approx([50.0, 0.0, 0.0, -50.0])
    assert summary["rows"]["OPT"]["mean"] == pytest.approx([0.0] * 4)


def test_opt_is_the_network_of_the_exit_that_answers():
    """At 1/2 of 40 the exit at 18 answers, not the one at 22; the networks for other places do not matter."""
    macs = [4, 18, 22, 40]
    trainings = [
        training("CONST", [0.8, 0.44, 0.1, 0.3], macs=macs),
        *(one for one in alone([0.5, 0.40, 0.9, 0.3], macs=macs)),
    ]
    assert tables.errors_at_fractions(trainings[0]) == [0.8, 0.44, 0.1, 0.3]
    assert tables.relative_table(trainings, "OPT")["rows"]["CONST"]["mean"][:2] == pytest.approx([60.0, 10.0])


def test_opt_of_networks_that_end_early_is_found_by_the_whole_ones_costs():
    rows = [training("CONST", [0.50, 0.33, 0.24, 0.22])]
    whole = alone([0.40, 0.30, 0.20, 0.20])
    cut = [training("OPT", one["exits"]["error"][: place + 1], exit=one["exit"]) for place, one in enumerate(whole)]
    expected = tables.relative_table([*rows, *whole], "OPT")["rows"]
    found = tables.relative_table([*rows, *cut], "OPT")["rows"]
    assert found == expected and found["OPT"]["error"] == pytest.approx([40.0, 30.0, 20.0, 20.0])


def test_before_the_first_exit_and_over_no_error_there_is_no_number():
    macs = [15, 20, 30, 40]
    trainings = [training("a", [0.5, 0.4, 0.2, 0.1], macs=macs), training("b", [0.5, 0.4, 0.3, 0.0], macs=macs)]
    summary = tables.relative_table(trainings, "b")
    assert summary["rows"]["a"]["mean"][0] is None and summary["rows"]["a"]["mean"][3] is None
    assert summary["rows"]["a"]["mean"][1:3] == pytest.approx([0.0, -100 / 3])
    header, rows = tables.cells_of_table(summary, {})
    assert rows[0][0] == "a" and rows[0][5] == "–" and rows[0][6] == "+0.00"


def test_means_over_networks_and_the_spread_of_seeds():
    trainings = []
    for network, seed, own in (("1x1", 0, 0.11), ("2x1", 0, 0.13), ("1x1", 1, 0.12), ("2x1", 1, 0.14)):
        where = dict(network=network, seed=seed)
        trainings += [training("base", [0.1] * 4, **where), training("own", [own] * 4, **where)]
    content = tables.relative_table(trainings, "base")["rows"]["own"]
    assert content["mean"] == pytest.approx([25.0] * 4)
    assert content["by_seed"]["0"] == pytest.approx([20.0] * 4) and content["by_seed"]["1"] == pytest.approx([30.0] * 4)
    assert content["by_network"]["2x1"] == pytest.approx([35.0] * 4)
    assert content["by_dataset"]["made"] == content["mean"] and content["error"] == pytest.approx([12.5] * 4)
    assert tables.spread(content["cells"], 0) == " (+20.0 to +30.0)"


def test_a_data_set_with_more_seeds_weighs_no_more_and_has_its_own_spread():
    trainings = []
    for dataset, seed, own in (("made", 0, 0.11), ("made", 1, 0.13), ("other", 0, 0.14)):
        where = dict(dataset=dataset, seed=seed)
        trainings += [training("base", [0.1] * 4, **where), training("own", [own] * 4, **where)]
    summary = tables.relative_table(trainings, "base")
    content = summary["rows"]["own"]
    assert content["mean"] == pytest.approx([30.0] * 4) and content["error"] == pytest.approx([13.0] * 4)
    assert list(content["by_seed"]) == ["0"], "one seed is not another's data set"
    assert content["by_seed"]["0"] == pytest.approx([25.0] * 4)
    rows = {row[0]: row[-1] for row in tables.cells_of_table(summary, {})[1]}
    assert rows["own"] == "+30.00" and rows["own on made"] == "+20.00 (+10.0 to +30.0)"
    assert rows["own on other"] == "+40.00"
    settings = Settings(datasets=("made.npz", "other"), networks=((1, 1),), seeds=(2, 1))
    assert [list(settings.seeds_of(each)) for each in settings.datasets] == [[0, 1], [0]]


def test_data_sets_have_rows_of_their_own():
    trainings = [
        training(row, [error] * 4, dataset=dataset)
        for row, error, dataset in (("base", 0.1, "a"), ("own", 0.11, "a"), ("base", 0.2, "b"), ("own", 0.26, "b"))
    ]
    _, rows = tables.cells_of_table(tables.relative_table(trainings, "base"), {"own": [1.0, 2.0, 3.0, 4.0]})
    assert [row[0] for row in rows] == ["base", "own", "own on a", "own on b"]
    assert rows[1][4:6] == ["+4.00", "+20.00"] and rows[2][8] == "+10.00" and rows[3][8] == "+30.00"


def test_figure_3_compares_training_losses_exit_by_exit():
    trainings = [training("CONST", [0.5] * 3, losses=[1.1, 1.2, 0.75]), *alone([0.1] * 3, losses=[1.0, 1.0, 0.5])]
    summary = figures.losses(trainings)
    assert summary["exits"] == EXITS[:3]
    assert summary["rows"]["CONST"]["mean"] == pytest.approx([10.0, 20.0, 50.0])


def test_figure_5_pivots_at_the_small_ones_last_exit():
    trainings = [
        training("small ADALOSS", [0.4, 0.2], pair="p", macs=[10, 20]),
        training("large CONST", [0.3, 0.25, 0.22, 0.19], pair="p"),
    ]
    summary = figures.pairs(trainings)
    (pair,) = summary["pairs"]
    assert pair["small ADALOSS"]["cost"] == [0.5, 1.0] and pair["large CONST"]["cost"] == [0.5, 1.0, 1.5, 2.0]
    assert pair["small ADALOSS"]["increase"] == pytest.approx([100.0, 0.0])
    assert pair["large CONST"]["increase"] == pytest.approx([50.0, 25.0, 10.0, -5.0])
    at = {row: dict(zip(summary["grid"], line)) for row, line in summary["mean"].items()}
    assert at["small ADALOSS"][0.45] is None and at["small ADALOSS"][3.0] == pytest.approx(0.0)
    assert at["large CONST"][1.25] == pytest.approx(25.0) and at["large CONST"][1.5] == pytest.approx(10.0)


def test_figure_6_reads_all_within_the_same_budgets():
    """Budgets of 10, 12, ... 40 MACs, 16 of them: five up to each next exit, and one at the last."""
    members = [
        training("ADALOSS", [0.4, 0.2], weight=[0.5, 1.0], macs=[10, 20]),
        training("ADALOSS", [0.4, 0.3, 0.2, 0.1], network="2x1", weight=[0.1, 0.2, 0.7, 1.0]),
        training("CONST", [0.4, 0.3], macs=[10, 20]),
        training("CONST", [0.3, 0.3, 0.3, 0.3], network="2x1"),
    ]
    chained = [
        dict(dataset="made", seed=0, row=row, exits=training(row, errors)["exits"])
        for row, errors in (("ADALOSS", [0.4, 0.2, 0.1]), ("CONST", [0.4, 0.6, 0.1]))
    ]
    summary = figures.chains(members, chained)
    content = summary["data"]["made"]
    assert summary["largest"] == "2x1" and len(content["grid"]) == 20
    assert content["lines"]["EANN of CONST"][:5] == [None] * 4 + [40.0]
    assert content["mean"] == pytest.approx(
        {
            "EANN of ADALOSS": (5 * 40 + 5 * 20 + 6 * 10) / 16,
            "EANN of CONST": (5 * 40 + 5 * 60 + 6 * 10) / 16,
            "2x1 ADALOSS alone": (5 * 40 + 5 * 30 + 5 * 20 + 10) / 16,
            "2x1 CONST alone": 30.0,
        }
    )
    assert content["late"] == pytest.approx(0.85)
    _, (row,) = experiments.EXPERIMENTS["figure6"].table(summary, PAPER["figure6"])
    assert row == ["made", "22.50", "35.00", "28.75", "30.00", "-35.7", "85.0%"]
    axes = experiments.EXPERIMENTS["figure6"].draw(summary).axes[0]
    assert axes.get_title() == "made" and axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.texts] == ["0.25", "0.5", "0.75", "1"]


def test_the_proposition_s_bounds_hold_in_the_run():
    rows = figures.inflations()["rows"]
    (row,) = (r for r in rows if (r["base"], r["networks"], r["workers"]) == (2.0, "anytime", 1))
    assert row["sup"]["bound"] == 3.0 and row["mean"]["bound"] == pytest.approx(2.443, abs=1e-3)
    for row in rows:
        if row["networks"] == "anytime" and row["workers"] == 1:
            assert 0.9 * row["mean"]["bound"] < row["mean"]["simulated"] < row["mean"]["bound"]
            assert row["sup"]["simulated"] < row["sup"]["bound"]


def test_figure_3_without_a_row_and_without_an_exit():
    chosen = experiments.EXPERIMENTS["figure3"]
    settings = dict(datasets=("digits",), networks=((1, 4),), epochs=3)
    whole, part = chosen.settings(**settings), chosen.settings(**settings, without=("CONST",))
    left = [one for one in chosen.plan(whole) if one.labels["row"] != "CONST"]
    assert chosen.plan(part) == left and len(left) == len(chosen.plan(whole)) - 2, "one training of two seeds"
    trainings = []
    for seed, last in enumerate((0.75, 0.6)):
        optimal = alone([0.1] * 3, seed, losses=[1.0, 1.0, 0.5])
        trainings += [training("CONST", [0.5] * 3, seed, losses=[1.1, 1.2, last]), optimal[0], optimal[2]]
    summary = figures.losses(trainings)
    assert summary["rows"]["CONST"]["mean"] == [pytest.approx(10.0), None, pytest.approx(35.0)]
    header, rows = chosen.table(summary, PAPER["figure3"])
    assert rows[1] == ["exit_2", "–"]
    line = chosen.draw(summary).axes[0].lines[0].get_ydata()
    assert math.isnan(line[1]) and line[2] == pytest.approx(35.0)


def test_figure_3_is_of_one_network():
    chosen = experiments.EXPERIMENTS["figure3"]
    with pytest.raises(ValueError, match="one network.*5x16.*7x16"):
        chosen.plan(chosen.settings(networks=((5, 16), (7, 16))))


RESULTS = pathlib.Path(__file__).parents[2] / "zoo" / "results"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_committed_result_follows_from_its_trainings(path):
    content = report.read(path)
    summary = experiments.EXPERIMENTS[content["experiment"]].summarize(content["trainings"], content["ensembles"])
    assert json.loads(json.dumps(summary)) == content["summary"]


def test_the_committed_page_is_that_of_the_committed_results(tmp_path):
    folder = shutil.copytree(RESULTS, tmp_path / "results")
    assert experiments.write_page(folder).read_text() == (RESULTS / "README.md").read_text()


ROWS = [row for row in experiments.experiment.BEYOND if row not in ("CONST", "ADALOSS")]


def test_a_row_may_have_the_first_seed_alone():
    chosen = experiments.EXPERIMENTS["beyond"]
    settings = chosen.settings(
        datasets=("digits",), networks=((1, 4),), epochs=1, seeds=2, once=("uncertainty", "gamma 1 to 0")
    )
    seeds = {}
    for one in chosen.plan(settings):
        seeds.setdefault(one.labels["row"], set()).add(one.labels["seed"])
    assert {row for row, own in seeds.items() if own == {0}} == {"uncertainty", "gamma 1 to 0"}
    assert seeds["ADALOSS"] == seeds["OPT"] == seeds["distillation"] == {0, 1}
    chosen.settings(seeds=2, once=tuple(ROWS))  # what Table 1 has would still have both


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("figure5", dict(without=("CONST",)), "'CONST' is not an optional row"),
        ("table3", dict(without=("gamma 0",)), "'gamma 0' is not an optional row.*'gamma 0.05', 'gamma 0.15'"),
        ("beyond", dict(once=("uncertanty",)), "'uncertanty' is not an optional row.*Did you mean 'uncertainty'"),
        ("beyond", dict(without=("OPT",)), "'OPT' is not an optional row.*uncertainty"),
        ("beyond", dict(once=("",)), "'' is not an optional row"),
    ],
)
def test_rows_that_cannot_be_left_out_are_refused(name, changes, message):
    with pytest.raises(ValueError, match=message):
        experiments.EXPERIMENTS[name].settings(**changes)


def test_plans_are_what_the_issue_asks_for():
    settings = Settings(datasets=("digits",), networks=((2, 4),), epochs=3, seeds=2)
    curve = experiments.planning.costs(settings, (2, 4), "digits")
    planned = experiments.EXPERIMENTS["table1"].plan(settings)
    opt = places(curve)
    assert [one.labels["row"] for one in planned[: 3 + len(opt)]] == ["CONST", "LINEAR", "ADALOSS"] + ["OPT"] * len(opt)
    assert planned[3].recipe.weighting == {"name": "single_exit", "exit": opt[0]} and opt[-1] == curve[-1].exit
    assert len(planned) == 2 * (3 + len(opt)) and planned[-1].recipe.seed == 1
    assert planned[0].recipe.schedule["boundaries"] == [0.5, 0.75] and planned[0].recipe.learning_rate == 0.1
    beyond = {one.recipe.to_json() for one in experiments.EXPERIMENTS["beyond"].plan(settings)}
    shared = [one for one in planned if one.recipe.to_json() in beyond]
    assert {one.labels["row"] for one in shared} == {"CONST", "ADALOSS", "OPT"}, "trained once for both"
    exits = [one.labels.get("exit") for one in plan(settings, {}, opt="all") if one.labels["seed"] == 0]
    assert exits == [point.exit for point in curve]
    default = experiments.EXPERIMENTS["table1"].settings()
    assert default.networks == ((5, 16), (7, 16), (9, 16)) and default.datasets == ("cifar10", "cifar100")
    assert (default.epochs, default.seeds) == (60, 2)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_opts_networks_end_where_they_are_to_be_optimal_on_a_cpu(on_cpu, monkeypatch):
    monkeypatch.setattr(experiments.planning.runtime, "on_cpu", lambda: on_cpu)
    settings = Settings(datasets=("digits",), networks=((1, 4),), epochs=3, seeds=1)
    planned = [one.recipe for one in plan(settings, {}, opt="all")]
    assert [recipe.weighting["exit"] for recipe in planned] == ["exit_1", "exit_2", "exit_3"]
    ends = ["exit_2", "exit_2", None] if on_cpu else [None] * 3
    assert [recipe.last_exit for recipe in planned] == ends


def test_a_file_is_split_and_augmented_as_the_data_set_of_its_name():
    made = experiments.planning.recipe(Settings(), (5, 16), "/data/cifar10.npz", 0)
    assert made.data == {"data": "/data/cifar10.npz", "augment": ["pad_crop", "flip"], "validation": 5000}
    assert label("/data/cifar10.npz") == label("cifar10") == "cifar10"


@pytest.mark.parametrize("text", ["5", "5x", "0x16", "5x16x2", "", "ax16"])
def test_networks_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="5x16,9x16"):
        parse_networks(text)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(seeds=-1), "seeds=-1"),
        (dict(seeds=(2, 0)), r"seeds=\(2, 0\)"),
        (dict(seeds=(2, 1, 1)), "one for each data set"),
        (dict(datasets=()), "at least one data set"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changes)


def test_figures_refuse_networks_that_do_not_fit():
    with pytest.raises(ValueError, match="pairs of networks.*'5x16'"):
        experiments.EXPERIMENTS["figure5"].plan(Settings(networks=((5, 16),)))
    with pytest.raises(ValueError, match="two or more"):
        experiments.EXPERIMENTS["figure6"].plan(Settings(networks=((5, 16),)))


def told_by(command):
    """The settings that a command line makes, as a result tells them."""
    from anytime_keras.commands import reproduce

    program, subcommand, *arguments = shlex.split(command)
    flags = copy.deepcopy(reproduce.FLAGS)
    _, name = flags([subcommand, *arguments])
    made = reproduce._settings(flags, experiments.EXPERIMENTS[name])
    return name, json.loads(json.dumps(made.to_dict()))


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_the_command_that_a_result_tells_has_its_settings(path):
    content = report.read(path)
    name, settings = told_by(page.command(content))
    assert name == content["experiment"]
    assert content["settings"] is None or settings == {"without": [], "once": [], **content["settings"]}


def test_a_command_has_rows_left_out_and_seeds_of_each_data_set():
    settings = dict(without=("gamma 1 to 0",), once=("batch's own losses", "uncertainty"), seeds=(2, 1))
    content = dict(experiment="beyond", quick=False)
    content["settings"] = json.loads(json.dumps(experiments.EXPERIMENTS["beyond"].settings(**settings).to_dict()))
    assert content["settings"]["once"] == ["batch's own losses", "uncertainty"]
    assert told_by(page.command(content)) == ("beyond", content["settings"])


@pytest.fixture
def folder(tmp_path):
    """Two results by hand: Table 1 whole and as a quick check, Figure 3 as a quick check."""
    trainings = [training("CONST", [0.50, 0.33, 0.24, 0.22])]
    trainings += [training("ADALOSS", [0.6, 0.3, 0.2, 0.1], weight=[0.3, 1.5, 2.0, 1.0])]
    trainings += [*alone([0.40, 0.30, 0.20, 0.20])]
    losses = [training("CONST", [0.5] * 4, losses=[2.0] * 4), *alone([0.1] * 4, losses=[1.0] * 4)]
    settings = Settings(datasets=("made",), networks=((1, 1),), epochs=60, seeds=1).to_dict()
    for name, quick, rows in (("table1", False, trainings), ("table1", True, losses[:0]), ("figure3", True, losses)):
        content = dict(format=1, experiment=name, title=name, quick=quick, settings=settings, machine=MACHINE)
        content.update(ensembles=[], trainings=rows)
        content["summary"] = experiments.EXPERIMENTS[name].summarize(rows, []) if rows else {}
        (tmp_path / f"{name}{'_quick' if quick else ''}.json").write_text(report.to_text(content))
    return tmp_path


def test_the_page_shows_the_results_numbers_beside_the_papers(folder):
    text = page.write_page(folder).read_text()
    assert "| CONST | +15.07 | +16.40 | +18.76 | +18.90 | +25.00 | +10.00 | +20.00 | +10.00 |" in text, (
        "paper's numbers, then ours"
    )
    assert "| OPT | +0.00 | +0.00 | +0.00 | +0.00 | error 40.00% | error 30.00% | error 20.00% | error 20.00% |" in text
    assert "| exit_2 | +100.0 |" in text
    assert "| epochs | 300 | 60 |" in text and "| data sets | cifar10, cifar100, svhn_cropped | made |" in text
    assert "1x1: exit_1 (25%), exit_2 (50%), exit_3 (75%)," in text
    assert "| validation images of CIFAR | the last 5000 | drawn by class |" in text
    assert text.count("quick check") == 1, "Figure 3's; Table 1 is there in full"
    assert "\n- The paper says: AdaLoss enjoys small performance gaps in the later half of layers.\n" in text
    assert "(figure3_quick.png)" in text and (folder / "figure3_quick.png").stat().st_size > 1000
    content = report.read(folder / "table1.json")
    assert content["summary"] == tables.relative_table(content["trainings"], "OPT")


def test_text_around_the_generated_parts_is_kept(folder):
    path = page.write_page(folder)
    first = path.read_text()
    begin, end = page.BEGIN.format("table1"), page.END.format("table1")
    before, _, rest = first.partition(begin)
    path.write_text(f"{before}By hand.\n\n{begin}\nold\n{end}{rest.partition(end)[2]}\nLast words.\n")
    assert page.write_page(folder).read_text() == f"{before}By hand.\n\n{begin}{rest}\nLast words.\n"


def test_the_page_says_which_validation_images_a_result_had(folder):
    content = report.read(folder / "table1.json")
    content["trainings"][0]["recipe"]["data"] = {"data": "cifar10", "validation": "last"}
    rows = page.facts(content, PAPER["table1"], "table1.json")
    assert ["validation images of CIFAR", "the last 5000", "the last 5000"] in rows


def test_a_table_is_shown_in_the_terminal(folder, capsys):
    report.show(folder / "table1.json")
    said = capsys.readouterr().out
    assert "+25.00" in said and "+15.07" in said


def test_what_is_no_result_is_refused(tmp_path):
    with pytest.raises(ValueError, match="There are no results"):
        page.write_page(tmp_path)
    (tmp_path / "table1.json").write_text('{"format": 7}')
    with pytest.raises(ValueError, match="table1.json' must be a result"):
        page.write_page(tmp_path)


@pytest.mark.parametrize("damage", [dict(summary={}), dict(summary=None), dict(trainings=None), dict(machine={})])
def test_a_damaged_result_is_refused(folder, damage):
    path = folder / "table1.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(ValueError, match="table1.json' must be a result"):
        page.write_page(folder)


def test_every_experiment_has_the_papers_words():
    assert PAPER.keys() - {"reference", "fractions"} == experiments.EXPERIMENTS.keys()
    for name, entry in PAPER.items():
        if name in experiments.EXPERIMENTS:
            assert entry["source"] and (entry.get("rows") or entry.get("claims"))
