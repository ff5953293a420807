"""Cells of vectors: lists and arrays of numbers, or texts such as "0.1|0.2"."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers.data.errors import DataError

Floats = npt.NDArray[np.float32]


def as_vectors(
    column: str, values: "pd.Series[Any]", separator: str, size: int | None = None
) -> Floats:
    """Returns the vectors of a column, with NaN for a missing vector.

    Args:
        column: Name of the column, for errors.
        values: The cells.
        separator: String that separates the numbers of a text.
        size: Optional integer, the length of the vectors. Defaults to `None` (that of
            the first vector, 0 without any).

    Returns:
        float32 array of shape `(rows, size)`.

    Raises:
        DataError: If a cell is not a vector of this length.
    """
    rows = [_vector(cell, separator) for cell in values]
    if size is None:
        size = next((len(x) for x in rows if x is not None and x.ndim == 1), 0)
    vectors = np.full((len(rows), size), np.nan, np.float32)
    for row, x in enumerate(rows):
        if x is None:
            continue
        if x.shape != (size,) or np.isinf(x).any():
            raise DataError(
                f"Column {column!r}, row {row}: must be a vector of {size} finite "
                f"numbers or missing. Received: {_described(values.iloc[row], x)}."
            )
        vectors[row] = x
    return vectors


class Norms:
    """The root mean square of the norms of vectors that arrive in batches."""

    def __init__(self) -> None:
        self.size: int | None = None
        self.count = 0
        self.squares = 0.0

    def add(self, vectors: Floats) -> None:
        self.size = vectors.shape[1] or self.size
        known = vectors[~np.isnan(vectors).any(axis=1)]
        self.count += len(known)
        self.squares += float(np.square(known, dtype=np.float64).sum())

    def scale(self) -> float:
        """Returns the number to divide by, 1 if all vectors are zero or missing."""
        return math.sqrt(self.squares / max(self.count, 1)) or 1.0


def _vector(cell: Any, separator: str) -> npt.NDArray[Any] | None:
    """Returns a cell as an array, empty if it has no numbers; `None` if missing."""
    if isinstance(cell, str):
        cell = cell.split(separator) if cell else None
    if not isinstance(cell, (list, tuple, np.ndarray)):
        is_missing = cell is None or cell is pd.NA or cell is pd.NaT or cell != cell
        return None if is_missing else np.empty(0)
    if not len(cell):
        return None
    try:
        with np.errstate(over="ignore"):
            return np.asarray(cell, np.float64).astype(np.float32)
    except (TypeError, ValueError):
        return np.empty(0)


def _described(cell: Any, x: npt.NDArray[Any]) -> str:
    if x.ndim == 1 and x.size:
        infinite = x[np.isinf(x)]
        return f"{infinite[0]}" if infinite.size else f"{x.size} numbers"
    return repr(cell) if len(repr(cell)) < 80 else f"{repr(cell)[:80]}..."
