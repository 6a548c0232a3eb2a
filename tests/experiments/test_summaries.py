"""Summaries and tables, compared with numbers computed by hand."""

import functools

import numpy as np
import pytest

from anytime_keras.experiments import catalog, show, summaries
from anytime_keras.experiments.summaries import at_fractions
from tests.experiments.results import EXITS, alone, run

EXPERIMENTS = catalog.EXPERIMENTS
NAN = float("nan")
approx = functools.partial(pytest.approx, nan_ok=True)


def increases(summary, row):
    return summaries.means(summary["rows"][row]["increases"])


def errors(summary, row):
    return summaries.means(summary["rows"][row]["errors"])


def test_increases_over_opt_at_fractions_of_the_cost():
    runs = [
        run("CONST", [0.50, 0.33, 0.24, 0.22]),
        run("ADALOSS", [0.60, 0.30, 0.20, 0.10]),
        *alone([0.40, 0.30, 0.20, 0.20]),
    ]
    summary = summaries.relative(runs, "OPT")
    assert increases(summary, "CONST") == pytest.approx([25.0, 10.0, 20.0, 10.0])
    assert increases(summary, "ADALOSS") == pytest.approx([50.0, 0.0, 0.0, -50.0])
    assert increases(summary, "OPT") == pytest.approx([0.0] * 4)
    _, rows = show.relative(summary, EXPERIMENTS["table1"].paper)
    assert rows[0] == ["CONST", "+15.1", "+16.4", "+18.8", "+18.9", "+25.0", "+10.0", "+20.0", "+10.0"]


def test_opt_is_the_network_of_the_exit_that_answers():
    """At half of 40 MACs, the exit at 18 is used, not the one at 22; networks for other exits do not matter."""
    macs = [4, 18, 22, 40]
    runs = [run("CONST", [0.8, 0.44, 0.1, 0.3], macs=macs), *alone([0.5, 0.40, 0.9, 0.3], macs=macs)]
    assert at_fractions(runs[0]["exits"]) == [0.8, 0.44, 0.1, 0.3]
    assert increases(summaries.relative(runs, "OPT"), "CONST")[:2] == pytest.approx([60.0, 10.0])


def test_opt_of_networks_that_end_early_is_found_by_the_whole_ones_costs():
    rows = [run("CONST", [0.50, 0.33, 0.24, 0.22])]
    whole = alone([0.40, 0.30, 0.20, 0.20])
    cut = [run("OPT", one["exits"]["error"][: place + 1], exit=one["exit"]) for place, one in enumerate(whole)]
    expected, found = (summaries.relative([*rows, *alone], "OPT") for alone in (whole, cut))
    for row in ("CONST", "OPT"):
        assert increases(found, row) == pytest.approx(increases(expected, row))
        assert errors(found, row) == pytest.approx(errors(expected, row))
    assert errors(expected, "OPT") == pytest.approx([0.4, 0.3, 0.2, 0.2])


def test_a_table_of_unfinished_runs_has_dashes():
    summary = summaries.relative([run("CONST", [0.5] * 4), alone([0.4] * 4)[1]], "OPT")
    assert increases(summary, "CONST") == approx([NAN, 25.0, NAN, NAN])
    _, (row, _) = show.relative(summary, EXPERIMENTS["table1"].paper)
    assert row[5:] == ["error 50.00%", "+25.0"] + ["error 50.00%"] * 2
    summary = summaries.relative([run("CONST", [0.5] * 4)], "OPT")
    (row,) = show.relative(summary, EXPERIMENTS["table1"].paper)[1]
    assert row[5:] == ["error 50.00%"] * 4


def test_there_is_no_number_before_the_first_exit_or_for_a_zero_error():
    macs = [15, 20, 30, 40]
    runs = [run("a", [0.5, 0.4, 0.2, 0.1], macs=macs), run("b", [0.5, 0.4, 0.3, 0.0], macs=macs)]
    assert increases(summaries.relative(runs, "b"), "a") == approx([NAN, 0.0, -100 / 3, NAN])


