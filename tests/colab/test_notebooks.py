"""The notebooks in colab/ run, define nothing, and their stored outputs are up to date."""

import ast
import importlib
import re
import types

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

import anytime_keras as ak
from tests.colab import notebooks

NAMES = [path.name for path in notebooks.PATHS]
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
DRAWING = ("matplotlib", "seaborn", "plotly", "bokeh", "PIL")


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def notebook(name):
    return notebooks.read(notebooks.FOLDER / name)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tree(cell):
    return ast.parse(TransformerManager().transform_cell(cell.source))


def dotted(node):
    """Returns `a.b.c` of an attribute of a name, or None."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) and parts else None


def test_the_seven_notebooks_are_there_in_order():
    expected = ["start_here", "train_with_adaloss", "make_your_own_model_anytime", "eann", "ship_it", "many_devices"]
    expected.append("serve_under_load")
    assert NAMES == [f"{number}_{title}.ipynb" for number, title in enumerate(expected, 1)]


def test_it_is_valid_small_and_anonymous(name, notebook):
    nbformat.validate(notebook)
    text = (notebooks.FOLDER / name).read_text()
    assert len(text) < 600_000
    assert "/work/" not in text and "/root/" not in text and "/home/" not in text
    assert set(notebook.metadata) == {"accelerator", "anytime_keras", "colab", "kernelspec", "language_info"}
    assert not any(cell.metadata for cell in notebook.cells)


def test_it_begins_with_a_badge_only_if_the_repository_is_named(name, notebook):
    badge = notebooks.badge(name, notebooks.repository(notebook))
    assert notebook.cells[0].source.startswith(f"{badge}\n\n# " if badge else "# ")
    assert "TO_BE_NAMED" not in (notebooks.FOLDER / name).read_text()


def installed(monkeypatch, repository, answers=(), missing=True):
    """Runs the install cell that all notebooks share, and returns what it passes to pip."""
    cells = {notebooks.read(path).cells[1].source for path in notebooks.PATHS}
    assert len(cells) == 1
    code = notebooks.VARIABLE.sub(f'REPOSITORY = "{repository}"', cells.pop())
    lines, answers = [], iter(answers)
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if missing else object())
    shell = types.SimpleNamespace(run_line_magic=lambda name, line: lines.append(line.format(**names)))
    names = {"get_ipython": lambda: shell}
    exec(TransformerManager().transform_cell(code), names)
    return lines


def test_its_first_cell_installs_the_library_if_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert not installed(monkeypatch, "", missing=False)
    assert installed(monkeypatch, "anytime-keras") == ['install -q "anytime-keras[export]"']
    git = ['install -q "anytime-keras[export] @ git+https://host/user/project"']
    assert installed(monkeypatch, "https://host/user/project") == git
    assert installed(monkeypatch, "", ["https://host/user/project"]) == git
    monkeypatch.chdir(notebooks.FOLDER)
    assert installed(monkeypatch, "") == ['install -q "..[export]"'], "the checkout"


def test_it_defines_no_functions_and_plots_through_the_library(notebook):
    for cell in code(notebook):
        for node in ast.walk(tree(cell)):
            assert not isinstance(node, DEFINITIONS), cell.source
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not [module for module in modules if module.split(".")[0] in DRAWING]
            [importlib.import_module(module) for module in modules]


def test_the_names_it_uses_exist_in_the_library(notebook):
    used = {dotted(node) for cell in code(notebook) for node in ast.walk(tree(cell))} - {None}
    ours = [path for path in used if path.startswith("ak.")]
    assert len(ours) >= 3
    for path in ours:
        thing = ak
        for part in path.split(".")[1:]:
            thing = getattr(thing, part)


def test_its_outputs_are_those_of_its_cells(notebook):
    assert notebook.metadata.anytime_keras.sources == notebooks.sources(notebook), (
        "code was changed since it was run: python -m tests.colab"
    )
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))


def check_outputs(notebook):
    """Checks a notebook: no warnings, the data or network is named, and a `plot` of the library made each picture."""
    assert not notebooks.complaints(notebook)
    named = r"^(data: (digits|cifar10|cifar100|tf_flowers|images)|network: \w+) \(.+\)$"
    assert re.search(named, notebooks.printed(notebook), re.M)
    pictures = 0
    for cell, output in notebooks.outputs(notebook):
        assert output.output_type in ("stream", "execute_result"), output
        data = output.get("data", {})
        if any(kind.startswith("image/") for kind in data):
            pictures += 1
            shown = ast.unparse(tree(cell).body[-1].value.func)
            plotted = [dotted(node.func) for node in ast.walk(tree(cell)) if isinstance(node, ast.Call)]
            assert re.search(r"\.plot(_\w+)?$", shown) or shown == "Image" and "ak.evaluation.plot_answers" in plotted
        assert "<Figure" not in data.get("text/plain", "") or "image/png" in data, "a picture that does not show"
    assert pictures >= 1


def test_its_plots_are_stored(notebook):
    check_outputs(notebook)


@pytest.fixture
def litert(monkeypatch):
    """`engine="auto"` compares no other runtimes in the notebook's process, because converting takes long."""
    monkeypatch.setenv("ANYTIME_KERAS_ENGINES", "litert")


