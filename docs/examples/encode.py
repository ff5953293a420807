"""Encodes raw values as the inputs of an export.

The result is the same as that of `fmlayers.data.Encoder`, with NumPy and the standard
library alone.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

MISSING, UNKNOWN = 0, -1

# A decimal number between blanks. (`float` also accepts "1_000" and "nan".)
NUMBER = re.compile(
    r"[ \t\n\v\f\r]*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?[ \t\n\v\f\r]*",
    re.ASCII | re.IGNORECASE,
)
NUMBERS = (bool, int, float, Decimal, np.bool_, np.integer, np.floating)


class Vocabularies:
    """Encodes rows of raw values as ids and standardized numbers.

    Args:
        path: The `encoder.json` of an export.
    """

    def __init__(self, path: str | Path) -> None:
        content = json.loads(Path(path).read_text("utf-8"))
        self.kinds: dict[str, str] = content["columns"]
        self.separator: str = content["separator"]
        self.scales: dict[str, tuple[float, float]] = content["scales"]
        self.ids = {
            column: {value: i for i, value in enumerate(values, start=1)}
            for column, values in content["vocabularies"].items()
        }

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Returns one array per column. Columns that a row lacks count as missing.

        Raises:
            ValueError: If a cell is of the wrong kind, with its column and row.
        """
        return {
            column: self._encode(column, kind, [row.get(column) for row in rows])
            for column, kind in self.kinds.items()
        }

    def _encode(self, column: str, kind: str, cells: list[Any]) -> np.ndarray:
        if kind == "numeric":
            mean, deviation = self.scales[column]
            numbers = list(_each(_number, column, cells, "a finite number or missing"))
            with np.errstate(over="ignore"):
                scaled = ((np.array(numbers) - mean) / deviation).astype("float32")
            for row in np.flatnonzero(np.isinf(scaled)):
                raise _error(column, row, cells[row], "a number in float32's range")
            return scaled
        if kind == "categorical":
            lists = list(_each(_value, column, cells, "a single value"))
        else:
            lists = list(
                _each(self._list, column, cells, "a value or a list of values")
            )
        ids = self.ids[column]
        width = max(map(len, lists), default=0) or 1
        padded = np.full((len(lists), width), MISSING, "int64")
        for row, values in zip(padded, lists, strict=True):
            row[: len(values)] = [ids.get(value, UNKNOWN) for value in values]
        return padded[:, 0] if kind == "categorical" else padded

    def _list(self, cell: Any) -> list[str]:
        """Returns the texts of a multi-categorical cell."""
        if isinstance(cell, str):
            return [value for value in cell.split(self.separator) if value]
        if isinstance(cell, (list, tuple, np.ndarray)):
            return [text for value in cell for text in _value(value)]
        return _value(cell)


def model_inputs(
    card: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns encoded columns under the names and dtypes of the model's inputs.

    Args:
        card: The model card of the export, from its JSON file.
        arrays: The arrays that `Vocabularies.encode` returns.
    """
    return {
        entry["name"]: arrays[entry["feature"]].astype(entry["dtype"])
        for entry in card["signatures"]["serving_default"]["inputs"]
    }


def _each(
    convert: Callable[[Any], Any], column: str, cells: list[Any], allowed: str
) -> Iterator[Any]:
    for row, cell in enumerate(cells):
        try:
            yield convert(cell)
        except (OverflowError, TypeError, ValueError):
            raise _error(column, row, cell, allowed) from None


def _error(column: str, row: int, cell: Any, allowed: str) -> ValueError:
    return ValueError(
        f"Column {column!r}, row {row}: must be {allowed}. "
        f"Received: a value of type {type(cell).__name__}."
    )


def _value(value: Any) -> list[str]:
    """Returns the text of a value in a list, which is empty for a missing value."""
    hash(value)  # lists, dicts and arrays are no values: they have no hash
    if _is_missing(value):
        return []
    if isinstance(value, np.floating):
        value = float(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 7.0 is the same value as 7
    return [str(value)]


def _number(cell: Any) -> float:
    """Returns a finite number, or NaN for a missing value."""
    if isinstance(cell, (str, bytes)):
        text = cell if isinstance(cell, str) else cell.decode("latin-1")
        number = float(text) if NUMBER.fullmatch(text) else math.inf
    elif isinstance(cell, NUMBERS) and not isinstance(cell, np.timedelta64):
        number = float(cell)
    else:
        number = math.nan if _is_missing(cell) else math.inf
    if math.isinf(number):
        raise ValueError("not a finite number")
    return number


def _is_missing(value: Any) -> bool:
    try:
        return value is None or bool(value != value)
    except TypeError:
        return True  # pandas.NA
