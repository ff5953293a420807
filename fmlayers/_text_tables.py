"""Tables as plain text."""

import unicodedata
from collections.abc import Sequence

ELLIPSIS = "..."


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Returns the rows of a table as lines of text with aligned columns.

    Args:
        rows: Rows of cells, all with the same number of cells.
        left: Number of columns, from the first, that are aligned to the left. The
            others are aligned to the right. Defaults to 1.

    Returns:
        One line per row. Each ends with a newline.
    """
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for column, (cell, wanted) in enumerate(zip(row, widths, strict=True)):
            blanks = " " * (wanted - width(cell))
            cells.append(cell + blanks if column < left else blanks + cell)
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)


def width(text: str) -> int:
    """Returns the number of columns that a text takes in a terminal."""
    return len(text) if text.isascii() else sum(map(_width, text))


def cut(text: str, most: int) -> str:
    """Returns a text in one line of at most `most` columns, cut at its end if longer.

    Characters that a terminal does not print are escaped.
    """
    # A longer text is cut in any case, so its end does not matter.
    plain = "".join(
        x if x.isprintable() else repr(x)[1:-1] for x in text[: 2 * most + 1]
    )
    if width(plain) <= most and len(text) <= 2 * most:
        return plain
    taken = 0
    for i, x in enumerate(plain):
        taken += _width(x)
        if taken > most - len(ELLIPSIS):
            return plain[:i] + ELLIPSIS
    return plain + ELLIPSIS


def _width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
