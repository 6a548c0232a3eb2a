"""What arguments of weightings must be."""

import numbers


def check_number(name, value, range, within):
    """Raises ValueError unless `value` is a number for which `within` holds; `range` says so in words."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not within(value):
        raise ValueError(f"`{name}` must be a number {range}. Received: {name}={value!r}.")
