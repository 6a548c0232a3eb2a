"""Results, the generated page, and the command line."""

import copy
import json
import pathlib
import shlex
import shutil

import pytest

from anytime_keras import commands
from anytime_keras.commands import reproduce
from anytime_keras.experiments import report
from anytime_keras.experiments.catalog import EXPERIMENTS
from tests.experiments.results import alone, run, write

RESULTS = pathlib.Path(__file__).parents[2] / "zoo" / "results"
COMMITTED = sorted(RESULTS.rglob("*.json"))


@pytest.mark.parametrize("folder", sorted({path.parent for path in COMMITTED}), ids=lambda path: path.name)
def test_the_committed_page_is_that_of_the_committed_results(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "results")
    assert report.write_page(copied).read_text() == (folder / "README.md").read_text()


def settings_of(command):
    """Returns an experiment and its settings, as set on the command line."""
    program, subcommand, *arguments = shlex.split(command)
    flags = copy.deepcopy(reproduce.FLAGS)
    _, name = flags([subcommand, *arguments])
    return name, vars(reproduce._settings(flags, EXPERIMENTS[name]))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_the_command_of_a_result_has_its_settings(path):
    content = report.read(path)
    name, settings = settings_of(report.command(content))
    assert name == content["experiment"]
    if content["settings"] is not None:
        settings = json.loads(json.dumps(settings))
        assert settings == {key: content["settings"][key] for key in settings}


def test_a_command_has_epochs_and_seeds_of_each_data_set_and_networks_of_any_family():
    settings = dict(datasets=["a", "b"], epochs={"a": 3, "b": 4}, seeds={"a": 2, "b": 1})
    settings["networks"] = ["5x16", "msdnet:blocks=[2,2],exit_every=2"]
    name, found = settings_of(report.command(dict(experiment="table1", quick=False, settings=settings)))
    assert {key: json.loads(json.dumps(found[key])) for key in settings} == settings


@pytest.fixture
def folder(tmp_path):
    """Results written by hand: Table 1 in full and as a quick check, Figure 3 as a quick check."""
    runs = [run("CONST", [0.50, 0.33, 0.24, 0.22]), *alone([0.40, 0.30, 0.20, 0.20])]
    losses = [run("CONST", [0.5] * 4, losses=[2.0] * 4), *alone([0.1] * 4, losses=[1.0] * 4)]
    write(tmp_path, "table1", runs)
    write(tmp_path, "table1", runs[:1], quick=True)
    write(tmp_path, "figure3", losses, quick=True)
    return tmp_path


def test_the_page_shows_the_results_numbers_beside_the_papers(folder):
    text = report.write_page(folder).read_text()
    assert "| CONST | +15.1 | +16.4 | +18.8 | +18.9 | +25.0 | +10.0 | +20.0 | +10.0 |" in text
    assert "| OPT | +0.0 | +0.0 | +0.0 | +0.0 | error 40.00% | error 30.00% | error 20.00% | error 20.00% |" in text
    assert "| exit_2 | +100.0 |" in text
    assert "| epochs, seeds | 300 (60 on SVHN), not stated | 60, 1 |" in text and "| runs | – | 5 of 9 |" in text
    assert "made (8 train + 4 test; no augmentation)" in text and "| 1.50% to 1.50% |" in text
    assert "1x1: exit_1, exit_2, exit_3, exit_4" in text
    assert text.count("quick check") == 1, "Figure 3's; Table 1 is there in full"
    assert "\n- The paper says: AdaLoss enjoys small performance gaps in the later half of layers.\n" in text
    assert "(figure3_quick.png)" in text and (folder / "figure3_quick.png").stat().st_size > 1000
    assert "Run again: `anytime-keras reproduce table1 --dataset=made --networks=1x1 --epochs=60" in text


def test_the_page_says_whether_the_last_images_were_held_out(tmp_path):
    one = run("CONST", [0.5] * 4)
    one["recipe"]["data"].update(validation="last", augment=["flip"])
    write(tmp_path, "table1", [one])
    text = report.write_page(tmp_path).read_text()
    assert "made (8 train + 4 test; validation: the last training images; flip)" in text


def test_the_page_names_the_epochs_of_each_data_set(tmp_path):
    path = write(tmp_path, "table1", [run("CONST", [0.5] * 4)])
    content = json.loads(path.read_text())
    content["settings"].update(epochs={"made": 60, "other": 30}, seeds={"made": 2, "other": 1})
    path.write_text(json.dumps(content))
    assert "| made: 60, other: 30, made: 2, other: 1 |" in report.write_page(tmp_path).read_text()


