"""Packages of other backends are imported when they are used, and not by tools that inspect modules."""

import copy
import inspect

import pytest

from anytime_keras import _lazy


def test_a_package_is_imported_at_its_first_use_and_not_by_tools():
    missing = _lazy._Module("no_such_package")
    assert inspect.unwrap(missing) is missing and not hasattr(missing, "__test__")
    assert isinstance(copy.deepcopy(missing), _lazy._Module)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        missing.numpy
    assert _lazy._Module("math").pi == 3.141592653589793
