import pathlib
import re

import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_ci_runs_the_readmes_test_command():
    command = next(block for block in blocks("sh") if "pytest" in block).strip()
    assert command in (ROOT / ".ci" / "run").read_text()


def test_links_are_valid():
    links = [link for link in re.findall(r"\]\((.*?)\)", README) if not link.startswith("http")]
    assert len(links) > 5 and all((ROOT / link).exists() for link in links)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_the_python_in_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (60, 40), "green").save("photo.jpg")
    code, names = "\n".join(blocks("python")), {}
    assert code.count("epochs=5") == 1
    exec(code.replace("epochs=5", "epochs=2"), names)
    assert (tmp_path / "curve.png").exists()
    assert names["answer"].exit == "exit_6" and names["curve"][-1].error < 0.5
