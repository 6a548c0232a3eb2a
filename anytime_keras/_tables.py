"""Text tables and short numbers, shared across the package."""

from collections.abc import Iterable


def table(headings: list[str], rows: list[list[str]], left: int = 1) -> str:
    """Returns rows as a text table with aligned columns, the first `left` columns on the left.

    >>> print(table(["exit", "MACs"], [["exit_1", "5.16M"], ["exit_2", "68.9M"]]))
    exit     MACs
    -------------
    exit_1  5.16M
    exit_2  68.9M
    """
    widths = [max(map(len, column)) for column in zip(headings, *rows)]
    lines = [
        "  ".join(cell.ljust(size) if n < left else cell.rjust(size) for n, (cell, size) in enumerate(zip(row, widths)))
        for row in [headings, *rows]
    ]
    return "\n".join(line.rstrip() for line in [lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown(headings: list[str], rows: Iterable[list[str]], first: str = "---", others: str = "---:") -> str:
    """Returns rows as a Markdown table; `first` and `others` align the first and the other columns.

    >>> print(markdown(["exit", "error"], [["exit_1", "10%"]]))
    | exit | error |
    | --- | ---: |
    | exit_1 | 10% |
    """
    ruler = [first] + [others] * (len(headings) - 1)
    return "\n".join(f"| {' | '.join(line)} |" for line in [headings, ruler, *rows])


def short(number: float) -> str:
    """Returns a number with three digits and a unit.

    >>> short(68861952), short(1234), short(2.5e9), short(57)
    ('68.9M', '1.23k', '2.50G', '57')
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:#.3g}".rstrip(".") + unit
    return str(number)
