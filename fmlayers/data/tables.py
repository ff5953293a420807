"""Reading of tables from files of any format, and writing of CSV files."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import IO

import pandas as pd

from fmlayers._files import whole_file
from fmlayers.data.column_values import feature
from fmlayers.data.errors import DataError
from fmlayers.data.table_files import TableFile
from fmlayers.data.table_format import TableFormat

# A spreadsheet reads a cell that begins with one of these as a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def read_table(
    path: str | os.PathLike[str],
    *,
    separator: str | None = None,
    text_columns: Collection[str] = (),
    numeric_columns: Collection[str] = (),
    weighted_columns: Collection[str] = (),
    id_columns: Collection[str] = (),
    table_format: TableFormat | None = None,
) -> pd.DataFrame:
    """Reads a table from a file, such as rows to predict.

    The formats are those of `read_ratings`.

    Args:
        path: Path of the file.
        separator: Optional delimiter of a CSV file, instead of that of `table_format`.
        text_columns: Names of columns to read as text even if all their cells are
            numbers. Names that are not in the file are ignored; in a sparse file,
            which leaves out what is zero, they are empty columns. Defaults to `()`.
        numeric_columns: Names of columns that must be numbers. Any other cell, except
            for missing values, raises an error. Defaults to `()`.
        weighted_columns: Names of columns of a sparse file whose values keep their
            weights even if these are all 1. Defaults to `()`.
        id_columns: Names of columns to read as text in which only an empty cell is a
            missing value. Defaults to `()`.
        table_format: Optional `TableFormat` of the file. Defaults to `TableFormat()`.

    Returns:
        A `DataFrame`. A column is numeric if all its cells are numbers, and text
        otherwise. Empty cells are missing values. Lists of a Parquet file are
        converted to tuples.

    Raises:
        DataError: If the file cannot be used. The message names the line.
    """
    table, _ = read_with_places(
        path,
        TableFormat.of(table_format, separator),
        text_columns=text_columns,
        numeric_columns=numeric_columns,
        weighted_columns=weighted_columns,
        id_columns=id_columns,
    )
    return table


def read_with_places(
    path: str | os.PathLike[str],
    table_format: TableFormat,
    *,
    text_columns: Collection[str] = (),
    numeric_columns: Collection[str] = (),
    weighted_columns: Collection[str] = (),
    id_columns: Collection[str] = (),
) -> tuple[pd.DataFrame, Callable[[int], str]]:
    """Returns the table of a file, and the function from a row to its place.

    See `read_table`.
    """
    source = TableFile.read(path, table_format, wanted=text_columns)
    columns = {}
    for name in map(str, source.frame):
        columns[name], _ = feature(
            source,
            name,
            text=name in text_columns,
            number=name in numeric_columns,
            weighted=name in weighted_columns,
            is_id=name in id_columns,
        )
    return pd.DataFrame(columns), source.place


def write_csv(
    frame: pd.DataFrame,
    path: str | os.PathLike[str],
    *,
    escape_formulas: bool = False,
    list_separator: str = "|",
) -> None:
    """Writes a table to a UTF-8 CSV file, atomically and without its index.

    Args:
        frame: `DataFrame` to write. The entries of a tuple are joined by
            `list_separator`; missing values become empty cells.
        path: Path of the file. An existing file is replaced.
        escape_formulas: Boolean, whether to put an apostrophe before each text, also
            of the header, that begins with `=`, `+`, `-`, `@`, a tab or a carriage
            return. A spreadsheet would run it as a formula. Numbers are not changed.
            Defaults to `False`: `read_table` returns the same text.
        list_separator: Text between the values of a list. Defaults to `"|"`.

    Raises:
        DataError: If the folder does not exist.
    """
    if not Path(path).parent.is_dir():
        raise DataError(f"{path}: there is no folder {Path(path).parent}.")
    with (
        whole_file(path) as written,
        written.open("w", encoding="utf-8", newline="") as file,
    ):
        print_csv(
            frame, file, escape_formulas=escape_formulas, list_separator=list_separator
        )


def print_csv(
    frame: pd.DataFrame,
    file: IO[str],
    *,
    escape_formulas: bool = False,
    list_separator: str = "|",
) -> None:
    """Writes a table as CSV to an open file; see `write_csv`."""
    plain = frame.copy(deep=False)
    for name in plain:
        if plain[name].dtype == object:
            plain[name] = plain[name].map(partial(_joined, list_separator))
    has_return = False
    for name in plain:
        if not pd.api.types.is_numeric_dtype(plain[name]):
            has_return |= any("\r" in x for x in plain[name] if isinstance(x, str))
            if escape_formulas:
                plain[name] = plain[name].map(escaped)
    if escape_formulas:
        plain.columns = pd.Index([escaped(name) for name in plain])
    plain.to_csv(
        file,
        index=False,
        lineterminator="\n",
        # Before Python 3.13, `csv` quotes no carriage return by itself.
        quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL,
    )


def _joined(separator: str, cell: object) -> object:
    return separator.join(map(_value, cell)) if isinstance(cell, tuple) else cell


def _value(value: object) -> str:
    """Returns the text of a value, or of a pair of a value and its weight."""
    return ":".join(map(str, value)) if isinstance(value, tuple) else str(value)


def escaped(cell: object) -> object:
    """Returns a cell that no spreadsheet runs as a formula; see `write_csv`."""
    is_formula = isinstance(cell, str) and cell.startswith(_FORMULA)
    return f"'{cell}" if is_formula else cell
