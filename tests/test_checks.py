"""Argument checks accept integers of any library, refuse booleans, and name each problem once."""

import numpy as np
import pytest

from anytime_keras import _checks, _errors


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_integers_of_any_library_become_python_ints(value):
    assert type(_checks.check_int("count", value)) is int
    assert [type(each) for each in _checks.check_positive_list("counts", [value, value])] == [int, int]


@pytest.mark.parametrize(
    "value, expected",
    [
        (True, "a positive int"),
        (np.True_, "a positive int"),
        (0, "a positive int"),
        (3.0, "a positive int"),
        ("3", "a positive int"),
        (None, "a positive int"),
        (2**31, "a positive int, at most 2147483647"),
    ],
)
def test_values_that_are_not_integers_raise(value, expected):
    with pytest.raises(ValueError) as error:
        _checks.check_int("count", value)
    assert str(error.value) == f"`count` must be {expected}. Received: count={value!r}."
    if value != 2**31:
        with pytest.raises(ValueError, match="`counts` must be a list of positive ints"):
            _checks.check_positive_list("counts", [1, value])


@pytest.mark.parametrize("value", [True, np.True_, float("nan"), "1", None, 2.0])
def test_values_that_are_not_numbers_raise(value):
    with pytest.raises(ValueError, match=r"`share` must be a number in \[0, 1\]. Received: share="):
        _checks.check_number("share", value, "in [0, 1]", lambda number: 0 <= number <= 1)


@pytest.mark.parametrize("value", ["padded", ["pad"], {}, np.array(["pad", "flip"]), True, None])
def test_an_unknown_choice_lists_the_choices_once(value):
    with pytest.raises(ValueError) as error:
        _checks.check_choice("step", value, ("pad", "flip"))
    message = f"`step` must be one of 'pad', 'flip'. Received: step={value!r}."
    guessed = " Did you mean 'pad'?" if repr(value) in ("'padded'", "['pad']") else ""
    assert str(error.value) == message + guessed


def test_a_hint_lists_similar_names_and_all_names_if_there_are_few():
    assert _errors.nearest("pat", ["pad", "flip"]) == "Did you mean 'pad'? Known: 'flip', 'pad'."
    assert _errors.nearest("x", ["pad", "flip"]) == "Known: 'flip', 'pad'."
    assert _errors.guess("CIFAR10", ["cifar10", "flowers", "SVHN"]) == "Did you mean 'cifar10'?"
    assert _errors.guess("svhn", ["cifar10", "flowers", "SVHN"]) == "Did you mean 'SVHN'?"
    many = [f"name_{number}" for number in range(9)]
    assert _errors.nearest("name_3", many, most=2).startswith("Did you mean 'name_3'")
    assert _errors.nearest("x", many, most=2) == "Known: 'name_0', 'name_1' and 7 more."
