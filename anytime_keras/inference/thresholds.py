"""Confidence thresholds of early exit: as the caller gives them, or as they were fitted and stored with a model."""

import math
import numbers

import numpy as np

from anytime_keras._checks import check_number, check_one


def choose_thresholds(goals, stored, exit_names, temperatures, macs):
    """Returns the confidence threshold of each exit for the arguments of `predict_batch`, a list.

    Args:
        goals: dict with `"confidence"`, `"average_budget"`, `"risk"` and `"max_drop"`, of which one is not None.
        stored: dict, the `inference` of a model, or None.
        exit_names: list of str, the exits in use.
        temperatures: list of float, their temperatures.
        macs: list of int, their costs.

    Raises:
        ValueError: if not exactly one goal is given, it is not valid, or no threshold is fitted for it.

    >>> goals = {"confidence": None, "average_budget": None, "risk": 0.1, "max_drop": None}
    >>> entry = {"risk": 0.1, "threshold": 0.7, "exits": ["early", "late"], "temperatures": [1.0, 1.0]}
    >>> choose_thresholds(goals, {"risk_thresholds": [entry]}, ["early", "late"], [1.0, 1.0], [10, 20])
    [0.7, 0.7]
    """
    check_one(**goals)
    (kind,) = (name for name, goal in goals.items() if goal is not None)
    if kind == "confidence":
        return thresholds_per_exit(goals[kind], exit_names)
    if kind == "average_budget":
        value, entries = checked_budget(goals[kind]), (stored or {}).get("thresholds", [])
        known = [entry[0] for entry in entries]
        found = [entry[1] for entry in entries if fits_budget(entry, [value], exit_names, temperatures, macs)]
    else:
        value, entries = goals[kind], (stored or {}).get("risk_thresholds", [])
        known = [entry[kind] for entry in entries if kind in entry]
        wanted = {kind: value, "exits": list(exit_names), "temperatures": list(temperatures)}
        found = [entry["threshold"] for entry in entries if same_target(entry, wanted)]
    if not found:
        raise ValueError(
            f"No threshold is fitted for `{kind}` {value!r} and the exits {list(exit_names)} at their temperatures and "
            f"costs, {list(macs)} MACs. Fitted for any: {known}. Call `Predictor.fit_thresholds(validation, "
            f"{kind}={value!r})` for these exits and inputs of this size; export the model again after that."
        )
    return [found[0]] * len(exit_names)


def thresholds_per_exit(confidence, exit_names):
    """Returns a threshold for each exit; `confidence` is a number, or a list with one for each exit but the last."""
    given = np.asarray(confidence, object).tolist()
    values = [*given, 0.0] if isinstance(given, list) else [given] * len(exit_names)
    if len(values) != len(exit_names):
        raise ValueError(
            f"`confidence` needs one value for each exit but the last of {list(exit_names)}. "
            f"Received: {len(confidence)} values."
        )
    if not all(isinstance(value, numbers.Real) and math.isfinite(value) for value in values):
        raise ValueError(f"`confidence` must be numbers. Received: {confidence}.")
    return values


def checked_budget(value):
    """Returns an average budget in MACs as a float."""
    return float(check_number("average_budget", value, "of MACs", lambda number: not math.isnan(number)))


def fits_budget(entry, budgets, exit_names, temperatures, macs):
    """Returns whether a stored entry is for one of `budgets` and for these exits, temperatures and costs.

    Fields that older entries lack are assumed to match.
    """
    value, _, *fitted_for = entry
    of_state = [list(exit_names), list(temperatures), list(macs)][: len(fitted_for)]
    return fitted_for == of_state and any(_equal(value, own) for own in budgets)


def same_target(entry, other):
    """Returns whether two stored entries for a risk or a drop are for the same target, exits and temperatures."""
    kind = "risk" if "risk" in entry else "max_drop"
    same = all(entry[key] == other[key] for key in ("exits", "temperatures"))
    return same and kind in other and _equal(entry[kind], other[kind])


def _equal(one, other):
    """Returns whether two targets are the same, one of which may have been rounded to float32."""
    return isinstance(other, numbers.Real) and math.isclose(one, other, rel_tol=1e-6)
