"""Helpers for the notebooks in colab/: links, execution and stored outputs.

The .ipynb files are the source. Of a run they store only the outputs and the hash of the code that produced them, so
that a test can detect outdated outputs.
"""

import hashlib
import pathlib
import re
import subprocess

import nbclient
import nbformat

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "colab"
PATHS = sorted(FOLDER.glob("*.ipynb"))

# The library's address, defined only here. GitHub accounts cannot contain underscores, so this placeholder never
# installs or opens other code. After a change, run `python -m tests.colab --links` to update notebooks and README.
REPOSITORY = "https://github.com/TO_BE_NAMED/anytime_keras"

BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)")
NOTEBOOK = re.compile(r"\]\((?:https://colab\.research\.google\.com/github/[^)]*/)?(\d_\w+\.ipynb)\)")
INSTALL = re.compile(r'git\+https://[^"\s]+')
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def address(name):
    """Returns a notebook's address in Colab."""
    place = REPOSITORY.removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{place}/blob/main/colab/{name}"


def badge(name):
    """Returns the link that opens a notebook in Colab, as Markdown."""
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({address(name)})"


def read(path):
    return nbformat.read(path, as_version=4)


def write(notebook, path):
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def linked(notebook, name):
    """Updates a notebook's badge, the library's address in its install cell, and its links to other notebooks.

    Links use addresses in Colab, which does not resolve relative ones.
    """
    first, install = notebook.cells[:2]
    title = BADGE.sub("", first.source).strip()
    first.source = f"{badge(name)}\n\n{title}"
    install.source = INSTALL.sub(f"git+{REPOSITORY}", install.source)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = NOTEBOOK.sub(lambda link: f"]({address(link[1])})", cell.source)
    return notebook


def link_readme(text):
    """Returns a README's text with each badge linked to the notebook in its line."""
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if (named := re.search(r"colab/(\d_\w+\.ipynb)", line)) and BADGE.search(line):
            lines[number] = BADGE.sub(badge(named[1]), line)
    return "".join(lines)


def sources(notebook):
    """Returns the SHA-256 of a notebook's code, ignoring the library's address."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(INSTALL.sub("", code).encode()).hexdigest()


def execute(notebook, folder, timeout=540):
    """Runs a notebook from a clean kernel, in a writable directory.

    Returns:
        The notebook with its outputs, without metadata about when or by whom it was run.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell raises.
    """
    client = nbclient.NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
        # Keeps messages that TensorFlow's libraries write to the file descriptors out of the notebook.
        extra_arguments=["--IPKernelApp.capture_fd_output=False"],
    )
    client.execute(stderr=subprocess.DEVNULL)
    notebook.metadata = {
        "accelerator": "GPU",
        "anytime_keras": {"sources": sources(notebook)},
        "colab": {"provenance": []},
        "kernelspec": KERNEL,
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells, 1):
        cell.id, cell.metadata = f"cell-{number}", {}
    return nbformat.from_dict(notebook)


def outputs(notebook):
    """Yields pairs (cell, output) of all code cells."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            yield from ((cell, output) for output in cell.outputs)


def complaints(notebook):
    """Returns a notebook's standard error, which must be empty."""
    return "".join(output.text for _, output in outputs(notebook) if output.get("name") == "stderr")


def printed(notebook):
    """Returns a notebook's standard output."""
    return "".join(output.text for _, output in outputs(notebook) if output.get("name") == "stdout")
