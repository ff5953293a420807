"""Files of tables of any format, with the places of their rows for error messages."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fmlayers.data.compressed import gunzip
from fmlayers.data.csv_files import line_of, read_csv
from fmlayers.data.errors import DataError
from fmlayers.data.parquet_files import read_parquet
from fmlayers.data.records import as_utf_8
from fmlayers.data.table_format import TableFormat


@dataclass(frozen=True)
class TableFile:
    """A table as read from a file.

    Attributes:
        name: Name of the file, for error messages.
        frame: The table. The cells of a text file are text.
        place: Function from the position of a row to its place in the file, for error
            messages.
        table_format: The format of the file.
    """

    name: str
    frame: pd.DataFrame
    place: Callable[[int], str]
    table_format: TableFormat

    @classmethod
    def read(cls, path: str | os.PathLike[str], table_format: TableFormat) -> TableFile:
        """Reads a file.

        Raises:
            DataError: If the file cannot be read as a table. The message names the
                line.
        """
        name = Path(path).name
        data = read_bytes(Path(path))
        if data[:4] == b"PAR1" or Path(path).suffix in (".parquet", ".pq"):
            frame = read_parquet(data, name)
            return cls(name, frame, lambda row: f"{name}, row {row + 1}", table_format)
        if data[:2] == b"\x1f\x8b":
            data = gunzip(data, name)
        text = as_utf_8(data, name, table_format.encoding)

        def place(row: int) -> str:
            return f"{name}, line {line_of(text, name, table_format, row)}"

        return cls(name, read_csv(text, name, table_format), place, table_format)


def read_bytes(path: Path) -> bytes:
    """Returns the contents of a file.

    Raises:
        DataError: If the file cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
