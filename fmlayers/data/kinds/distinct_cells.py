"""The distinct cells of a column of values."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import infer_dtype

from fmlayers.data.cells import as_text, refuse, text_of, texts_of
from fmlayers.data.kinds.column import ValueCounts

_FLOATS = (np.dtype("float32"), np.dtype("float64"))
# What `infer_dtype` calls columns whose equal values have equal texts.
UNIFORM = ("boolean", "bytes", "empty", "integer", "string")


class DistinctCells(NamedTuple):
    """The distinct cells of a column.

    Attributes:
        codes: Integers, the index of each row's cell, -1 for a missing value.
        texts: The values of each cell, as text.
        weights: The weights of the values, `None` unless the column is weighted.
    """

    codes: npt.NDArray[np.intp]
    texts: list[list[str]]
    weights: list[list[float]] | None = None

    @property
    def values(self) -> list[str]:
        """The values of all cells, as text."""
        return [value for cell in self.texts for value in cell]

    def value_counts(self) -> ValueCounts:
        """Returns the values of all cells with the numbers of their rows."""
        known = self.codes[self.codes >= 0]
        repeats = np.bincount(known, minlength=len(self.texts))
        lengths = [len(cell) for cell in self.texts]
        return ValueCounts(self.values, np.repeat(repeats, lengths))

    def padded(self, values: npt.NDArray[Any], padding: int) -> npt.NDArray[Any]:
        """Returns a padded row per code, from the values of all cells."""
        lengths = [len(cell) for cell in self.texts]
        # One row per distinct cell and, last, one for missing cells (code -1).
        shape = (len(lengths) + 1, max(lengths, default=1) or 1)
        padded = np.full(shape, padding, values.dtype)
        padded[:-1][np.arange(shape[1]) < np.array(lengths)[:, None]] = values
        rows: npt.NDArray[Any] = padded[self.codes]
        return rows


def single_values(column: str, values: "pd.Series[Any]") -> DistinctCells:
    """Returns the distinct cells of a column with one value per row.

    Raises:
        DataError: If a cell is not a single value.
    """
    try:
        if is_mixed(values):
            codes, distinct = _factorized(values, text_of)
            return DistinctCells(codes, [list(cell) for cell in distinct])
        codes, distinct = factorized(values)
        return DistinctCells(codes, [[as_text(cell)] for cell in distinct])
    except (TypeError, ValueError):
        _refuse_cells(column, values, text_of, "a single value")
        raise


def several_values(
    column: str, values: "pd.Series[Any]", separator: str
) -> DistinctCells:
    """Returns the distinct cells of a column with several values per row.

    Raises:
        DataError: If a cell is not a value or a list of values.
    """
    try:
        if _is_text(values):
            codes, distinct = factorized(values)
        else:
            codes, distinct = _factorized(values, texts_of)
    except (TypeError, ValueError):
        _refuse_cells(column, values, texts_of, "a value or a list of values")
        raise
    return DistinctCells(codes, [_split(cell, separator) for cell in distinct])


def is_mixed(values: "pd.Series[Any]") -> bool:
    """Returns whether equal values may have different texts, such as True and 1."""
    return values.dtype == object and infer_dtype(values) not in UNIFORM


def factorized(
    values: "pd.Series[Any]",
) -> tuple[npt.NDArray[np.intp], npt.NDArray[Any]]:
    """Returns the code of each cell, -1 for a missing one, and the distinct cells."""
    dtype = values.dtype
    if isinstance(dtype, np.dtype) and (dtype.kind in "biu" or dtype in _FLOATS):
        return pd.factorize(values.to_numpy())
    if _is_text(values):
        # Only the distinct cells become Python's strings.
        codes, distinct = pd.factorize(values)
        return codes, np.asarray(distinct, dtype=object)
    return pd.factorize(values.to_numpy(dtype=object))


def _is_text(values: "pd.Series[Any]") -> bool:
    """Returns whether a column has a type of its own for text."""
    return isinstance(values.dtype, pd.StringDtype)


def _factorized(
    values: "pd.Series[Any]", text: Callable[[Any], Any]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[Any]]:
    cells = values.to_numpy(dtype=object)
    keys = np.fromiter(map(text, cells), object, count=len(cells))
    return pd.factorize(keys)


def _split(cell: str | tuple[str, ...], separator: str) -> list[str]:
    if isinstance(cell, tuple):
        return list(cell)
    return [value for value in cell.split(separator) if value]


def _refuse_cells(
    column: str, values: "pd.Series[Any]", text: Callable[[Any], Any], allowed: str
) -> None:
    cells = values.to_numpy(dtype=object)
    wrong = np.array([not _converts(text, cell) for cell in cells])
    refuse(wrong, column, values, f"must be {allowed}")


def _converts(text: Callable[[Any], Any], cell: Any) -> bool:
    try:
        text(cell)
    except (TypeError, ValueError):
        return False
    return True
