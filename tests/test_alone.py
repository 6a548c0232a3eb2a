"""Runs the tests marked `alone`, whose results depend on what else happened in their process: a process per file."""

import pathlib

import pytest

from tests import checks

FOLDER = pathlib.Path(__file__).parent
FILES = [
    str(path.relative_to(FOLDER))
    for path in sorted(FOLDER.glob("*/**/test_*.py"))
    if "@pytest.mark.alone" in path.read_text()
]


@pytest.mark.long
@pytest.mark.tensorflow
@pytest.mark.parametrize("file", FILES)
def test_it_passes_in_a_separate_process(file):
    checks.run_pytest("-m", "alone", FOLDER / file)
