"""Type hints: mypy accepts the typed packages and finds a wrong call."""

import pytest

ROOMS = ("cost", "weighting", "evaluation", "data", "models", "training", "zoo", "commands.overrides")
ROOMS += ("conversion", "export", "reporting", "graph", "runtime")
ROOMS += ("_checks", "_errors", "_files", "_lazy", "_tables")
pytestmark = [pytest.mark.long, pytest.mark.tensorflow]  # about the source, not about a backend


def mypy(*arguments):
    api = pytest.importorskip("mypy.api")
    report, errors, status = api.run(["--config-file=setup.cfg", *arguments])
    assert not errors
    return report, status


def test_mypy_accepts_the_hints(pytestconfig, monkeypatch):
    monkeypatch.chdir(pytestconfig.rootpath)
    report, status = mypy(*(argument for room in ROOMS for argument in ("-p", f"anytime_keras.{room}")))
    assert status == 0, report


def test_mypy_finds_a_wrong_call(pytestconfig, monkeypatch):
    monkeypatch.chdir(pytestconfig.rootpath)
    report, status = mypy(
        "--command",
        "from anytime_keras.weighting import adaloss_weights, LossWeighting\n"
        "adaloss_weights([1.0], gamma='much')\n"
        "LossWeighting(3)\n",
    )
    assert status == 1 and report.count("[arg-type]") == 2, report
