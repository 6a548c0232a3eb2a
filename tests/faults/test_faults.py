"""The fault suite with few tries of each; `python -m tests.faults` makes many, at other moments each time."""

import json
import os
import subprocess
import sys

import pytest

from tests.faults import catalog

# Those of trainings take minutes: `tests/training` kills one, `test_trainings.py` has the others.
QUICK = [name for name, (backend, _) in catalog.FAULTS.items() if backend == "numpy"]


def suite(report, *options):
    command = [sys.executable, "-m", "tests.faults", f"--report={report}", *options]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "default"})
    assert report.exists(), ended.stderr[-3000:]
    return json.loads(report.read_text())["faults"], ended


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """What came of a few tries of each fault, the same ones each time."""
    report = tmp_path_factory.mktemp("faults") / "report.json"
    options = ["--kills=8", "--share=0.02", "--seed=0", *(f"--exactly={name}" for name in QUICK)]
    return suite(report, *options)[0]


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", QUICK)
def test_a_fault_is_survived(outcome, name):
    assert outcome[name]["tried"] > 0 and outcome[name]["survived"] == outcome[name]["tried"], outcome[name]["found"]
    assert not outcome[name]["found"]


@pytest.mark.slow
@pytest.mark.tensorflow
def test_every_fault_is_survived_many_times(tmp_path):
    faults, ended = suite(tmp_path / "report.json", "--kills=100")
    assert ended.returncode == 0, ended.stdout[-5000:]
    assert sum(fault["tried"] for name, fault in faults.items() if name.startswith("killed")) >= 100
