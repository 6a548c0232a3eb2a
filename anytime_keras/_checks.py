"""Checks of arguments."""

import numbers


def check_number(name, value, range, within):
    """Raises ValueError unless `value` is a number for which the function `within` is true; `range` describes it."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not within(value):
        raise ValueError(f"`{name}` must be a number {range}. Received: {name}={value!r}.")


def check_period(update_period):
    """Raises ValueError unless `update_period` is a number of batches."""
    check_number("update_period", update_period, "of batches, 1 or more", lambda value: value >= 1 and value % 1 == 0)