def test_the_page_has_losses_and_errors_of_each_data_set(tmp_path):
    runs = [run("OPT", [error] * 4, exit="exit_4", dataset=name) for name, error in (("made", 0.2), ("other", 0.4))]
    runs += [run("CONST", [0.3] * 4, dataset=name, losses=[loss] * 4) for name, loss in (("made", 1.0), ("other", 2.0))]
    path = write(tmp_path, "table1", runs)
    content = json.loads(path.read_text())
    content["settings"]["datasets"] = ["made", "other"]
    path.write_text(json.dumps(content))
    text = report.write_page(tmp_path).read_text()
    assert "CONST on made: 1.00 and 1.00; CONST on other: 2.00 and 2.00" in text
    assert "| OPT on other | – | – | – | – | – | – | – | error 40.00% |" in text


def test_text_around_the_generated_parts_is_kept(folder):
    path = report.write_page(folder)
    begin, end = report.BEGIN.format("table1"), report.END.format("table1")
    before, _, rest = path.read_text().partition(begin)
    path.write_text(f"{before}By hand.\n\n{begin}\nold\n{end}{rest.partition(end)[2]}\nLast words.\n")
    assert report.write_page(folder).read_text() == f"{before}By hand.\n\n{begin}{rest}\nLast words.\n"


def test_a_table_is_shown_in_the_terminal(folder):
    said = reproduce._text(folder / "table1.json")
    assert "+25.0" in said and "+15.1" in said


def test_a_file_that_is_no_result_is_refused(tmp_path):
    with pytest.raises(ValueError, match="There are no results"):
        report.write_page(tmp_path)
    (tmp_path / "table1.json").write_text('{"format": 7}')
    with pytest.raises(ValueError, match="table1.json' must be a result"):
        report.write_page(tmp_path)


@pytest.mark.parametrize("damage", [dict(settings={}), dict(runs=None), dict(runs=[{}])])
def test_a_damaged_result_is_refused(folder, damage):
    path = folder / "table1.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(ValueError, match="table1.json' must be a result"):
        report.read(path)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "Name exactly one experiment.*table1.*page"),
        (["table1", "table3"], "Name exactly one experiment"),
        (["tabel1"], "Did you mean 'table1'"),
        (["table1", "--epochs=0"], "--epochs must be above 0.*'0'"),
        (["table1", "--epochs=cifar10:3,many"], "many"),
        (["table1", "--epochs=300,60"], "one number per data set.*'300,60'"),
        (["table1", "--epochs=cifar10:300,60"], "'cifar10:300,60'"),
        (["table1", "--epochs=cifar10:300,cifar10:60"], "'cifar10:300,cifar10:60'"),
        (["table1", "--seeds=-1"], "'-1'"),
        (["table1", "--seeds=cifar10:2,many"], "many"),
        (["table1", "--seeds=2,1"], "one number per data set.*'2,1'"),
        (["table1", "--quick", "--seeds=cifar10:2"], "one for each of.*digits"),
        (["table1", "--networks=5"], "must look like 5x16"),
        (["table1", "--quick", "--networks=resann:chanels=4,num_units=1"], "chanels"),
        (["table1", "--precision=float8"], "float8"),
        (["table1", "--at_once=0"], "at_once=0"),
        (["table1", "--time_limit=-1"], "time_limit=-1"),
        (["table1", "--quick", "--dataset=/nowhere.npz"], "/nowhere.npz"),
        (["table1", "--dataset="], "one data set"),
        (["figure5", "--networks=5x16"], "pairs"),
        (["proposition", "--epochs=3"], "trains nothing.*--epochs"),
        (["page", "--results=/nowhere"], "no results in '/nowhere'"),
        (["images", "--dataset=/nowhere.npz"], "npz.*/nowhere.npz"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_flags_give_clear_errors(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    where = [f"--folder={tmp_path / 'runs'}", f"--results={tmp_path / 'results'}"]
    with pytest.raises(SystemExit, match=f"(?s)anytime-keras reproduce: .*{message}"):
        commands.main(["anytime-keras", "reproduce", *where, *arguments])
    assert not list(tmp_path.iterdir())


def test_the_command_writes_result_and_page(tmp_path, capsys):
    where = [f"--results={tmp_path}", f"--folder={tmp_path / 'runs'}"]
    commands.main(["anytime-keras", "reproduce", "proposition", *where])
    assert "sup C" in capsys.readouterr().out
    commands.main(["anytime-keras", "reproduce", "page", *where])
    row = report.read(tmp_path / "proposition.json")["summary"]["rows"][1]
    expected = f"| 2 | anytime | 1 | 3.000 | {row[4]:.3f} | {row[5]:.3f} | {row[6]:.3f} |"
    assert expected in (tmp_path / "README.md").read_text()
