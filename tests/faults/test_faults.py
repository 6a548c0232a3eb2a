"""The fault suite with a few tries of each fault; `python -m tests.faults` makes many, at other moments each time."""

import json
import os
import subprocess
import sys

import pytest

from tests.faults import catalog

pytestmark = pytest.mark.long

# Faults of training runs take minutes: `tests/training` kills one, `test_trainings.py` has the others.
QUICK = [name for name, (backend, _) in catalog.FAULTS.items() if backend == "numpy"]


def suite(report, *options):
    command = [sys.executable, "-m", "tests.faults", f"--report={report}", *options]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "default"})
    assert report.exists(), ended.stderr[-3000:]
    return json.loads(report.read_text())["faults"], ended


@pytest.mark.tensorflow
def test_training_survives_each_fault_a_few_times(tmp_path):
    options = ["--kills=8", "--share=0.01", "--seed=0", *(f"--exactly={name}" for name in QUICK)]
    faults, _ = suite(tmp_path / "report.json", *options)
    assert sorted(faults) == sorted(QUICK)
    for name, fault in faults.items():
        assert fault["survived"] == fault["tried"] > 0 and not fault["found"], (name, fault["found"])


@pytest.mark.slow
@pytest.mark.tensorflow
def test_training_survives_every_fault_many_times(tmp_path):
    faults, ended = suite(tmp_path / "report.json", "--kills=100")
    assert ended.returncode == 0, ended.stdout[-5000:]
    assert sum(fault["tried"] for name, fault in faults.items() if name.startswith("killed")) >= 100
