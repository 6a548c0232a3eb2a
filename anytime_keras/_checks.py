"""Checks of arguments, with one clear error each. Exports ship this module."""

import math
import numbers
import operator
from collections.abc import Callable, Collection
from typing import Any

from anytime_keras._errors import guess


def check_number(name: str, value: Any, range: str, within: Callable[[Any], bool]) -> Any:
    """Returns a number of any library as Python's, or raises ValueError unless `within` accepts it."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not within(value):
        raise ValueError(f"`{name}` must be a number {range}. Received: {name}={value!r}.")
    return value.item() if hasattr(value, "item") else value


def check_limit(name: str, value: Any, unit: str = "of seconds") -> None:
    """Raises ValueError unless a limit is a number, which may be infinite, or None."""
    if value is not None:
        check_number(name, value, unit, lambda number: not math.isnan(number))


def check_one(optional: bool = False, **arguments: Any) -> None:
    """Raises ValueError unless one of the arguments is given and the others are None; if `optional`, all may be."""
    count = sum(value is not None for value in arguments.values())
    if count > 1 or (count == 0 and not optional):
        *names, last = (f"`{name}`" for name in arguments)
        received = ", ".join(f"{name}={value}" for name, value in arguments.items())
        rule = f"one of {', '.join(names)} and {last} {'can' if optional else 'must'} be given"
        raise ValueError(f"{'Only' if optional else 'Exactly'} {rule}. Received: {received}.")


def check_period(update_period: Any) -> int:
    """Returns a number of batches between two updates as an int, or raises ValueError."""
    range = "of batches, 1 or more"
    return int(check_number("update_period", update_period, range, lambda value: value >= 1 and value % 1 == 0))


def check_int(name: str, value: Any, low: int = 1, high: int = 2**31 - 1) -> int:
    """Returns any library's int as Python's, or raises ValueError unless it is from `low` to `high`."""
    number = _int(value)
    if number is None or not low <= number <= high:
        expected = "a positive int" if low == 1 else f"an int of {low} or more"
        expected += "" if number is None or number < low else f", at most {high}"
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}.")
    return number


def check_positive(**arguments: Any) -> list[int]:
    """Returns the arguments as a list of ints, or raises ValueError unless each is a positive int."""
    return [check_int(name, value) for name, value in arguments.items()]


def check_positive_list(
    name: str, values: Any, expected: str = "a list of positive ints", length: int | None = None
) -> tuple[int, ...]:
    """Returns `values` as a tuple of ints, or raises ValueError unless all, at least one, are positive ints."""
    listed = values if isinstance(values, (tuple, list)) else ()
    found = tuple(number for number in map(_int, listed) if number is not None and number > 0)
    if not found or len(found) < len(listed) or length not in (None, len(found)):
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={values!r}.")
    return found


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raises ValueError unless `value` is one of `choices`, which are words."""
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(map(repr, choices))
        message = f"`{name}` must be one of {listed}. Received: {name}={value!r}. {guess(value, choices)}"
        raise ValueError(message.rstrip())


def _int(value: Any) -> int | None:
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None
