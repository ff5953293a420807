"""Tables as plain text."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Returns the rows of a table as lines of text with aligned columns.

    Args:
        rows: Rows of cells, all with the same number of cells.
        left: Number of columns, from the first, that are aligned to the left. The
            others are aligned to the right. Defaults to 1.

    Returns:
        One line per row. Each ends with a newline.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)
