"""Training, validation and test rows from tables of their own, joined into one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers.data.cells import as_number, as_text, shown
from fmlayers.data.errors import DataError
from fmlayers.data.table_files import TableFile

TRAINING = "training"
# The ratings of a part after a change, with sentences on it.
Changed = tuple[pd.DataFrame, tuple[str, ...]]


@dataclass(frozen=True)
class Parts:
    """The rows of several tables, one after the other.

    Attributes:
        names: Dict from the parts, of which the first is `"training"`, to the names of
            their tables.
        sizes: Dict from the parts to their numbers of rows.
    """

    names: Mapping[str, str]
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, tables: Mapping[str, TableFile]) -> Parts:
        return cls(
            {part: table.name for part, table in tables.items()},
            {part: len(table.frame) for part, table in tables.items()},
        )

    def slices(self) -> dict[str, slice]:
        """Returns the rows of each part."""
        ends = np.cumsum(list(self.sizes.values())).tolist()
        starts = [0, *ends[:-1]]
        return dict(zip(self.sizes, map(slice, starts, ends), strict=True))

    def held_out(self) -> dict[str, npt.NDArray[np.int64]]:
        """Returns the rows of each part but the training rows."""
        return {
            part: np.arange(rows.start, rows.stop, dtype=np.int64)
            for part, rows in self.slices().items()
            if part != TRAINING
        }

    def mapped(
        self,
        ratings: pd.DataFrame,
        change: Callable[
            [pd.DataFrame, str, int], tuple[pd.DataFrame, tuple[str, ...]]
        ],
    ) -> tuple[pd.DataFrame, Parts, tuple[str, ...]]:
        """Returns the ratings after a change to each part, with sentences on it.

        Args:
            ratings: The ratings of all parts.
            change: Function of the rows of a part, the name of its table, and the
                number of rows before them, to the new rows and some sentences.
        """
        if len(self.sizes) == 1:
            ratings, sentences = change(ratings, self.names[TRAINING], 0)
            return ratings, Parts(self.names, {TRAINING: len(ratings)}), sentences
        pieces: dict[str, pd.DataFrame] = {}
        every: list[str] = []
        for part, rows in self.slices().items():
            piece = ratings.iloc[rows].reset_index(drop=True)
            pieces[part], sentences = change(piece, self.names[part], rows.start)
            every += sentences
        sizes = {part: len(piece) for part, piece in pieces.items()}
        whole = pd.concat(pieces.values(), ignore_index=True)
        return whole, Parts(self.names, sizes), tuple(every)


def joined(
    tables: Mapping[str, TableFile], keys: Collection[str]
) -> tuple[pd.DataFrame, Callable[[int], str]]:
    """Joins the tables of all parts.

    Args:
        tables: Dict from the parts, of which the first is `"training"`, to their
            tables.
        keys: Columns that may be numbers in one table and text in another.

    Returns:
        The rows of all tables, with the columns of the first, and the function from a
        row to its place.

    Raises:
        DataError: If a table lacks a column of another, or has text where another has
            numbers.
    """
    first, *others = tables.values()
    if not others:
        return first.frame, first.place
    names = [str(name) for name in first.frame]
    frames = [first.frame.set_axis(names, axis=1)]
    for table in others:
        frame = table.frame.set_axis([str(name) for name in table.frame], axis=1)
        _check_names(first.name, names, table.name, [str(name) for name in frame])
        frames.append(frame[names])
    for name in names:
        columns = [frame[name] for frame in frames]
        numeric = [pd.api.types.is_numeric_dtype(column) for column in columns]
        if len(set(numeric)) == 1:
            continue
        for frame, table, is_number in zip(
            frames, tables.values(), numeric, strict=True
        ):
            if is_number:
                texts = frame[name].astype(object)
                frame[name] = texts.map(as_text, na_action="ignore")
            elif numeric[0] and name not in keys:
                check_numbers(frame[name], first.name, table.place)
    ends = np.cumsum([len(frame) for frame in frames])

    def place(row: int) -> str:
        at = int(np.searchsorted(ends, row, side="right"))
        start = int(ends[at - 1]) if at else 0
        return list(tables.values())[at].place(row - start)

    return pd.concat(frames, ignore_index=True), place


def check_numbers(
    column: pd.Series[Any], first: str, place: Callable[[int], str]
) -> None:
    """Raises `DataError` for the first cell that is not a number.

    Args:
        column: A column of numbers in the table `first`.
        first: Name of the table.
        place: Function from a position in the column to its place.
    """
    for row, cell in enumerate(column):
        if not np.isfinite(as_number(cell)) and not _is_missing(cell):
            raise DataError(
                f"{place(row)}: the column {column.name!r} must contain numbers, as in "
                f"{first}, read {shown(cell)}"
            )


def _is_missing(cell: Any) -> bool:
    return not isinstance(cell, tuple) and bool(pd.isna(cell))


def _check_names(first: str, names: list[str], other: str, others: list[str]) -> None:
    for name in names:
        if name not in others:
            raise DataError(
                f"{other} lacks the column {name!r} of {first}. Both must have the "
                "same columns."
            )
    for name in others:
        if name not in names:
            raise DataError(
                f"{other} has a column {name!r} that {first} lacks. Both must have the "
                "same columns."
            )