def test_a_data_set_with_more_seeds_weighs_no_more_and_has_its_own_row_and_spread():
    runs = []
    for dataset, seed, own in (("made", 0, 0.11), ("made", 1, 0.13), ("other", 0, 0.14)):
        where = dict(dataset=dataset, seed=seed)
        runs += [run("base", [0.1] * 4, **where), run("own", [own] * 4, **where)]
    summary = summaries.relative(runs, "base")
    assert increases(summary, "own") == pytest.approx([30.0] * 4)
    assert errors(summary, "own") == pytest.approx([0.13] * 4)
    rows = {row[0]: row[-1] for row in show.relative(summary, {"rows": {}})[1]}
    assert rows["own"] == "+30.0" and rows["own on made"] == "+20.0 (+10.0 to +30.0)"
    assert rows["own on other"] == "+40.0"
    assert rows["base"] == rows["base on made"] == rows["base on other"] == "error 10.00%"


def test_figure_3_compares_training_losses_exit_by_exit():
    runs = []
    for seed, last in enumerate((0.75, 0.6)):
        optimal = alone([0.1] * 3, seed, losses=[1.0, 1.0, 0.5])
        runs += [run("CONST", [0.5] * 3, seed, losses=[1.1, 1.2, last]), optimal[0], optimal[2]]
    summary = summaries.losses(runs)
    assert summary == {"exits": EXITS[:3], "rows": {"CONST": approx([10.0, NAN, 35.0])}}
    chosen = EXPERIMENTS["figure3"]
    assert catalog.KINDS[chosen.kind].table(summary, chosen.paper)[1] == [["exit_1", "+10.0"], ["exit_3", "+35.0"]]
    line = catalog.KINDS[chosen.kind].draw(summary).axes[0].lines[0]
    assert list(line.get_xdata()) == [1, 3] and line.get_ydata() == approx([10.0, 35.0])


def test_figure_5_is_relative_to_the_small_ones_last_exit():
    runs = [
        run("small ADALOSS", [0.4, 0.2], pair="p", macs=[10, 20]),
        run("large CONST", [0.3, 0.25, 0.22, 0.19], network="2x1", pair="p"),
    ]
    (panel,) = summaries.pairs(runs)["panels"].values()
    at = {row: dict(zip(summaries.GRID, line)) for row, line in panel["lines"].items()}
    assert np.isnan(at["small ADALOSS"][0.45]) and at["small ADALOSS"][0.5] == pytest.approx(100.0)
    assert at["small ADALOSS"][3.0] == pytest.approx(0.0) and at["large CONST"][0.5] == pytest.approx(50.0)
    assert at["large CONST"][1.25] == pytest.approx(25.0) and at["large CONST"][2.0] == pytest.approx(-5.0)
    assert summaries.pairs(runs[1:])["panels"] == {}, "the small network is not finished"


MEMBERS = [
    run("ADALOSS", [0.4, 0.2], weight=[0.5, 1.0], macs=[10, 20]),
    run("ADALOSS", [0.4, 0.3, 0.2, 0.1], network="2x1", weight=[0.1, 0.2, 0.7, 1.0]),
    run("CONST", [0.4, 0.3], macs=[10, 20]),
    run("CONST", [0.3, 0.3, 0.3, 0.3], network="2x1", weight=[1.0] * 4),
]


