"""What a column of a dataset contains, as its description and its hints need it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers.data.cells import LISTS, as_text
from fmlayers.data.kind_names import Kind, is_weighted
from fmlayers.data.kinds import kind_class


@dataclass(frozen=True)
class ColumnFacts:
    """A column with its kind.

    Attributes:
        name: Name of the column.
        kind: Its kind.
        column: Its cells.
        separator: Text between the values of a list.
        rows: The same column with one cell per row of the ratings, if `column` is from
            the table of users or items.
        place: Optional function from a position in the ratings to its place in a file.
    """

    name: str
    kind: Kind
    column: "pd.Series[Any]"
    separator: str = "|"
    rows: "pd.Series[Any] | None" = None
    place: Callable[[int], str] | None = None

    @cached_property
    def known(self) -> "pd.Series[Any]":
        """The cells that are not missing. Empty lists are missing, as text, too."""
        known = self.column.dropna()
        if known.dtype == object:
            cells = [tuple(x) if isinstance(x, LISTS) else x for x in known]
            known = pd.Series(cells, index=known.index, dtype=object)
            known = known[[not isinstance(x, tuple) or bool(x) for x in cells]]
        if kind_class(self.kind).is_multiple:
            known = known[(known != "").to_numpy()]
        return known

    @property
    def missing(self) -> float:
        """The share of the missing cells."""
        return 1 - len(self.known) / max(len(self.column), 1)

    @cached_property
    def counts(self) -> "pd.Series[int]":
        """The number of rows of each distinct cell, in order of appearance."""
        try:
            return self.known.value_counts(sort=False)
        except TypeError:  # dicts and lists of lists
            return self.known.map(repr).value_counts(sort=False)

    @cached_property
    def texts(self) -> list[str] | None:
        """The distinct cells, `None` unless all of them are texts."""
        cells = list(self.counts.index)
        return cells if all(isinstance(cell, str) for cell in cells) else None

    @cached_property
    def numbers(self) -> npt.NDArray[np.float64] | None:
        """The finite numbers of a column of numbers, `None` for other columns."""
        is_numeric = pd.api.types.is_numeric_dtype(self.column)
        if not is_numeric or self.column.dtype == bool:
            return None
        numbers: npt.NDArray[np.float64] = self.known.to_numpy(np.float64)
        return numbers[np.isfinite(numbers)]

    @property
    def num_values(self) -> int:
        """The number of distinct values; for several values per row, of these."""
        if not kind_class(self.kind).is_multiple:
            return len(self.counts)
        values: Iterable[Any] = chain.from_iterable(
            map(self._values, self.counts.index)
        )
        return len(set(map(str, values)) - {""})

    @property
    def size(self) -> int:
        """The length of the first vector."""
        cell = next(iter(self.known), ())
        return len(cell.split(self.separator) if isinstance(cell, str) else cell)

    def example(self) -> str:
        """Returns the first cell that is not missing as text."""
        if not len(self.known):
            return ""
        cell = self.known.iloc[0]
        if isinstance(cell, tuple):
            return self.separator.join(map(_shown, cell))
        return _shown(cell)

    def place_of(self, cell: Any) -> str:
        """Returns where a cell is first, such as `" in row 7"`, `""` if unknown."""
        equal = (self.column if self.rows is None else self.rows) == cell
        if not equal.any():
            return ""
        row = int(equal.to_numpy().argmax())
        return (
            f" in row {row + 1:,}" if self.place is None else f" at {self.place(row)}"
        )

    def _values(self, cell: Any) -> Iterable[Any]:
        weighted = is_weighted(self.kind)
        if isinstance(cell, str):
            parts = cell.split(self.separator)
            return (x.rpartition(":")[0] for x in parts) if weighted else parts
        if isinstance(cell, tuple):
            return (x[0] for x in cell) if weighted else cell
        return (cell,)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):  # a value and its weight
        return ":".join(map(_shown, value))
    if isinstance(value, float | np.floating) and not float(value).is_integer():
        return f"{value:.6g}"
    return as_text(value)
