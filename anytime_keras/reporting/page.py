"""Renders a report, a Markdown text with plots, as self-contained Markdown or HTML."""

import base64
import html
import io
import re

from anytime_keras import _tables

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; margin-top: 2rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 14px; display: block; overflow-x: auto; }
th, td { padding: 0.25rem 0.75rem; border-bottom: 1px solid #ddd; }
img { max-width: 100%; }
code { background: #f3f3f3; padding: 0 0.2rem; }
"""


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
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _embedded(figure, format):
    """Returns a plot as a data URI, in `"png"` or `"svg"`."""
    content = io.BytesIO()
    figure.savefig(content, format=format)
    kind = {"png": "image/png", "svg": "image/svg+xml"}[format]
    return f"data:{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
