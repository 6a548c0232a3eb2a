"""Experiments from plan to result, on tiny networks; finished runs are not repeated."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest

from anytime_keras.experiments import planning, report
from anytime_keras.experiments import runs as module
from anytime_keras.experiments.catalog import EXPERIMENTS
from anytime_keras.training import Recipe
from tests import checks

pytestmark = pytest.mark.long

TINY = dict(epochs=1, seeds=1, batch_size=60, networks=("1x2",))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return checks.write_images(tmp_path_factory.mktemp("data") / "images.npz", train=60, validation=12, test=24)


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """A folder with the runs of Table 4 in `runs` and its result in `results`."""
    folder = tmp_path_factory.mktemp("finished")
    own = module.Runs(folder / "runs", at_once=1, say=str)
    report.reproduce("table4", settings("table4", images), own, folder / "results")
    return folder


def settings(name, images, **changes):
    return EXPERIMENTS[name].settings(**{**TINY, "datasets": (images,), **changes})


def planned(name, images, **changes):
    return EXPERIMENTS[name].plan(settings(name, images, **changes))


@pytest.fixture
def taken(monkeypatch):
    """Records the recipes that are trained."""
    recipes, trained = [], module.train
    monkeypatch.setattr(module, "train", lambda recipe, *a, **k: recipes.append(recipe) or trained(recipe, *a, **k))
    return recipes


def test_an_experiment_is_stopped_resumed_and_never_repeated(images, tmp_path, taken, monkeypatch):
    monkeypatch.setattr(module, "monotonic", lambda: 100.0 * len(taken))  # a run takes 100 seconds

    def reproduce(time_limit=None, results=None):
        own = module.Runs(tmp_path / "runs", results, at_once=1, time_limit=time_limit, say=str)
        return report.reproduce("table4", settings("table4", images), own, tmp_path / "results")

    path, complete = reproduce(time_limit=1e-9)
    assert not complete and len(taken) == 1
    path, complete = reproduce(time_limit=150)
    assert complete and len(taken) == 2 and taken[0] != taken[1]
    assert not list((tmp_path / "runs").glob("*/checkpoints/*"))
    before = path.read_text()
    assert reproduce() == (path, True) and len(taken) == 2 and path.read_text() == before
    shutil.rmtree(tmp_path / "runs")
    assert reproduce(results=path.parent) == (path, True) and len(taken) == 2, "the result is enough"
    assert path.read_text() == before


def test_a_result_grows_with_each_run(images, finished, tmp_path, taken, monkeypatch):
    first, second = (one.recipe for one in planned("table4", images))
    own = module.Runs(tmp_path / "runs", finished / "results", at_once=1, say=str)
    own.stored.pop(own.place(second))

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", fail)
    third = dataclasses.replace(second, seed=7)
    with pytest.raises(KeyboardInterrupt):
        own.run([first, third])
    seen = []
    monkeypatch.setattr(own, "_train", lambda group, limit: own.stored.update({own.place(group[0]): {}}))
    assert own.run([first, second, third], after=lambda: seen.append(len(own.stored))) and seen == [2, 3]


def test_a_directory_that_cannot_be_made_is_refused_before_the_first_run(images, tmp_path, taken):
    (tmp_path / "file").touch()
    own = module.Runs(tmp_path / "runs", at_once=1, say=str)
    with pytest.raises(OSError, match="file"):
        report.reproduce("table4", settings("table4", images), own, tmp_path / "file" / "results")
    assert not taken


def test_measurements_are_those_of_the_run(images, finished):
    path = finished / "results" / "table4.json"
    first, second = report.read(path)["runs"]
    assert first["row"] == "momentum 0.9" and second["recipe"]["weighting"]["momentum"] == 0.99
    folder = module.Runs(finished / "runs").place(planned("table4", images)[0].recipe)
    with open(folder / "history.csv") as file:
        (epoch,) = csv.DictReader(file)
    assert first["train_loss"][1] == float(epoch["exit_2_loss"])
    assert first["weight"][2] == float(epoch["exit_3_weight"])
    assert first["validation_error"][0] == 1 - float(epoch["val_exit_1_accuracy"])
    curve = json.loads((folder / "curve.json").read_text())
    assert first["exits"]["error"] == [point["error"] for point in curve["points"]]
    assert first["split"] == "test" and first["sizes"] == {"train": 60, "validation": 12, "test": 24}
    assert first["late_fall"] is None, "one epoch shows no change"


def test_convergence_compares_the_last_two_tenths():
    losses = [9.0] * 16 + [2.0, 2.0, 1.0, 2.0]
    assert module.late_fall(losses) == pytest.approx(100 * 0.5 / 7.5)


def test_a_killed_experiment_loses_no_epoch_on_a_cpu(images, tmp_path, monkeypatch):
    recipe = planned("table4", images, epochs=3)[0].recipe
    trained = module.train

    def killed(recipe, *args, **kwargs):
        stop = module.keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: _crash(epoch == 2))
        return trained(recipe, *args, callbacks=[stop], **kwargs)

    def _crash(now):
        if now:
            raise KeyboardInterrupt

    own = module.Runs(tmp_path, at_once=1, say=str)
    monkeypatch.setattr(module, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        own.run([recipe])
    assert [path.name for path in sorted((own.place(recipe) / "checkpoints").iterdir())][-1] == "epoch-00002"
    monkeypatch.setattr(module, "train", trained)
    assert own.run([recipe])
    assert len((own.place(recipe) / "history.csv").read_text().splitlines()) == 4
    assert own.measured(recipe)["late_fall"] is not None


def test_an_exit_trained_alone_shares_its_run_with_the_complete_network(images, tmp_path, taken):
    """OPT's networks are complete on a GPU and end early on a CPU; a run that one of them started serves the other."""
    (other, *_) = planned("table4", images)
    whole = dataclasses.replace(other.recipe, weighting={"name": "single_exit", "exit": "exit_2"})
    part = dataclasses.replace(whole, last_exit="exit_2")
    own = module.Runs(tmp_path, at_once=1, say=str)
    assert own.place(whole) == own.place(part) != own.place(other.recipe)
    assert own.place(dataclasses.replace(other.recipe, last_exit="exit_2")) != own.place(other.recipe)
    assert own.run([part]) and own.finished(whole)
    assert own.measured(whole)["exits"]["exit"] == ["exit_1", "exit_2"]
    assert own.measured(whole)["recipe"] == part.to_dict(), "the recipe is that of the numbers"
    (own.place(part) / "curve.json").unlink()
    assert own.run([whole]) and taken == [part, part], "resumed as it was begun"


