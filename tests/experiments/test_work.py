"""Experiments from the command to the page, on tiny networks: what is finished is not trained again."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest

from anytime_keras import commands, experiments
from anytime_keras.experiments import report, work
from anytime_keras.training import Recipe
from tests import checks

pytestmark = pytest.mark.long

# A matter of files and names, for which JAX takes longest to compile.
BOOKKEEPING = pytest.mark.tensorflow

TINY = dict(epochs=1, seeds=1, batch_size=60, networks=((1, 2),))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return checks.write_images(tmp_path_factory.mktemp("data") / "images.npz", train=60, validation=12, test=24)


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """A folder in which Table 4 was run: its trainings are in `runs`, its result in `results`."""
    folder = tmp_path_factory.mktemp("finished")
    own = experiments.Work(folder / "runs", at_once=1, say=str)
    experiments.reproduce("table4", settings("table4", images), own, folder / "results")
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of it, for a test that changes or adds something."""
    return shutil.copytree(finished, tmp_path / "copy")


def settings(name, images, **changes):
    return experiments.EXPERIMENTS[name].settings(**{**TINY, "datasets": (images,), **changes})


def without_times(path):
    content = json.loads(path.read_text())
    for each in (content, *content["trainings"]):
        del each["machine"]
    return content


def test_an_experiment_is_stopped_resumed_never_run_again_and_agrees_with_itself(
    images, finished, tmp_path, monkeypatch
):
    chosen = settings("table4", images)
    calls, trained = [], work.train

    def train(recipe, *args, **kwargs):
        calls.append(recipe.to_json())
        return trained(recipe, *args, **kwargs)

    monkeypatch.setattr(work, "train", train)
    monkeypatch.setattr(work, "monotonic", lambda: 100.0 * len(calls))  # a training takes 100 seconds

    def run(time_limit=None):
        own = experiments.Work(tmp_path / "runs", at_once=1, time_limit=time_limit)
        return experiments.reproduce("table4", chosen, own, tmp_path / "results")

    assert run(time_limit=1e-9) is None
    assert len(calls) == 1 and not list((tmp_path / "results").iterdir())
    path = run()
    assert len(calls) == 2 and calls[0] != calls[1]
    assert not list((tmp_path / "runs").glob("*/checkpoints/*"))
    before = path.read_text()
    assert run() == path and len(calls) == 2, "what is finished is not trained again"
    assert path.read_text() == before
    other = finished / "results" / "table4.json"
    assert without_times(other) == without_times(path), "identical runs agree"

    content = report.read(path)
    assert content["summary"] == experiments.EXPERIMENTS["table4"].summarize(content["trainings"], [])
    (planned, _) = experiments.EXPERIMENTS["table4"].plan(chosen)
    training, second = content["trainings"]
    assert training["row"] == "momentum 0.9" and second["recipe"]["weighting"]["momentum"] == 0.99
    folder = experiments.Work(tmp_path / "runs").place(planned.recipe)
    with open(folder / "history.csv") as file:
        (epoch,) = csv.DictReader(file)
    assert training["train_loss"][1] == float(epoch["exit_2_loss"])
    assert training["weight"][2] == float(epoch["exit_3_weight"])
    assert training["validation_error"][0] == 1 - float(epoch["val_exit_1_accuracy"])
    curve = json.loads((folder / "curve.json").read_text())
    assert training["exits"]["error"] == [point["error"] for point in curve["points"]]
    assert training["split"] == "test" and training["sizes"] == {"train": 60, "validation": 12, "test": 24}