def test_figure_6_reads_all_lines_at_the_same_budgets():
    """16 budgets of 10, 12, ... 40 MACs: five for each of the first three exits, and one for the last."""
    ensembles = [
        dict(dataset="made", seed=0, row=row, exits=run(row, errors)["exits"])
        for row, errors in (("ADALOSS", [0.4, 0.2, 0.1]), ("CONST", [0.4, 0.6, 0.1]))
    ]
    summary = summaries.budgets(MEMBERS, ensembles, "largest")
    panel = summary["panels"]["2x1 on made"]
    assert panel["lines"]["EANN of CONST"][:5] == approx([NAN] * 4 + [40.0])
    assert panel["mean"] == pytest.approx(
        {
            "EANN of ADALOSS": (5 * 40 + 5 * 20 + 6 * 10) / 16,
            "EANN of CONST": (5 * 40 + 5 * 60 + 6 * 10) / 16,
            "2x1 ADALOSS": (5 * 40 + 5 * 30 + 5 * 20 + 10) / 16,
            "2x1 CONST": 30.0,
        }
    )
    assert summary["weights"] == {"made": pytest.approx([0.1, 0.2, 0.7, 1.0])}
    chosen = EXPERIMENTS["figure6"]
    header, rows = catalog.KINDS[chosen.kind].table(summary, chosen.paper)
    assert header[1:] == ["0.25", "0.5", "0.75", "1", "1.5", "2", "mean"]
    assert rows[2] == ["EANN of ADALOSS", "40.00", "20.00", "10.00", "10.00", "10.00", "10.00", "22.50"]
    assert rows[-1][0].startswith("AdaLoss weight") and rows[-1][-1] == "85.0%"
    left, right = catalog.KINDS[chosen.kind].draw(summary).axes
    assert left.get_xscale() == "log" and "2x1 on made" in left.get_xlabel() and right.get_xlabel() == "exit"


def test_opt_is_a_line_at_the_costs_of_networks_that_are_run_alone():
    summary = summaries.budgets([*MEMBERS, *alone([0.35, 0.25, 0.15, 0.05], network="2x1")], alone="largest")
    line = dict(zip(summaries.GRID, summary["panels"]["2x1 on made"]["lines"]["OPT of 2x1"]))
    assert [line[budget] for budget in (0.2, 0.25, 0.5, 1.0)] == approx([NAN, 35.0, 25.0, 5.0])


def test_an_ensemble_of_plain_networks_is_a_line():
    plain = dict(dataset="made", seed=0, row="linear ensemble of resann", exits=run("", [0.3, 0.2])["exits"])
    summary = summaries.budgets([run("ADALOSS", [0.4] * 4, weight=[1.0] * 4)], [plain], "largest")
    assert list(summary["panels"]["1x1 on made"]["lines"]) == ["1x1 ADALOSS", "linear ensemble of resann"]


def test_the_largest_network_with_several_exits_is_shown_beside_linear_ensembles():
    plain = run("linear ensemble of resann", [0.3], network="9x1", macs=[90])
    one = dict(dataset="made", seed=0, row="linear ensemble of resann", exits=run("", [0.3, 0.2])["exits"])
    summary = summaries.budgets([*MEMBERS[:1], plain], [one], "largest")
    assert list(summary["panels"]["1x1 on made"]["lines"]) == ["1x1 ADALOSS", "linear ensemble of resann"]


def test_table_2_has_each_networks_errors_at_fractions_of_its_own_cost():
    chosen = EXPERIMENTS["table2"]
    summary = chosen.summarize(MEMBERS, [])
    _, rows = catalog.KINDS[chosen.kind].table(summary, chosen.paper)
    assert rows[0] == ["resann50 CONST (paper)", "54.34", "35.61", "27.23", "25.14"]
    assert rows[-4] == ["1x1 ADALOSS", "–", "40.00", "40.00", "20.00"]
    assert len(catalog.KINDS[chosen.kind].draw(summary).axes) == 1


def test_the_propositions_bounds_hold_in_the_simulation():
    rows = summaries.inflations()["rows"]
    (row,) = (row for row in rows if row[:3] == [2.0, "anytime", 1])
    assert row[3] == 3.0 and row[5] == pytest.approx(2.443, abs=1e-3)
    for base, kind, workers, sup, simulated_sup, mean, simulated_mean in rows:
        if (kind, workers) == ("anytime", 1):
            assert 0.9 * mean < simulated_mean < mean and simulated_sup < sup
