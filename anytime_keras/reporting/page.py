"""Renders a report's blocks as Markdown and HTML, each one self-contained file."""

import base64
import dataclasses
import html
import io
import re

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; margin-top: 2rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 14px; display: block; overflow-x: auto; }
th, td { padding: 0.25rem 0.75rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
code { background: #f3f3f3; padding: 0 0.2rem; }
"""


@dataclasses.dataclass
class Heading:
    """A heading of the page."""

    text: str
    level: int = 2


@dataclasses.dataclass
class Text:
    """A paragraph; `code` may be in backticks."""

    text: str


@dataclasses.dataclass
class Items:
    """A list of paragraphs."""

    texts: list


@dataclasses.dataclass
class Table:
    """A table of strings; the first column is aligned left."""

    headings: list
    rows: list


@dataclasses.dataclass
class Figure:
    """A plot with its caption."""

    name: str
    figure: object
    caption: str


def markdown(blocks):
    """Returns the blocks as a Markdown text, with plots embedded as PNG.

    >>> print(markdown([Heading("Exits"), Table(["exit", "error"], [["exit_1", "10%"]])]))
    ## Exits
    <BLANKLINE>
    | exit | error |
    | :--- | ---: |
    | exit_1 | 10% |
    """
    parts = []
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"{'#' * block.level} {block.text}")
        elif isinstance(block, Text):
            parts.append(block.text)
        elif isinstance(block, Items):
            parts.append("\n".join(f"- {text}" for text in block.texts))
        elif isinstance(block, Table):
            ruler = [":---"] + ["---:"] * (len(block.headings) - 1)
            lines = [block.headings, ruler, *block.rows]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        else:
            parts.append(f"![{block.caption}]({embedded(block.figure, 'png')})\n\n{block.caption}")
    return "\n\n".join(parts)


def page(blocks, title):
    """Returns the blocks as an HTML page, with plots embedded as SVG.

    >>> "<h2>Exits</h2>" in page([Heading("Exits")], title="a network")
    True
    """
    body = "\n".join(_element(block) for block in blocks)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _element(block):
    if isinstance(block, Heading):
        return f"<h{block.level}>{_inline(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f"<p>{_inline(block.text)}</p>"
    if isinstance(block, Items):
        return "<ul>\n" + "\n".join(f"<li>{_inline(text)}</li>" for text in block.texts) + "\n</ul>"
    if isinstance(block, Table):
        head = "".join(f"<th>{_inline(text)}</th>" for text in block.headings)
        rows = ("".join(f"<td>{_inline(cell)}</td>" for cell in row) for row in block.rows)
        body = "\n".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    caption = html.escape(block.caption, quote=True)
    image = f'<img src="{embedded(block.figure, "svg")}" alt="{caption}">'
    return f"<figure>\n{image}\n<figcaption>{caption}</figcaption>\n</figure>"


def _inline(text):
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text, quote=False))


def embedded(figure, format):
    """Returns a plot as a data URI, in `"png"` or `"svg"`."""
    content = io.BytesIO()
    figure.savefig(content, format=format)
    kind = {"png": "image/png", "svg": "image/svg+xml"}[format]
    return f"data:{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
