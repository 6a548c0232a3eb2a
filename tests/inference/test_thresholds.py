import numpy as np
import pytest

from anytime_keras.inference.thresholds import choose_thresholds, fits_budget, same_target

EXITS, TEMPERATURES, MACS = ["early", "late"], [1.0, 2.0], [10, 20]
STORED = {
    "thresholds": [[15.0, 0.6, EXITS, TEMPERATURES, MACS], [15.0, 0.1, EXITS, TEMPERATURES, [10, 21]]],
    "risk_thresholds": [
        {"risk": 0.1, "threshold": 0.7, "exits": EXITS, "temperatures": TEMPERATURES},
        {"max_drop": 0.0, "threshold": 0.9, "exits": EXITS, "temperatures": TEMPERATURES},
        {"risk": 0.2, "threshold": 0.5, "exits": ["late"], "temperatures": [2.0]},
    ],
}


def choose(stored=STORED, **goal):
    goals = {name: goal.get(name) for name in ("confidence", "average_budget", "risk", "max_drop")}
    return choose_thresholds(goals, stored, EXITS, TEMPERATURES, MACS)


@pytest.mark.parametrize(
    "goal, expected",
    [
        (dict(confidence=0.4), [0.4, 0.4]),
        (dict(confidence=[0.4]), [0.4, 0.0]),
        (dict(confidence=np.array(0.4)), [0.4, 0.4]),
        (dict(average_budget=15), [0.6, 0.6]),
        (dict(risk=0.1), [0.7, 0.7]),
        (dict(risk=np.float32(0.1)), [0.7, 0.7]),
        (dict(max_drop=0), [0.9, 0.9]),
    ],
)
def test_a_goal_gives_a_threshold_for_each_exit(goal, expected):
    assert choose(**goal) == expected


@pytest.mark.parametrize(
    "goal, message",
    [
        (dict(), "`risk` and `max_drop` must be given. Received: confidence=None"),
        (dict(risk=0.1, max_drop=0.1), "risk=0.1, max_drop=0.1"),
        (dict(confidence=[0.4, 0.5]), "one value for each exit but the last of .'early', 'late'.. Received: 2 values"),
        (dict(confidence="high"), "`confidence` must be numbers. Received: high"),
        (dict(confidence="0.9"), "`confidence` must be numbers. Received: 0.9"),
        (dict(confidence=[[0.4]]), r"`confidence` must be numbers. Received: \[\[0.4"),
        (dict(average_budget="many"), "`average_budget` must be a number of MACs. Received: average_budget='many'"),
        (dict(average_budget=16), r"for `average_budget` 16.0 .*\[10, 20\] MACs. Fitted for any: \[15.0, 15.0\]"),
        (dict(risk=0.2), r"for `risk` 0.2 and the exits \['early', 'late'\].*Fitted for any: \[0.1, 0.2\]"),
        (dict(max_drop=0.1), r"for `max_drop` 0.1 .*Fitted for any: \[0.0\].*max_drop=0.1\)"),
        (dict(risk="low"), "for `risk` 'low'"),
        (dict(risk=0.1, stored=None), r"Fitted for any: \[\]"),
    ],
)
def test_a_goal_without_a_threshold_is_refused(goal, message):
    with pytest.raises(ValueError, match=message):
        choose(**goal)


def test_entries_without_exits_are_those_of_earlier_versions():
    assert fits_budget([15.0, 0.6], [15.0], EXITS, TEMPERATURES, MACS)
    assert not fits_budget([15.0, 0.6, EXITS, [1.0, 1.0]], [15.0], EXITS, TEMPERATURES, MACS)


def test_a_risk_and_a_drop_are_different_targets():
    risk, drop = ({kind: 0.1, "exits": EXITS, "temperatures": TEMPERATURES} for kind in ("risk", "max_drop"))
    assert same_target(risk, dict(risk)) and not same_target(risk, drop) and not same_target(drop, risk)
