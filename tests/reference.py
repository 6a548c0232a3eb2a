"""Generates the reference pages from the docstrings; every warning is an error.

python -m tests.reference               # into build/reference
python -m tests.reference FOLDER
"""

import pathlib
import sys
import tempfile
import warnings

import pdoc

import anytime_keras  # noqa: F401  (before pdoc does, which keeps what it imports from running programs)

# Long lines of examples are wrapped, not cut off.
STYLE = ".pdoc .docstring .pdoc-code pre { white-space: pre-wrap; }"
FOLDER = pathlib.Path(__file__).parents[1] / "build" / "reference"


def make(folder):
    """Writes the library's pages, a file for each module, and `index.html`."""
    with tempfile.TemporaryDirectory() as theme, warnings.catch_warnings():
        pathlib.Path(theme, "custom.css").write_text(STYLE)
        pdoc.render.configure(
            docformat="google", show_source=False, footer_text="anytime_keras", template_directory=pathlib.Path(theme)
        )
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # from imported packages, not from the pages
        pdoc.pdoc("anytime_keras", "anytime_keras.experiments", output_directory=pathlib.Path(folder))


if __name__ == "__main__":
    place = pathlib.Path(sys.argv[1]) if sys.argv[1:] else FOLDER
    make(place)
    print(f"open {place / 'index.html'}")
