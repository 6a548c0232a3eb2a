"""The notebooks in colab/: where they open, how they are run, and what is kept of a run.

The .ipynb files are the source. Nothing else is kept in them of a run than its outputs and the hash of the code that
gave them, so that a test can tell when outputs are out of date.
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

# The one place for the library's address. No account of GitHub can have an underscore: until the library has a home,
# nobody else's code is installed or opened. `python -m tests.colab --links` puts a change into notebooks and README.
REPOSITORY = "https://github.com/TO_BE_NAMED/anytime_keras"

BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)")
NOTEBOOK = re.compile(r"\]\((?:https://colab\.research\.google\.com/github/[^)]*/)?(\d_\w+\.ipynb)\)")
INSTALL = re.compile(r'git\+https://[^"\s]+')
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def address(name):
    """Returns where a notebook opens in Colab."""
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
    """Puts the badge on top of a notebook, the library's address into its install cell, and Colab's into its links.

    In Colab a link to a file beside the notebook leads nowhere.
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
    """Returns a README's text with the badges that are in it leading to the notebooks of the lines that they are in."""
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if (named := re.search(r"colab/(\d_\w+\.ipynb)", line)) and BADGE.search(line):
            lines[number] = BADGE.sub(badge(named[1]), line)
    return "".join(lines)


def sources(notebook):
    """Returns the SHA-256 of a notebook's code, whatever the library's address in it."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(INSTALL.sub("", code).encode()).hexdigest()


def execute(notebook, folder, timeout=540):
    """Runs a notebook from a clean kernel, in a folder where it may write.

    Returns:
        The notebook with its outputs, and nothing that tells when or by whom it was run.

    Raises:
        nbclient.exceptions.CellExecutionError: what a cell raised.
    """
    client = nbclient.NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
        # What TensorFlow's libraries write past Python, greetings above all, is for the kernel's log and no notebook.
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
    """Yields each code cell's outputs: (cell, output)."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            yield from ((cell, output) for output in cell.outputs)


def complaints(notebook):
    """Returns what a notebook wrote to standard error: a notebook that teaches warns of nothing."""
    return "".join(output.text for _, output in outputs(notebook) if output.get("name") == "stderr")


def printed(notebook):
    """Returns all that a notebook printed."""
    return "".join(output.text for _, output in outputs(notebook) if output.get("name") == "stdout")
