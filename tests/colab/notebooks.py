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

GITHUB = "https://github.com/"
COLAB = "https://colab.research.google.com/"
BADGE = re.compile(r"\s*\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)\s*")
NOTEBOOK = re.compile(rf"\]\((?:{re.escape(COLAB)}[^)]*/)?(\d_\w+\.ipynb)\)")
VARIABLE = re.compile(r'^REPOSITORY = "(.*)"$', re.MULTILINE)
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def address(name, repository):
    """Returns a notebook's address in Colab, or its relative one if the repository is not on GitHub."""
    if not repository.startswith(GITHUB):
        return name
    return f"{COLAB}github/{repository.removeprefix(GITHUB)}/blob/main/colab/{name}"


def badge(name, repository):
    """Returns the link that opens a notebook in Colab, as Markdown; nothing if the repository is not on GitHub."""
    if not repository.startswith(GITHUB):
        return ""
    return f"[![Open in Colab]({COLAB}assets/colab-badge.svg)]({address(name, repository)})"


def read(path):
    return nbformat.read(path, as_version=4)


def write(notebook, path):
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def repository(notebook):
    """Returns the address of the library's repository in a notebook's first cell of code; empty if it has none."""
    return VARIABLE.search(notebook.cells[1].source)[1]


def linked(notebook, name, repository):
    """Names the library's repository in a notebook: in its install cell, its badge and its links to other notebooks.

    Links use addresses in Colab, which does not resolve relative ones.
    """
    first, install = notebook.cells[:2]
    first.source = f"{badge(name, repository)}\n\n{BADGE.sub('', first.source)}".strip()
    install.source = VARIABLE.sub(f'REPOSITORY = "{repository}"', install.source)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = NOTEBOOK.sub(lambda link: f"]({address(link[1], repository)})", cell.source)
    return notebook


def link_readme(text, repository):
    """Returns a README's text with a badge behind each link to a notebook that begins a row of a table."""
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if row := re.match(r"\| \[[^]]*\]\(colab/(\d_\w+\.ipynb)\)", line):
            rest = BADGE.sub("", line[row.end() :]).strip()
            lines[number] = " ".join(filter(None, [row[0], badge(row[1], repository), rest])) + "\n"
    return "".join(lines)


def sources(notebook):
    """Returns the SHA-256 of a notebook's code without its install cell."""
    code = "\0".join(cell.source for cell in notebook.cells[2:] if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


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
