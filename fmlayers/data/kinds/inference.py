"""The kind that a column most likely has."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from fmlayers.data.weighted import is_pair

MIN_LIST_SHARE = 0.01  # of the distinct cells, if their values recur
MIN_UNKNOWN_LIST_SHARE = 0.25  # if their values do not recur


def inferred_kind(column: "pd.Series[Any]", list_separator: str = "|") -> str:
    """Returns the kind of a column.

    See `fmlayers.data.infer_columns`.
    """
    if column.name in ("user", "item", "day"):
        return "categorical"
    if pd.api.types.is_numeric_dtype(column) and column.dtype != bool:
        return "numeric"
    cells = column.dropna().unique()
    lists = [cell for cell in cells if isinstance(cell, tuple)]
    sizes = {len(cell) for cell in lists}
    are_floats = all(
        isinstance(x, (float, np.floating)) for cell in lists for x in cell
    )
    if len(sizes) == 1 and 0 not in sizes and len(lists) == len(cells) and are_floats:
        return "vector"
    if lists and all(map(is_pair, chain.from_iterable(lists))) and any(lists):
        return "weighted"
    if lists or are_lists([str(cell) for cell in cells], list_separator):
        return "multi_categorical"
    return "categorical"


def are_lists(cells: Sequence[str], separator: str) -> bool:
    """Returns whether the distinct cells of a column are lists, not single texts.

    A separator in a few cells is no evidence: it may be part of a name. Cells with a
    separator are lists if they are at least a quarter of all distinct cells; or two of
    them and one percent, if most of their values also occur in other cells.
    """
    lists = [cell for cell in cells if separator in cell]
    if len(lists) >= MIN_UNKNOWN_LIST_SHARE * len(cells):
        return bool(lists)
    if len(lists) < max(2, MIN_LIST_SHARE * len(cells)):
        return False
    values = Counter(
        chain.from_iterable(set(cell.split(separator)) - {""} for cell in cells)
    )
    used = {x for cell in lists for x in cell.split(separator) if x}
    recurring = sum(values[value] > 1 for value in used)
    return recurring > len(used) / 2
