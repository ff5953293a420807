"""A description of the columns of a dataset and the kinds that were inferred."""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import pandas as pd

from fmlayers.data.dataset import Dataset
from fmlayers.data.encoder import MULTIPLE, Kind

MAX_SAMPLE = 100  # rows from which a column of timestamps is recognized
TIMESTAMPS = (3e8, 4e9)  # in seconds since 1970: from 1979 to 2096


def describe_columns(
    dataset: Dataset,
    columns: Mapping[str, Kind],
    *,
    list_separator: str = "|",
    weights: Mapping[str, str] | None = None,
) -> list[str]:
    """Returns lines of text that describe how the columns of a dataset are used.

    Args:
        dataset: A `Dataset`.
        columns: Dict from the columns that the model reads to their kinds.
        list_separator: Text between the values of a list. Defaults to `"|"`.
        weights: Optional dict from the names of weighted columns to the columns with
            their weights.

    Returns:
        A list of lines: the columns used, with their kinds; the columns left out, if
        any; if the dataset has no users or no items, how to name them; and, if it has
        no timestamps, the first column that looks like one.
    """
    table = dataset.table()
    weights = weights or {}
    used = []
    for name, kind in columns.items():
        apart = f" with the weights {weights[name]}" if name in weights else ""
        counted = "multi_categorical" if apart else kind
        described = _described(counted, table[name], list_separator)
        used.append(f"{name} {described.replace(counted, kind)}{apart}")
    lines = [f"columns: {', '.join(used)}"]
    known = {"rating", dataset.weight, *columns, *weights.values()}
    others = [str(x) for x in table.columns if x not in known]
    if others:
        lines.append(
            f"left out: {', '.join(others)} (no feature uses "
            f"{'it' if len(others) == 1 else 'them'}; --features names the columns to "
            "use)"
        )
    of_rows = dataset.weights
    if of_rows is not None:
        lines.append(
            f"weights: {dataset.weight}, from {of_rows.min():g} to {of_rows.max():g}"
        )
    absent = [name for name in ("user", "item") if name not in table]
    if absent:
        lines.append(
            "no recommendations: they need the columns of users and items; name them "
            f"with {' and '.join(f'--{name}' for name in absent)}"
        )
    if "timestamp" not in table:
        lines += [
            f"no timestamps: the column {name} looks like them; use it with "
            f"--timestamp {name}"
            for name in dataset.ratings
            if name not in ("user", "item", "rating", dataset.weight)
            and _looks_like_times(dataset.ratings[name])
        ][:1]
    return lines


def _described(kind: Kind, column: "pd.Series[Any]", separator: str) -> str:
    if kind == "numeric":
        return kind
    cells = column.dropna().unique()
    if kind == "vector":
        size = next(
            (len(x) if isinstance(x, tuple) else x.count(separator) + 1 for x in cells),
            0,
        )
        return f"vector ({size} numbers)"
    if kind in MULTIPLE:
        lists = (x if isinstance(x, tuple) else str(x).split(separator) for x in cells)
        values: Iterable[Any] = chain.from_iterable(lists)
        if kind == "weighted":
            values = (
                x[0] if isinstance(x, tuple) else x.rpartition(":")[0] for x in values
            )
        count = len(set(values) - {""})
    else:
        count = len(cells)
    return f"{kind} ({count:,} {'value' if count == 1 else 'values'})"


def _looks_like_times(column: "pd.Series[Any]") -> bool:
    cells = column.dropna().head(MAX_SAMPLE)
    if not len(cells):
        return False
    if pd.api.types.is_datetime64_any_dtype(cells):
        return True
    if pd.api.types.is_numeric_dtype(cells):
        return bool(cells.between(*TIMESTAMPS).all())
    times = pd.to_datetime(cells, format="ISO8601", errors="coerce", utc=True)
    # A bare year is valid ISO 8601, too, but rarely a timestamp.
    return bool(times.notna().all() and cells.astype(str).str.contains("-").all())
