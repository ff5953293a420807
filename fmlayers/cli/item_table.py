"""Tables of items, formatted for a terminal or as plain text."""

from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

SHOWN = ("rank", "item", "title", "genres", "year", "rating", "score", "cosine")
MISSING = "-"
NUMBERS = ("rank", "year", "rating", "score", "cosine")


def print_items(heading: str, items: pd.DataFrame) -> None:
    """Prints a heading and a table of the columns in `SHOWN` that the items have."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=10_000)  # no cell is truncated
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    names = [name for name in SHOWN if name in items]
    for name in names:
        table.add_column(name, justify="right" if name in NUMBERS else "left")
    for row in items[names].itertuples(index=False):
        # In a string, rich would interpret a title like "[Rec]" as markup.
        cells = [_cell(name, x) for name, x in zip(names, row, strict=True)]
        table.add_row(*[Text(cell) for cell in cells])
    console.print(Text(heading))
    console.print(table)


def _cell(name: str, value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or MISSING
    if pd.isna(value):
        return MISSING
    if name == "genres":
        return str(value).replace("|", ", ")
    if name in ("rating", "score", "cosine"):
        return f"{value:.2f}"
    return (
        f"{value:.0f}" if name == "year" and not isinstance(value, str) else str(value)
    )
