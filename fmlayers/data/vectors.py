"""Cells of vectors: lists and arrays of numbers, or texts such as "0.1|0.2"."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers.data.cells import LISTS, NUMBERS, as_number, shown
from fmlayers.data.errors import CellError, DataError
from fmlayers.data.exact_sums import ExactSums

MAX_SHOWN = 80  # characters of a cell in an error

Floats = npt.NDArray[np.float32]


def as_vectors(
    column: str,
    values: "pd.Series[Any]",
    separator: str,
    size: int | None = None,
    scale: float = 1.0,
) -> Floats:
    """Returns the vectors of a column, with NaN for a missing vector.

    Args:
        column: Name of the column, for errors.
        values: The cells.
        separator: String that separates the numbers of a text.
        size: Optional integer, the length of the vectors. Defaults to `None` (that of
            the first vector, 0 without any).
        scale: Positive float by which all numbers are divided. Defaults to 1.

    Returns:
        float32 array of shape `(rows, size)`.

    Raises:
        DataError: If a cell is not a vector of this length, or exceeds float32.
    """
    rows = [_vector(cell, separator) for cell in values]
    if size is None:
        size = next((len(x) for x in rows if x is not None and len(x)), None)
    vectors = np.full((len(rows), size or 0), np.nan, np.float32)
    numbers = "finite numbers" if size is None else f"{size} finite numbers"
    for row, x in enumerate(rows):
        if x is None:
            continue
        if len(x) != size or np.isinf(x).any():
            received = _described(values.iloc[row], x, separator)
            raise _error(column, row, f"a vector of {numbers} or missing", received)
        vectors[row] = x
    with np.errstate(over="ignore"):
        np.divide(vectors, scale, out=vectors, dtype=np.float64, casting="same_kind")
    for row in np.flatnonzero(np.isinf(vectors).any(axis=1)).tolist():
        received = _short(values.iloc[row])
        raise _error(column, row, "a vector of numbers in float32's range", received)
    return vectors


class Norms:
    """The root mean square of the norms of vectors that arrive in batches."""

    def __init__(self) -> None:
        self.size: int | None = None
        self.sums = ExactSums()

    def add(self, vectors: Floats) -> None:
        if not vectors.shape[1]:
            return
        self.size = vectors.shape[1]
        known = vectors[~np.isnan(vectors).any(axis=1)]
        self.sums.add(known.astype(np.float64))

    def scale(self) -> float:
        """Returns the number to divide by, 1 if all vectors are zero or missing."""
        if not self.sums.count or self.size is None:
            return 1.0
        return self.sums.root_mean_square(self.size) or 1.0


def _vector(cell: Any, separator: str) -> Floats | None:
    """Returns the numbers of a cell, or `None` if it is missing.

    A cell that is not a vector has no numbers, and a value that is not a finite number
    in float32's range is infinite.
    """
    if isinstance(cell, str):
        cell = cell.split(separator) if cell else None
    if not isinstance(cell, LISTS):
        return None if math.isnan(as_number(cell)) else np.empty(0, np.float32)
    if isinstance(cell, np.ndarray) and cell.ndim != 1:
        return np.empty(0, np.float32)
    if not len(cell):
        return None
    if isinstance(cell, np.ndarray) and cell.dtype.kind in "fiub":
        numbers = cell
    else:
        numbers = np.array([_number(value) for value in cell], np.float64)
    with np.errstate(over="ignore"):
        return numbers.astype(np.float64).astype(np.float32)


def _number(value: Any) -> float:
    return math.inf if isinstance(value, LISTS) else as_number(value)


def _described(cell: Any, x: Floats, separator: str) -> str:
    infinite = np.flatnonzero(np.isinf(x))
    if infinite.size:
        values = cell.split(separator) if isinstance(cell, str) else cell
        first = values[infinite[0]]
        is_number = isinstance(first, NUMBERS) and not isinstance(first, np.timedelta64)
        return f"{x[infinite[0]]}" if is_number else _short(cell)
    return f"{x.size} numbers" if x.size else _short(cell)


def _short(cell: Any) -> str:
    text = shown(cell)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _error(column: str, row: int, allowed: str, received: str) -> DataError:
    return CellError(column, row, f"must be {allowed}. Received: {received}.")
