"""Runs the notebooks in colab/ from clean kernels and stores their outputs.

    python -m tests.colab                   # all
    python -m tests.colab 1_start_here      # those whose names begin with this
    python -m tests.colab --links           # only updates the library's address in notebooks and README

Notebooks write files to a temporary directory. Any output to standard error is reported as a failure.
"""

import argparse
import sys
import tempfile
import time

from tests.colab import notebooks


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--links", action="store_true")
    arguments = parser.parse_args(argv)
    readme = notebooks.ROOT / "README.md"
    text = readme.read_text()
    if (linked := notebooks.link_readme(text)) != text:
        readme.write_text(linked)
    chosen = [path for path in notebooks.PATHS if path.name.startswith(tuple(arguments.names) or "")]
    if not chosen:
        parser.error(f"no notebook begins with {arguments.names}; there are {[path.name for path in notebooks.PATHS]}")
    failed = []
    for path in chosen:
        notebook = notebooks.linked(notebooks.read(path), path.name)
        if not arguments.links:
            begin = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                notebook = notebooks.execute(notebook, folder)
            print(f"{path.name}: {time.perf_counter() - begin:.0f} s", flush=True)
            if complaint := notebooks.complaints(notebook):
                failed.append(path.name)
                print(complaint, file=sys.stderr)
        notebooks.write(notebook, path)
    sys.exit(f"These wrote to standard error: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
