from collections.abc import Sequence
from typing import Literal


def text_table(
    rows: Sequence[Sequence[str]], align: Literal["left", "right"] = "left"
) -> str:
    """Returns rows of text as aligned columns, two spaces apart.

    Args:
        rows: Rows of equal length, usually with the names of the columns first.
        align: `"left"` or `"right"`. Defaults to `"left"`.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pad = str.ljust if align == "left" else str.rjust
    lines = (
        "  ".join(pad(cell, width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "".join(line.rstrip() + "\n" for line in lines)
