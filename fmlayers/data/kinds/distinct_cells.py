"""The distinct cells of a column of values."""

from collections.abc import Callable, Sequence
from itertools import chain
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
        values: The values of all cells, as text, one cell after the other.
        lengths: Integers, the number of values of each cell.
        weights: The weights of the values, `None` unless the column is weighted.
    """

    codes: npt.NDArray[np.intp]
    values: list[str]
    lengths: npt.NDArray[np.int64]
    weights: list[float] | None = None

    @classmethod
    def of(
        cls, codes: npt.NDArray[np.intp], texts: Sequence[Sequence[str]]
    ) -> "DistinctCells":
        """Returns the cells with their lists of texts."""
        lengths = np.fromiter(map(len, texts), np.int64, count=len(texts))
        return cls(codes, list(chain.from_iterable(texts)), lengths)

    def value_counts(self) -> ValueCounts:
        """Returns the values of all cells, each with the number of its rows."""
        known = self.codes[self.codes >= 0]
        repeats = np.bincount(known, minlength=len(self.lengths))
        return ValueCounts(self.values, np.repeat(repeats, self.lengths))

    def padded(self, values: npt.NDArray[Any], padding: int) -> npt.NDArray[Any]:
        """Returns a padded row per code, from the values of all cells."""
        # One row per distinct cell and, last, one for missing cells (code -1).
        width = int(self.lengths.max(initial=0)) if len(self.lengths) else 1
        shape = (len(self.lengths) + 1, width or 1)
        padded = np.full(shape, padding, values.dtype)
        padded[:-1][np.arange(shape[1]) < self.lengths[:, None]] = values
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
            return DistinctCells.of(codes, distinct.tolist())
        codes, distinct = factorized(values)
        # A list of lists would slow down Python's garbage collector.
        texts = distinct.tolist() if _is_text(values) else list(map(as_text, distinct))
        return DistinctCells(codes, texts, np.ones(len(texts), np.int64))
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
    return DistinctCells.of(codes, [_split(cell, separator) for cell in distinct])


def is_mixed(values: "pd.Series[Any]") -> bool:
    """Returns whether equal values may have different texts, such as True and 1."""
    return values.dtype == object and infer_dtype(values) not in UNIFORM


def factorized(
    values: "pd.Series[Any]",
) -> tuple[npt.NDArray[np.intp], npt.NDArray[Any]]:
    """Returns the code of each cell (-1 if it is missing) and the distinct cells."""
    dtype = values.dtype
    if isinstance(dtype, np.dtype) and (dtype.kind in "biu" or dtype in _FLOATS):
        return pd.factorize(values.to_numpy())
    if _is_text(values):
        # Only the distinct cells are converted to Python strings.
        codes, distinct = pd.factorize(values)
        return codes, np.asarray(distinct, dtype=object)
    return pd.factorize(values.to_numpy(dtype=object))


def _is_text(values: "pd.Series[Any]") -> bool:
    """Returns whether the type of a column is a dedicated text type."""
    return isinstance(values.dtype, pd.StringDtype)


def _factorized(
    values: "pd.Series[Any]", text: Callable[[Any], Any]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[Any]]:
    cells = values.to_numpy(dtype=object)
    keys = np.fromiter(map(text, cells), object, count=len(cells))
    return pd.factorize(keys)


def _split(cell: str | tuple[str, ...], separator: str) -> Sequence[str]:
    if isinstance(cell, tuple):
        return cell
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
