"""The common style of all plots: colour-blind safe colours, few lines, file format by suffix."""

import io
import pathlib

from matplotlib import colormaps
from matplotlib.figure import Figure  # not pyplot, which opens windows and shares state with the user's plots
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from PIL import Image

# Okabe and Ito's colour-blind safe palette.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "0.82"


class Picture(Figure):
    """A Matplotlib figure that displays itself in a notebook."""

    def _repr_png_(self):
        content = io.BytesIO()
        self.frame().save(content, format="png", optimize=True)
        return content.getvalue()

    def frame(self):
        """Renders the figure to a `PIL.Image`."""
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=100)
        return Image.open(content).convert("RGB")


def picture(width=6.4, height=4.2):
    """Returns an empty `Picture` of the given size in inches."""
    return Picture(figsize=(width, height), dpi=150, layout="constrained")


def look(number, covered=0):
    """Returns the line style of a curve by its number, wider if it is `covered` by that many later ones."""
    size = {"markersize": 4 + 5 * covered, "linewidth": 1.4 + 2.8 * covered}
    return {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)], **size}


def shades(count):
    """Returns colours from dark to light for ordered items, such as exits."""
    steps = [0.9 * number / max(count - 1, 1) for number in range(count)]  # the lightest would not show on white
    return [colormaps["cividis"](step) for step in steps]


def plain(axes):
    """Removes the frame's top and right sides and adds thin horizontal grid lines."""
    axes.grid(axis="y", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def logarithmic(axis, unit=None):
    """Labels a logarithmic axis, after drawing: as 500k, 1M, 2M if there is a unit (which may be ""), else plainly."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 20 * low else (1, 1.5, 2, 3, 5, 7)))
    axis.set_major_formatter("{x:g}" if unit is None else EngFormatter(unit, sep=" " if unit else ""))
    axis.set_minor_formatter(NullFormatter())


def note_above(axes, x, text):
    """Writes a small note above the axes at a horizontal position."""
    axes.text(x, 1.01, text, ha="center", fontsize=7, color="0.4", transform=axes.get_xaxis_transform())


def finish(axes, path, title=None, pad=None):
    """Adds a title and grid lines to a plot with one pair of axes, and saves its figure."""
    plain(axes)
    if title:
        axes.set_title(title, pad=pad)
    return save(axes.figure, path)


def save(figure, path):
    """Saves a figure in the format of the path's suffix, which creates the directory; None does not save it."""
    if path is not None:
        figure.savefig(file_of(path))
    return figure


def file_of(path):
    """Returns the path of a file in a directory that exists, or raises ValueError if it has no suffix."""
    path = pathlib.Path(path)
    if not path.suffix:
        raise ValueError(
            f"`path` needs a suffix that sets the file format. Received: '{path}'. For example, pass '{path}.png'."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