@pytest.mark.tensorflow
def test_a_run_in_the_results_serves_every_experiment(images, finished, tmp_path, taken):
    """A run with momentum 0.9 in Table 4 is the run with period 1 in Table 5."""
    results = shutil.copytree(finished / "results", tmp_path / "results")
    own = module.Runs(tmp_path / "runs", results, at_once=1, say=str)
    path, _ = report.reproduce("table5", settings("table5", images), own, results)
    assert [recipe.weighting.get("update_period") for recipe in taken] == [100]
    (before, _), (first, _) = (report.read(each)["runs"] for each in (results / "table4.json", path))
    assert {**first, "row": before["row"]} == before
    with pytest.raises(ValueError, match="table4.json' contains runs that these settings omit"):
        report.reproduce("table4", settings("table4", images, epochs=2), own, results)
    assert len(taken) == 1


def test_directories_keep_their_names(tmp_path):
    """If names changed, finished runs of users would be trained again."""
    network = {"name": "resann", "num_units": 5, "channels": 16}
    made = module.Runs(tmp_path).place(Recipe(network, "cifar10", epochs=60, seed=1))
    assert made.name == "resann5x16_adaloss_cifar10_seed1_e98e5763a6"


def test_an_ensemble_is_measured_once_and_needs_its_networks(images, finished, tmp_path, taken):
    networks = ("1x2", "2x2")
    chosen = settings("figure6", images, networks=networks)
    members = [one.recipe for one in planned("figure6", images, networks=networks) if one.labels["row"] == "ADALOSS"]
    own = module.Runs(shutil.copytree(finished / "runs", tmp_path / "runs"), say=str)
    path, complete = report.reproduce("figure6", chosen, own, tmp_path / "results")
    content = report.read(path)
    assert complete and own.place(members[0]) not in map(own.place, taken), "Table 4 trained it"
    measured = own.ensemble(members)
    runs = list(map(own.measured, members))
    best, used = float("inf"), []
    for number, run in enumerate(runs):
        for place, error in enumerate(run["validation_error"]):
            if error < best - 1e-6:
                best = error
                used.append((f"member_{number + 1}/exit_{place + 1}", run["exits"]["error"][place]))
    assert list(zip(measured["exits"]["exit"], measured["exits"]["error"])) == used
    (panel,) = content["summary"]["panels"].values()
    assert {"EANN of ADALOSS", "EANN of CONST", "OPT of 2x2"} <= set(panel["lines"])

    count = len(taken)
    again = module.Runs(tmp_path / "runs", say=str)
    assert report.reproduce("figure6", chosen, again, path.parent) == (path, True) and len(taken) == count
    stored = module.Runs(tmp_path / "other", path.parent, say=str)
    assert all(map(stored.finished, members))
    stored.need_networks(members)
    assert not any(map(stored.finished, members)), "a result has no networks"
    (own.place(members[0]) / "model.keras").unlink()
    next(own.folder.glob("eann_adaloss*")).unlink()
    with pytest.raises(ValueError, match="no `model.keras` in.*resann1x2"):
        own.need_networks(members)


