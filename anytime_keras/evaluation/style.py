"""How all pictures look: colours that colour-blind readers tell apart, few lines, saved by the file's ending."""

import io
import pathlib

from matplotlib import colormaps
from matplotlib.figure import Figure  # not pyplot: no window, and no state shared with the user's own plots
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from PIL import Image

# Okabe and Ito's colours, which colour-blind readers tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "0.82"


class Picture(Figure):
    """A Matplotlib figure that a notebook shows by itself."""

    def _repr_png_(self):
        content = io.BytesIO()
        self.frame().save(content, format="png", optimize=True)
        return content.getvalue()

    def frame(self):
        """Returns the picture in pixels, a `PIL.Image`."""
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=100)
        return Image.open(content).convert("RGB")


def picture(width=6.4, height=4.2):
    """Returns an empty `Picture` of a size in inches."""
    return Picture(figsize=(width, height), dpi=150, layout="constrained")


def look(number, covered=0):
    """The line of the curve of that number: another colour and another marker for each, so that it prints in grey.

    One that is `covered` by so many later ones is drawn wider, to be seen beneath them.
    """
    return {
        "color": COLORS[number % len(COLORS)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 4 + 5 * covered,
        "linewidth": 1.4 + 2.8 * covered,
    }


def shades(count):
    """Returns colours from dark to light for things that have an order, such as exits."""
    steps = [0.9 * number / max(count - 1, 1) for number in range(count)]  # the lightest would not show on white
    return [colormaps["cividis"](step) for step in steps]


def plain(axes):
    """Leaves of the frame what carries numbers, and thin lines at the vertical ones."""
    axes.grid(axis="y", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def logarithmic(axis, unit=None):
    """Labels an axis that is logarithmic and drawn: 500k, 1M, 2M with a unit (which may be ""), plainly without."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 20 * low else (1, 1.5, 2, 3, 5, 7)))
    axis.set_major_formatter("{x:g}" if unit is None else EngFormatter(unit, sep=" " if unit else ""))
    axis.set_minor_formatter(NullFormatter())


def note_above(axes, x, text):
    """Writes a small note over the frame at a place of the horizontal axis."""
    axes.annotate(
        text,
        (x, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=7,
        color="0.4",
    )


def save(figure, path):
    """Saves a figure, its type by the ending, in a folder that is made if need be; None saves none.

    Raises:
        ValueError: if the path has no ending.
    """
    path = checked(path)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    return figure


def checked(path):
    """Returns a picture's path, or None, once its ending tells a type."""
    if path is None:
        return None
    path = pathlib.Path(path)
    if not path.suffix:
        raise ValueError(
            f"`path` needs an ending that tells the picture's type. Received: '{path}'. For example '{path}.png'."
        )
    return path
