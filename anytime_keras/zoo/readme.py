"""Generates the README's table of the zoo from the manifests."""

import textwrap

from anytime_keras import _tables
from anytime_keras.zoo import catalog

BEGIN, END = "<!-- zoo: made by `anytime-keras zoo table --readme=README.md` -->", "<!-- end of zoo -->"
HEADINGS = ["network", "data", "exits", "parameters", "MACs, first to last exit", "accuracy, first to last exit"]


def table():
    """Returns the trained networks as a Markdown table, followed by a list of the recipes without weights."""
    rows = [_row(manifest.name, entry) for manifest, entry, _ in catalog.entries(trained=True)]
    untrained = [f"`{manifest.name}` ({entry.label})" for manifest, entry, _ in catalog.entries(trained=False)]
    lines = [_tables.markdown(HEADINGS, rows, others="---")]
    if untrained:
        names = ", ".join(untrained)
        lines += ["", *textwrap.wrap(f"Recipes without weights so far: {names}.", 120, break_on_hyphens=False)]
    return "\n".join(lines) + "\n"


def _row(name, entry):
    accuracies, macs, measured = entry.accuracies, entry.macs, entry.content["measured"]
    images = f"{measured['images']:,} {measured['split']} images"
    return [
        f"`{name}`",
        entry.content["data"]["name"],
        str(len(macs)),
        _tables.short(entry.content["params"]),
        f"{_tables.short(macs[0])} to {_tables.short(macs[-1])}",
        f"{100 * accuracies[0]:.1f}% to {100 * accuracies[-1]:.1f}% ({images})",
    ]


def put_into(text):
    """Returns a README's text with the table between its two markers replaced; raises ValueError without markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The text must contain two lines, '{BEGIN}' and '{END}'. Received: a text without them.")
    return f"{before}{BEGIN}\n{table()}{END}{after}"