def test_groups_are_what_one_program_can_train(images, tmp_path, monkeypatch):
    monkeypatch.setattr(planning.runtime, "on_cpu", lambda: False)
    found = planned("beyond", images, seeds=2)
    own = module.Runs(tmp_path, at_once=100)
    groups = list(own._groups([one.recipe for one in found]))
    rows = {one.recipe.to_json(): one.labels["row"] for one in found}
    named = [sorted({rows[recipe.to_json()] for recipe in group}) for group in groups]
    assert ["ADALOSS", "CONST", "OPT"] in named and sum(map(len, named)) == len(named) + 2
    assert [len(group) for group in module.Runs(tmp_path, at_once=3)._groups([found[0].recipe] * 7)] == [3, 3, 1]
    (own.place(found[0].recipe) / "checkpoints" / "epoch-00007").mkdir(parents=True)
    assert len(list(own._groups([found[0].recipe, found[1].recipe]))) == 2, "stopped at different epochs"


@pytest.fixture(scope="module")
def quick_runs(tmp_path_factory):
    """The directory of all quick checks, which share many runs."""
    return tmp_path_factory.mktemp("quick")


@pytest.mark.parametrize("name", [name for name, one in EXPERIMENTS.items() if one.rows])
def test_the_quick_check_of_each_experiment_runs(name, quick_runs, tmp_path):
    chosen = EXPERIMENTS[name]
    own = module.Runs(quick_runs, at_once=1, say=str)
    path, complete = report.reproduce(name, chosen.settings(quick=True, epochs=1), own, tmp_path, quick=True)
    assert complete and path.name == f"{name}_quick.json"
    content = report.read(path)
    assert len(content["runs"]) == content["planned"] > 1
    assert report.write_page(tmp_path).read_text().count("quick check") == 1


@pytest.mark.skipif(module.keras.backend.backend() != "jax", reason="is about JAX")
def test_on_an_accelerator_programs_are_cached_in_the_folder(tmp_path, monkeypatch):
    import jax

    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setattr(module.runtime, "on_cpu", lambda: False)
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        assert module.Runs(tmp_path / "a").at_once == module.AT_ONCE
        module.Runs(tmp_path / "b")
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "a" / ".programs")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.tensorflow
def test_side_by_side_on_jax_needs_no_tensorflow_and_no_matplotlib(images, tmp_path):
    script = f"""
import sys
missing = ["tensorflow", "tensorflow_datasets", "matplotlib", "sklearn"]
sys.modules.update(dict.fromkeys(missing))  # an import of them raises
from anytime_keras import commands
flags = "--epochs=1 --seeds=1 --batch_size=60 --networks=1x2 --at_once=2 --time_limit=500 --dataset={images}"
where = ["--folder={tmp_path}/runs", "--results={tmp_path}"]
commands.main(["anytime-keras", "reproduce", "table4", *flags.split(), *where])
"""
    environment = {**os.environ, **checks.on_jax()}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("runs finished]") == 1 and "momentum 0.99" in done.stdout, "both in one group"
    content = report.read(tmp_path / "table4.json")
    assert [run["machine"]["backend"] for run in content["runs"]] == ["jax", "jax"]


@pytest.mark.parametrize(
    "backend, on_cpu, engine", [("jax", False, "scan"), ("jax", True, "fit"), ("tensorflow", False, "fit")]
)
def test_an_epoch_is_one_program_only_on_accelerators(backend, on_cpu, engine, images, monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(module.keras.backend, "backend", lambda: backend)
    monkeypatch.setattr(module.runtime, "on_cpu", lambda: on_cpu)
    monkeypatch.setattr(module, "keep_programs", lambda folder: None)
    monkeypatch.setattr(
        module,
        "train",
        lambda recipe, folder, engine, checkpoint_every, **kwargs: called.append((engine, checkpoint_every)),
    )
    (one, *_) = planned("table4", images)
    assert not module.Runs(tmp_path / "runs", at_once=1, say=str).run([one.recipe])
    assert called == [(engine, 10 if engine == "scan" else 1)]
