"""The texts and the numbers of cells, whatever their types."""

import math
import re
import sys
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers.data.errors import CellError

# A decimal number between blanks. (`float` also accepts "1_000" and "nan".)
NUMBER = re.compile(
    r"[ \t\n\v\f\r]*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?[ \t\n\v\f\r]*",
    re.ASCII | re.IGNORECASE,
)
NUMBERS: tuple[Any, ...] = (
    bool,
    int,
    float,
    Decimal,
    np.bool_,
    np.integer,
    np.floating,
)
_LEADING_ZEROS = re.compile(r"\s*[+-]?0\d[\d.]*\s*")
LISTS = (list, tuple, np.ndarray)


def as_text(value: Any) -> str:
    """Returns the text by which values are compared: "1" for 1.0, 1 and "1"."""
    if isinstance(value, np.floating):
        value = float(value)  # a float32 of 0.1 is 0.10000000149011612 in a column, too
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def text_of(cell: Any) -> tuple[str, ...] | None:
    """Returns the text of a cell in a tuple, or `None` for a missing value."""
    hash(cell)  # lists, sets, dicts and arrays are no values: they have no hash
    return None if is_missing(cell) else (as_text(cell),)


def texts_of(cell: Any) -> str | tuple[str, ...] | None:
    """Returns the texts of a cell, a text to split, or `None` for a missing value."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, LISTS):
        if {*map(type, cell)} <= {str}:
            return tuple(cell)
        return tuple([text for value in cell for text in text_of(value) or ()])
    return text_of(cell)


def as_number(cell: Any) -> float:
    """Returns a number, NaN for a missing value, and infinity for any other value."""
    try:
        if isinstance(cell, (str, bytes)):
            text = cell if isinstance(cell, str) else cell.decode("latin-1")
            return float(text) if NUMBER.fullmatch(text) else math.inf
        if isinstance(cell, NUMBERS) and not isinstance(cell, np.timedelta64):
            return float(cell)
        return math.nan if is_missing(cell) else math.inf
    except (OverflowError, TypeError, ValueError):
        return math.inf


def is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or value != value


def shown(cell: Any) -> str:
    """Returns a cell for an error message."""
    try:
        return repr(cell)
    except ValueError:  # Python does not print integers of more digits
        return f"an integer of more than {sys.get_int_max_str_digits()} digits"


def has_leading_zeros(text: str) -> bool:
    """Returns whether a text would lose zeros as a number, such as "012"."""
    return _LEADING_ZEROS.fullmatch(text) is not None


def refuse(
    wrong: npt.NDArray[np.bool_], column: str, values: "pd.Series[Any]", message: str
) -> None:
    """Raises `DataError` for the first row that is wrong, if there is one."""
    if not wrong.any():
        return
    row = int(np.flatnonzero(wrong)[0])
    cell = shown(values.iloc[row])
    raise CellError(column, row, f"{message}. Received: {cell}.")
