"""What the columns of a dataset are taken for, in words."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import pandas as pd

from fmlayers.data.dataset import Dataset
from fmlayers.data.encoder import Kind

SAMPLE = 100  # rows to know a column of times by
EPOCH = (3e8, 4e9)  # seconds since 1970, from 1979 to 2096


def describe_columns(dataset: Dataset, columns: Mapping[str, Kind]) -> list[str]:
    """Returns a line on the columns used, one on those left out, one on times.

    The second where there are such columns, the third where no column was named as
    that of times and one looks like it.

    Args:
        dataset: The ratings with their side tables.
        columns: Kinds of the columns that the model reads.
    """
    table = dataset.table()
    used = ", ".join(
        f"{name} {_described(kind, table[name])}" for name, kind in columns.items()
    )
    lines = [f"columns: {used}"]
    others = [str(x) for x in table.columns if x != "rating" and x not in columns]
    if others:
        lines.append(
            f"left out: {', '.join(others)} (no feature uses "
            f"{'it' if len(others) == 1 else 'them'}; --features names the columns to "
            "use)"
        )
    if "timestamp" not in table:
        lines += [
            f"no times: {name} looks like the time of a rating; --timestamp {name} "
            "makes it that"
            for name in dataset.ratings
            if name not in ("user", "item", "rating")
            and _looks_like_times(dataset.ratings[name])
        ][:1]
    return lines


def _described(kind: Kind, column: "pd.Series[Any]") -> str:
    if kind == "numeric":
        return kind
    cells = column.dropna().unique()
    if kind == "multi_categorical":
        lists = (x if isinstance(x, tuple) else str(x).split("|") for x in cells)
        count = len(set(chain.from_iterable(lists)) - {""})
    else:
        count = len(cells)
    return f"{kind} ({count:,} {'value' if count == 1 else 'values'})"


def _looks_like_times(column: "pd.Series[Any]") -> bool:
    cells = column.dropna().head(SAMPLE)
    if not len(cells):
        return False
    if pd.api.types.is_datetime64_any_dtype(cells):
        return True
    if pd.api.types.is_numeric_dtype(cells):
        return bool(cells.between(*EPOCH).all())
    times = pd.to_datetime(cells, format="ISO8601", errors="coerce", utc=True)
    # A bare year is one, too, and seldom a time.
    return bool(times.notna().all() and cells.astype(str).str.contains("-").all())