def test_a_killed_experiment_loses_no_epoch_on_a_cpu(images, tmp_path, monkeypatch):
    recipe = experiments.EXPERIMENTS["table4"].plan(settings("table4", images, epochs=3))[0].recipe
    trained = work.train

    def killed(recipe, *args, **kwargs):
        stop = work.keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: _crash(epoch == 2))
        return trained(recipe, *args, callbacks=[stop], **kwargs)

    def _crash(now):
        if now:
            raise KeyboardInterrupt

    own = experiments.Work(tmp_path, at_once=1)
    monkeypatch.setattr(work, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        own.run([recipe])
    assert [path.name for path in sorted((own.place(recipe) / "checkpoints").iterdir())][-1] == "epoch-00002"
    monkeypatch.setattr(work, "train", trained)
    assert own.run([recipe])
    with open(own.place(recipe) / "history.csv") as file:
        assert len(list(csv.DictReader(file))) == 3


def test_an_exit_trained_alone_is_not_trained_again_for_what_follows_it(images, tmp_path, monkeypatch):
    """A GPU's OPT is whole, a CPU's ends early: what is finished or begun on one serves the other."""
    (other, *_, whole) = experiments.EXPERIMENTS["table4"].plan(settings("table4", images))
    whole = dataclasses.replace(whole.recipe, weighting={"name": "single_exit", "exit": "exit_2"})
    part = dataclasses.replace(whole, last_exit="exit_2")
    own = experiments.Work(tmp_path, at_once=1, say=str)
    assert own.place(whole) == own.place(part) != own.place(other.recipe)
    ended = dataclasses.replace(other.recipe, last_exit="exit_2")
    assert own.place(ended) != own.place(other.recipe), "of all others the part is another training"
    assert own.begun(whole) == whole
    assert own.run([part]) and own.finished(whole) and own.begun(whole) == part
    assert own.measured(whole)["exits"]["exit"] == ["exit_1", "exit_2"]
    (own.place(part) / "curve.json").unlink()
    taken = []
    monkeypatch.setattr(work, "train", lambda recipe, *args, **kwargs: taken.append(recipe))
    assert not own.run([whole])
    assert taken == [part], "goes on as it was begun"


@BOOKKEEPING
def test_what_a_result_tells_is_not_trained_again(images, folder, tmp_path, monkeypatch):
    """Table 4's momentum 0.9 is table 5's period 1: of a machine that is gone, its result is enough."""
    results, taken, trained = folder / "results", [], work.train
    monkeypatch.setattr(work, "train", lambda recipe, *a, **k: taken.append(recipe) or trained(recipe, *a, **k))
    own = experiments.Work(tmp_path / "runs", at_once=1, say=str, reuse=results)
    path = experiments.reproduce("table5", settings("table5", images), own, results)
    assert [recipe.weighting.get("update_period") for recipe in taken] == [100]
    (before, _), (first, second) = (report.read(each)["trainings"] for each in (results / "table4.json", path))
    assert {**first, "row": before["row"]} == before
    assert second["recipe"]["weighting"]["update_period"] == 100
    summary = experiments.EXPERIMENTS["table5"].summarize([first, second], [])
    assert report.read(path)["summary"] == summary
    whole = dataclasses.replace(taken[0], weighting={"name": "single_exit", "exit": "exit_2"})
    part = dataclasses.replace(whole, last_exit="exit_2")
    own.stored[own.place(whole)] = {"recipe": part.to_dict()}
    assert own.begun(whole) == part, "the recipe is that of the numbers"
    path.unlink()
    with pytest.raises(ValueError, match="table4.json' contains runs that these settings omit"):
        experiments.reproduce("table4", settings("table4", images, epochs=2), own, results)
    assert len(taken) == 1


@BOOKKEEPING
def test_a_result_that_does_not_tell_its_trainings_is_refused_by_name(folder, tmp_path):
    path = folder / "results" / "table4.json"
    content = json.loads(path.read_text())
    del content["trainings"][1]["weight"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="table4.json' must contain its runs.*weight"):
        experiments.Work(tmp_path / "other", reuse=path.parent)


@BOOKKEEPING
def test_rows_are_left_out_and_the_page_says_so(images, folder, tmp_path):
    whole = settings("beyond", images)
    part = settings("beyond", images, without=("uncertainty", "distillation"))
    plan = experiments.EXPERIMENTS["beyond"].plan
    left = [one for one in plan(whole) if one.labels["row"] not in ("uncertainty", "distillation")]
    assert plan(part) == left and len(left) == len(plan(whole)) - 2
    few = settings("table3", images, without=("gamma 0.15",))
    path = experiments.reproduce("table3", few, experiments.Work(folder / "runs", say=str), tmp_path)
    assert list(report.read(path)["summary"]["rows"]) == ["gamma 0", "gamma 0.05"]
    text = experiments.write_page(tmp_path).read_text()
    assert "| omitted rows | – | gamma 0.15 |" in text
    assert "\n| gamma 0.05 | " in text and "\n| gamma 0.15 | " not in text


def test_folders_keep_their_names(tmp_path):
    """Or all that users have trained would be trained again."""
    network = {"name": "resann", "num_units": 5, "channels": 16}
    own = experiments.Work(tmp_path)
    made = own.place(Recipe(network, "cifar10", epochs=60, seed=1))
    assert made.name == "resann5x16_adaloss_cifar10_seed1_e98e5763a6"


def test_an_ensemble_of_trained_members_is_measured_once(images, folder, tmp_path):
    chosen = settings("figure6", images, networks=((1, 2), (2, 2)))
    members = [one.recipe for one in experiments.EXPERIMENTS["figure6"].plan(chosen) if one.labels["row"] == "ADALOSS"]
    with pytest.raises(ValueError, match="no `model.keras` in.*resann1x2.*resann2x2"):
        experiments.Work(tmp_path / "nothing").ensemble(members)
    own = experiments.Work(folder / "runs")
    assert own.run(members)
    measured = own.ensemble(members)
    validation, test = ([own.measured(member)[key] for member in members] for key in ("validation_error", "exits"))
    best, used = float("inf"), []
    for number, errors in enumerate(validation):
        for place, error in enumerate(errors):
            if error < best - 1e-6:
                best = error
                used.append((f"member_{number + 1}/exit_{place + 1}", test[number]["error"][place]))
    assert list(zip(measured["exits"]["exit"], measured["exits"]["error"])) == used
    for member in members:
        (own.place(member) / "model.keras").unlink()
    assert own.ensemble(members) == measured


@BOOKKEEPING
def test_an_ensemble_that_a_result_tells_is_not_trained_again(images, finished, tmp_path, monkeypatch):
    """A data set is added to Figure 6 of a machine that is gone: only its own networks are trained."""
    shutil.copytree(finished / "runs", tmp_path / "gone")
    results, taken, trained = tmp_path / "results", [], work.train
    monkeypatch.setattr(work, "train", lambda recipe, *a, **k: taken.append(recipe) or trained(recipe, *a, **k))
    chosen = settings("figure6", images, networks=((1, 2), (2, 2)))
    small, large = (
        one.recipe for one in experiments.EXPERIMENTS["figure6"].plan(chosen) if one.labels["row"] == "ADALOSS"
    )

    def run(name, folder, chosen, reuse=None):
        own = experiments.Work(tmp_path / folder, at_once=1, say=str, reuse=reuse)
        return experiments.reproduce(name, chosen, own, results)

    first = report.read(run("figure6", "gone", chosen))
    run("figure5", "gone", settings("figure5", images, networks=chosen.networks))
    assert len(taken) == 3, "table 4 and figures 5 and 6 share trainings"
    again = report.read(run("figure6", "runs", chosen, reuse=results))
    assert len(taken) == 3
    assert {**again, "machine": None} == {**first, "machine": None}

    own = experiments.Work(shutil.copytree(finished / "runs", tmp_path / "here"), say=str, reuse=results)
    assert own.finished(large)
    own.prepare_ensemble([small, large])
    assert own.finished(small) and not own.finished(large), "a network of here is chained with one of here"
    (own.place(small) / "model.keras").unlink()
    with pytest.raises(ValueError, match="no `model.keras` in.*resann1x2"):
        own.prepare_ensemble([small, large])
    (results / "figure6.json").unlink()
    own = experiments.Work(tmp_path / "runs", say=str, reuse=results)
    assert own.finished(small), "told by Figure 5"
    own.prepare_ensemble([small, large])
    assert not own.finished(small), "but its network is gone"


def test_trainings_that_stopped_at_different_epochs_are_not_put_side_by_side(images, tmp_path):
    own = experiments.Work(tmp_path, at_once=100)
    recipes = [one.recipe for one in experiments.EXPERIMENTS["table4"].plan(settings("table4", images))]
    assert len(list(own._groups(recipes))) == 1
    (own.place(recipes[0]) / "checkpoints" / "epoch-00007").mkdir(parents=True)
    assert [len(group) for group in own._groups(recipes)] == [1, 1]


def test_groups_are_what_one_program_can_train(images, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments.planning.runtime, "on_cpu", lambda: False)
    chosen = settings("beyond", images, seeds=2)
    planned = experiments.EXPERIMENTS["beyond"].plan(chosen)
    groups = list(experiments.Work(tmp_path, at_once=100)._groups([one.recipe for one in planned]))
    rows = {one.recipe.to_json(): one.labels["row"] for one in planned}
    named = [sorted({rows[recipe.to_json()] for recipe in group}) for group in groups]
    assert ["ADALOSS", "CONST", "OPT"] in named
    alone = ["gamma 1 to 0", "distillation", "mean of logarithms", "batch's own losses", "uncertainty"]
    alone += ["first order, period 10", "GradNorm, period 10"]
    assert sorted(named) == sorted(
        [
            ["ADALOSS", "CONST", "OPT"],
            ["equilibrium, ADALOSS", "equilibrium, CONST"],
            *([row] for row in alone),
        ]
    )
    assert all(len(group) == 2 for group, own in zip(groups, named) if len(own) == 1), "two seeds"
    assert [len(group) for group in experiments.Work(tmp_path, at_once=3)._groups([planned[0].recipe] * 7)] == [3, 3, 1]


@pytest.mark.skipif(work.keras.backend.backend() != "jax", reason="is about JAX")
def test_on_an_accelerator_programs_are_kept_unless_the_user_says_where(tmp_path, monkeypatch):
    import jax

    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setattr(work.runtime, "on_cpu", lambda: False)
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        assert experiments.Work(tmp_path / "a").at_once == work.AT_ONCE
        experiments.Work(tmp_path / "b")
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "a" / ".programs")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "Name exactly one experiment.*table1.*page"),
        (["table1", "table3"], "Name exactly one experiment"),
        (["tabel1"], "Did you mean 'table1'"),
        (["table1", "--epochs=0"], "epochs=0"),
        (["table1", "--epochs=many"], "many"),
        (["table1", "--seeds=-1"], "seeds=-1"),
        (["table1", "--seeds=2,many"], "2,many"),
        (["table1", "--quick", "--seeds=2,1"], "one for each data set"),
        (["table1", "--networks=5"], "5x16,9x16"),
        (["table1", "--precision=float8"], "float8"),
        (["table1", "--at_once=0"], "at_once=0"),
        (["table1", "--time_limit=-1"], "time_limit=-1"),
        (["table1", "--quick", "--dataset=/nowhere.npz"], "/nowhere.npz"),
        (["table1", "--dataset="], "one data set"),
        (["figure5", "--networks=5x16"], "pairs"),
        (["figure5", "--quick", "--networks=2x4,1x4"], "increasing order.*2x4, 1x4"),
        (["figure6", "--quick", "--networks=1x4,1x4"], "increasing order"),
        (["table1", "--dataset=a/made.npz,b/made.npz"], "distinct names"),
        (["table1", "--quick", f"--results={__file__}"], "test_work.py"),
        (["proposition", "--epochs=3"], "trains nothing"),
        (["figure5", "--quick", "--without=CONST"], "'CONST' is not an optional row"),
        (["beyond", "--quick", "--without=ADALOSS"], "'ADALOSS' is not an optional row.*uncertainty"),
        (["beyond", "--quick", "--seeds=2", "--once=ADALOSS"], "'ADALOSS' is not an optional row.*uncertainty"),
        (["table4", "--quick", "--reuse=/nowhere"], "no results to reuse in '/nowhere'"),
        (["page", "--results=/nowhere"], "no results in '/nowhere'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_flags_give_clear_errors(arguments, message, tmp_path):
    with pytest.raises(SystemExit, match=f"(?s)anytime-keras reproduce: .*{message}"):
        commands.main(["anytime-keras", "reproduce", f"--folder={tmp_path}", *arguments])
    assert not list(tmp_path.iterdir())


def test_the_command_writes_result_and_page(tmp_path, capsys):
    def run(*arguments):
        commands.main(
            ["anytime-keras", "reproduce", *arguments, f"--results={tmp_path}", f"--folder={tmp_path / 'runs'}"]
        )

    run("proposition")
    assert "sup C" in capsys.readouterr().out
    run("page")
    text = (tmp_path / "README.md").read_text()
    content = report.read(tmp_path / "proposition.json")
    row = content["summary"]["rows"][1]
    assert f"| 2 | anytime | 1 | 3.000 | {row['sup']['simulated']:.3f} | {row['mean']['bound']:.3f} |" in text


@pytest.mark.tensorflow
def test_side_by_side_on_jax_needs_no_tensorflow_and_no_matplotlib(images, tmp_path):
    """As on a machine that has JAX alone: two networks of a row side by side, then the JSON."""
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
    assert "[0 of 2 runs finished] 2 side by side" in done.stdout and "momentum 0.99" in done.stdout
    content = report.read(tmp_path / "table4.json")
    assert [training["machine"]["backend"] for training in content["trainings"]] == ["jax", "jax"]


@pytest.mark.parametrize(
    "backend, on_cpu, engine", [("jax", False, "scan"), ("jax", True, "fit"), ("tensorflow", False, "fit")]
)
def test_an_epoch_is_one_program_on_accelerators_alone(backend, on_cpu, engine, images, monkeypatch, tmp_path):
    taken = []
    monkeypatch.setattr(work.keras.backend, "backend", lambda: backend)
    monkeypatch.setattr(work.runtime, "on_cpu", lambda: on_cpu)
    monkeypatch.setattr(work, "_keep_programs", lambda folder: None)
    monkeypatch.setattr(
        work,
        "train",
        lambda recipe, folder, engine, checkpoint_every, **kwargs: taken.append((engine, checkpoint_every)),
    )
    (one, *_) = experiments.EXPERIMENTS["table4"].plan(settings("table4", images))
    assert not work.Work(tmp_path / "runs", at_once=1, say=str).run([one.recipe])
    assert taken == [(engine, 10 if engine == "scan" else 1)]
