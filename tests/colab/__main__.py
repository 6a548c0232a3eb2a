"""Runs the notebooks in colab/ from clean kernels and stores their outputs.

    python -m tests.colab                   # all
    python -m tests.colab 1_start_here      # those whose names begin with this
    python -m tests.colab --repository=https://github.com/USER/anytime_keras    # runs none, but names the repository

Notebooks write files to a temporary directory. Any output to standard error is reported as a failure. `--repository`
writes the address to the first cell of all notebooks, and adds badges that open them in Colab to notebooks and README.
An empty address removes the badges.
"""

import argparse
import sys
import tempfile
import time

from tests.colab import notebooks


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--repository")
    arguments = parser.parse_args(argv)
    if arguments.repository is not None:
        return link(arguments.repository)
    chosen = [path for path in notebooks.PATHS if path.name.startswith(tuple(arguments.names) or "")]
    if not chosen:
        parser.error(f"no notebook begins with {arguments.names}; there are {[path.name for path in notebooks.PATHS]}")
    failed = []
    for path in chosen:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            notebook = notebooks.execute(notebooks.read(path), folder)
        print(f"{path.name}: {time.perf_counter() - begin:.0f} s", flush=True)
        if complaint := notebooks.complaints(notebook):
            failed.append(path.name)
            print(complaint, file=sys.stderr)
        notebooks.write(notebook, path)
    sys.exit(f"These wrote to standard error: {', '.join(failed)}" if failed else 0)


def link(repository):
    """Names the library's repository in all notebooks and in the README."""
    for path in notebooks.PATHS:
        notebooks.write(notebooks.linked(notebooks.read(path), path.name, repository), path)
    readme = notebooks.ROOT / "README.md"
    readme.write_text(notebooks.link_readme(readme.read_text(), repository))


if __name__ == "__main__":
    main()
