"""Tables in CSV files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import pandas as pd

from fmlayers.data.errors import DataError
from fmlayers.data.quotes import check_quotes
from fmlayers.data.records import check_width, decode, one_line, records
from fmlayers.data.table_format import TableFormat

LONE_RETURN = re.compile(rb"\r(?!\n)")


# The line number and the fields of each record.
Records = Iterator[tuple[int, list[str]]]
# Arguments with which pandas reads every cell as text.
AS_TEXT: Mapping[str, Any] = {
    # The first line, read as a row, determines the number of fields of each row.
    "header": None,
    "dtype": str,
    "keep_default_na": False,
    "na_values": [""],
}


def read_csv(data: bytes, name: str, table_format: TableFormat) -> pd.DataFrame:
    """Returns the table of a CSV file, with all cells as text.

    Args:
        data: The contents of the file, in UTF-8.
        name: Name of the file, for error messages.
        table_format: The format.

    Raises:
        DataError: If a row has another number of fields than the header, or quotation
            marks are misplaced. The message names the line.
    """
    if table_format.quoted and b'"' in data:
        columns = table_format.columns
        width = None if columns is None else len(columns)
        strict = table_format.quoting == "auto"
        check_quotes(data, name, table_format.separator, width, strict=strict)
    names = names_of(_records(data, name, table_format), name, table_format)
    cells = _cells(data, name, table_format)
    # pandas pads short rows, so a row is complete unless its last cell is empty.
    if cells.iloc[:, -1].isna().any() or cells.shape[1] != len(names):
        check_widths(_records(data, name, table_format), name, table_format)
    rows = cells.iloc[int(table_format.has_header) :].reset_index(drop=True)
    if rows.empty:
        raise DataError(f"{name} has a header and no rows.")
    return rows.set_axis(names, axis=1)


def _cells(data: bytes, name: str, table_format: TableFormat) -> pd.DataFrame:
    """Returns all records, also the header, as rows of text."""
    if LONE_RETURN.search(data):
        # After a blank line that ends with a carriage return, pandas drops a separator.
        check_widths(_records(data, name, table_format), name, table_format)
        rows = [fields for _, fields in _records(data, name, table_format)]
        cells = pd.DataFrame(rows, dtype=str)
        return cells.mask(cells == "")
    try:
        # The first line, read as a row, determines the number of fields of each row.
        return pd.read_csv(
            io.BytesIO(data),
            sep=table_format.separator,
            header=None,
            dtype=str,
            keep_default_na=False,
            na_values=[""],
            quoting=csv.QUOTE_MINIMAL if table_format.quoted else csv.QUOTE_NONE,
        )
    except ValueError as error:
        check_widths(_records(data, name, table_format), name, table_format)
        raise DataError(f"{name}: {one_line(error)}") from error


def line_of(data: bytes, name: str, table_format: TableFormat, row: int) -> int:
    """Returns the line of a CSV file on which a row begins."""
    first = row + int(table_format.has_header)
    return next(islice(_records(data, name, table_format), first, None))[0]


def names_of(rows: Records, name: str, table_format: TableFormat) -> list[str]:
    """Returns the names of the columns.

    Args:
        rows: The records of the file.
        name: Name of the file, for error messages.
        table_format: The format.

    Raises:
        DataError: If the file has no records, or if the header is not valid.
    """
    first = next(rows, None)
    if first is None:
        raise DataError(f"{name} is empty.")
    line, fields = first
    if table_format.columns is not None:
        names = list(table_format.columns)
        check_width(name, line, fields, len(names), table_format.separator)
        if names == fields:
            raise DataError(
                f"{name}, line {line}: the names of the columns. Leave `columns` out "
                "if the file has a header."
            )
        return names
    if "" in fields:
        column = fields.index("") + 1
        raise DataError(f"{name}: column {column} has no name in the header.")
    for twice in fields:
        if fields.count(twice) > 1:
            raise DataError(f"{name}: the header names {twice!r} twice.")
    return fields


def check_widths(rows: Records, name: str, table_format: TableFormat) -> None:
    """Raises `DataError` for the first line with another width than the first one."""
    width = 0
    for line, fields in rows:
        width = width or len(fields)
        check_width(name, line, fields, width, table_format.separator)


def _records(data: bytes, name: str, table_format: TableFormat) -> Records:
    separator = table_format.separator
    return records(decode(data, name), name, separator, quoted=table_format.quoted)
