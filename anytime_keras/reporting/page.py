"""Renders a report, a Markdown text with plots, as self-contained Markdown or HTML."""

import base64
import html
import io
import pathlib
import re
import string

from anytime_keras import _tables

TEMPLATE = pathlib.Path(__file__).with_name("page.html")


def table(columns, entries):
    """Returns a Markdown table; `columns` maps each heading to a function from an entry to the cell.

    >>> print(table({"exit": str, "error": lambda error: f"{error}%"}, [10, 5]))
    | exit | error |
    | :--- | ---: |
    | 10 | 10% |
    | 5 | 5% |
    """
    rows = [[cell(entry) for cell in columns.values()] for entry in entries]
    return _tables.markdown(list(columns), rows, first=":---")


def to_markdown(text, figures):
    """Embeds plots as PNG in a Markdown text, in which `![caption](name)` stands for `figures[name]`."""
    return re.sub(r"(!\[.*?\])\((\w+)\)", lambda match: f"{match[1]}({_embedded(figures[match[2]], 'png')})", text)


def to_html(text, figures, title):
    """Converts such a text to an HTML page with plots embedded as SVG."""
    import markdown

    body = markdown.markdown(text, extensions=["tables"], output_format="html")
    body = re.sub(r'src="(\w+)"', lambda match: f'src="{_embedded(figures[match[1]], "svg")}"', body)
    return string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(title=html.escape(title), body=body)


def _embedded(figure, format):
    """Returns a plot as a data URI, in `"png"` or `"svg"`."""
    content = io.BytesIO()
    figure.savefig(content, format=format)
    kind = {"png": "image/png", "svg": "image/svg+xml"}[format]
    return f"data:{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
