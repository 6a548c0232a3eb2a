"""Checks of arguments, with one clear error each."""

import numbers


def check_number(name, value, range, within):
    """Raises ValueError unless `value` is a number for which the function `within` is true; `range` describes it."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not within(value):
        raise ValueError(f"`{name}` must be a number {range}. Received: {name}={value!r}.")


def check_period(update_period):
    """Raises ValueError unless `update_period` is a number of batches."""
    check_number("update_period", update_period, "of batches, 1 or more", lambda value: value >= 1 and value % 1 == 0)


def check_int(name, value, low):
    """Raises ValueError unless `value` is an int of `low` or more, below 2**31."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value < 2**31:
        raise ValueError(f"`{name}` must be an int of {low} or more. Received: {name}={value!r}.")
