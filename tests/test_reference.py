"""The reference pages: every public name documents its arguments and has an example."""

import doctest
import importlib.util
import inspect
import pathlib
import re

import pytest

import anytime_keras as ak
from tests import reference

ROOMS = ["anytime_keras"] + [f"anytime_keras.{name}" for name in ak.__all__ if inspect.ismodule(getattr(ak, name))]
ROOMS.append("anytime_keras.export")  # `ak.export` is the function

# Names whose example is code in the docstring that a separate test runs (`checks.run_example`).
RUN_ELSEWHERE = {
    "ParallelPredictor": "inference/test_ensemble.py",
    "Reported": "models/test_from_pytorch.py",
    "add": "zoo/test_files.py",
    "from_pytorch": "models/test_from_pytorch.py",
    "publish_ensemble": "zoo/test_ensembles.py",
    "train_side_by_side": "training/test_scan.py",
}


def public_names():
    """Yields (package, name) for each function and class in the packages' `__all__`."""
    seen = set()
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if (inspect.isclass(thing) or inspect.isfunction(thing)) and thing not in seen:
                seen.add(thing)
                yield pytest.param(thing, id=f"{room.removeprefix('anytime_keras.')}.{name}")


def arguments(thing):
    own = not inspect.isclass(thing) or "__init__" in vars(thing) or not issubclass(thing, (list, dict))
    parameters = inspect.signature(thing).parameters if own else ()
    return [name for name in parameters if name not in ("self", "args", "kwargs")]


def test_packages_list_their_public_names():
    assert len(list(public_names())) > 40
    for room in ("data", "models", "cost", "weighting", "training", "evaluation", "inference", "zoo"):
        assert importlib.import_module(f"anytime_keras.{room}").__all__, room


@pytest.mark.parametrize("thing", public_names())
def test_every_public_name_documents_its_arguments_and_has_a_tested_example(thing):
    documented = inspect.getdoc(thing) if "__doc__" in vars(thing) or inspect.isfunction(thing) else None
    assert documented and len(documented.splitlines()[0]) > 10
    lacking = [name for name in arguments(thing) if name not in documented]
    assert not lacking, f"not a word of {lacking}"
    if arguments(thing):
        assert "Args:" in documented or "Attributes:" in documented
    if thing.__name__ in RUN_ELSEWHERE:
        test = pathlib.Path(__file__).parent / RUN_ELSEWHERE[thing.__name__]
        assert re.search(rf"run_example\([\w.]*\b{thing.__name__}\b", test.read_text())
        return
    found = doctest.DocTestFinder(recurse=False).find(thing, module=inspect.getmodule(thing))
    assert any(test.examples for test in found), "no example"
    assert thing.__module__.startswith("anytime_keras."), "or pytest would not run it"


@pytest.mark.parametrize("thing", public_names())
def test_public_methods_and_properties_have_docstrings(thing):
    if inspect.isfunction(thing):
        return
    theirs = [base for base in thing.__mro__ if not base.__module__.startswith("anytime_keras")]
    for name, member in inspect.getmembers(thing):
        own = not name.startswith("_") and not any(hasattr(base, name) for base in theirs)
        if own and (inspect.isroutine(member) or isinstance(member, property)):
            classes = "\n".join(inspect.getdoc(base) or "" for base in thing.__mro__ if base not in theirs)
            said = inspect.getdoc(member) or re.search(rf"^ +(\w+, )*{name}(, \w+)*: ", classes, re.MULTILINE)
            assert said, f"not a word of `{thing.__name__}.{name}`"


def test_names_of_the_library_in_texts_exist():
    root = pathlib.Path(ak.__file__).parent
    texts = {path: path.read_text() for path in [*root.rglob("*.py"), pathlib.Path(__file__).parents[1] / "README.md"]}
    spoken = {
        (match, path.name)
        for path, text in texts.items()
        for match in re.findall(r"`(?:ak|anytime_keras)((?:\.\w+)+)[`(]", text)
    }
    assert len(spoken) > 20
    for dotted, place in spoken:
        found = ak
        for name in dotted[1:].split("."):
            if hasattr(found, "__path__") and importlib.util.find_spec(f"{found.__name__}.{name}"):
                importlib.import_module(f"{found.__name__}.{name}")
            assert hasattr(found, name), f"{place} speaks of `ak{dotted}`"
            found = getattr(found, name)


@pytest.mark.tensorflow  # the pages are the same on every backend
def test_the_pages_are_generated_without_warnings_and_list_every_public_name(tmp_path):
    reference.make(tmp_path)
    assert (tmp_path / "index.html").exists()
    for room in ROOMS:
        page = (tmp_path / f"{room.replace('.', '/')}.html").read_text()
        module = importlib.import_module(room)
        for name in getattr(module, "__all__", ()):
            linked = (
                f'{room.rpartition(".")[2]}/{name}.html"' if inspect.ismodule(getattr(module, name)) else f'id="{name}"'
            )
            assert linked in page or name.startswith("__"), f"{room}.{name}"
    page = (tmp_path / "anytime_keras" / "weighting.html").read_text()
    assert "<h6" in page and "Arguments" in page, "sections are laid out"
    assert "pre-wrap" in page, "long lines of examples are wrapped"
    assert 'class="pdoc-code' in page and "&gt;&gt;&gt;" in page, "examples are code"