def run(name, folder):
    notebook = notebooks.execute(notebooks.read(notebooks.FOLDER / name), folder)
    check_outputs(notebook)
    return notebook


@pytest.mark.long
@pytest.mark.tensorflow
def test_start_here_runs_from_a_clean_kernel(litert, tmp_path):
    printed = notebooks.printed(run("1_start_here.ipynb", tmp_path))
    accuracies = ak.zoo.show("resann2x16_adaloss_digits").pick().accuracies
    assert all(f" {100 * (1 - accuracy):.2f} " in printed for accuracy in accuracies)
    assert all(f"{title}: LabeledAnswer(" in printed for title in ak.data.photos())
    assert "runs on litert: " in printed and (tmp_path / "answers.gif").exists()


@pytest.mark.long
@pytest.mark.tensorflow
def test_ship_it_runs_from_a_clean_kernel(litert, tmp_path):
    printed = notebooks.printed(run("5_ship_it.ipynb", tmp_path))
    within = dict(re.findall(r"^(\w+): .* logits within (\S+) of Keras's", printed, re.M))
    assert set(within) == {"litert", "onnx", "openvino"} and max(map(float, within.values())) < 1e-3


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("name", [name for name in NAMES if name[0] in "23467"], indirect=True)
def test_the_others_run_from_a_clean_kernel(name, litert, tmp_path):
    run(name, tmp_path)


def test_all_but_the_last_link_to_the_next(name, notebook):
    following = NAMES[NAMES.index(name) + 1 :][:1]
    links = re.findall(r"\]\(([^)]*\.ipynb)\)", notebook.cells[-1].source)
    assert links == [notebooks.address(path, notebooks.repository(notebook)) for path in following]


def test_badges_and_links_follow_the_repository(notebook, name):
    moved = notebooks.linked(notebook, name, "https://github.com/someone/else")
    assert notebooks.repository(moved) == "https://github.com/someone/else"
    assert moved.cells[0].source.startswith("[![Open in Colab](")
    assert moved.cells[0].source.count("github/someone/else/blob/main/colab/" + name) == 1
    text = "".join(cell.source for cell in moved.cells if cell.cell_type == "markdown")
    colab = "](https://colab.research.google.com/github/someone/else/blob/main/colab/"
    assert text.count(".ipynb)") == text.count(colab), "whole: within Colab others do not resolve"
    assert notebooks.sources(moved) == moved.metadata.anytime_keras.sources, "its outputs are still its own"
    unnamed = notebooks.linked(moved, name, "")
    assert unnamed.cells[0].source.startswith("# ") and notebooks.repository(unnamed) == ""
    assert "colab.research" not in "".join(cell.source for cell in unnamed.cells)


def test_badges_of_the_readme_follow_the_repository():
    row = "| [Start here](colab/1_start_here.ipynb) | load |\n"
    named = notebooks.link_readme(row, "https://github.com/someone/else")
    badge = notebooks.badge("1_start_here.ipynb", "https://github.com/someone/else")
    assert named == f"| [Start here](colab/1_start_here.ipynb) {badge} | load |\n"
    assert notebooks.link_readme(named, "") == row
    readme = (notebooks.ROOT / "README.md").read_text()
    assert notebooks.link_readme(readme, notebooks.repository(notebooks.read(notebooks.PATHS[0]))) == readme
