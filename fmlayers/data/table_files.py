"""Files of tables of any format, with the places of their rows for error messages."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fmlayers.data.compressed import uncompressed
from fmlayers.data.csv_files import line_of, read_csv
from fmlayers.data.errors import DataError
from fmlayers.data.parquet_files import (
    SUFFIXES,
    normalized,
    parts_of,
    read_folder,
    read_parquet,
)
from fmlayers.data.records import as_utf_8
from fmlayers.data.sparse_files import read_sparse, sparse_format
from fmlayers.data.table_format import TableFormat

Source = str | os.PathLike[str] | pd.DataFrame


@dataclass(frozen=True)
class TableFile:
    """A table as read from a file, or in memory.

    Attributes:
        name: Name of the file, for error messages.
        frame: The table. The cells of a text file are text.
        place: Function from the position of a row to its place in the file, for error
            messages.
        table_format: The format of the file.
        is_typed: Whether texts are texts, even if they are numbers.
        is_sparse: Whether the cells are lists of values with weights.
        remarks: Sentences on how the columns were formed.
    """

    name: str
    frame: pd.DataFrame
    place: Callable[[int], str]
    table_format: TableFormat
    is_typed: bool = False
    is_sparse: bool = False
    remarks: tuple[str, ...] = ()

    @classmethod
    def read(
        cls,
        path: Source,
        table_format: TableFormat,
        name: str = "table",
        *,
        wanted: Collection[str] = (),
    ) -> TableFile:
        """Reads a file, or a `DataFrame`.

        Args:
            path: Path of the file or of a folder of Parquet files, or the `DataFrame`.
            table_format: The format of the file.
            name: Name of a `DataFrame`. Defaults to `"table"`.
            wanted: Names of columns that a sparse file must have; see `read_sparse`.

        Raises:
            DataError: If the file cannot be read as a table. The message names the
                line.
        """
        if isinstance(path, pd.DataFrame):
            return cls._of(path, table_format, name)
        path = Path(path)
        name = path.name or path.resolve().name
        parts = parts_of(path) if path.is_dir() else []
        if parts:
            frame, place = read_folder(path, parts, read_bytes)
            return cls(name, frame, place, table_format)
        data = uncompressed(read_bytes(path), name)
        if data[:4] == b"PAR1" or path.suffix in SUFFIXES:
            frame = read_parquet(data, name)
            return cls(name, frame, lambda row: f"{name}, row {row + 1}", table_format)
        text = as_utf_8(data, name, table_format.encoding)
        layout = sparse_format(text, table_format.format)
        if layout is not None:
            sparse = read_sparse(text, name, table_format, layout, wanted)
            return cls(
                name,
                sparse.frame,
                lambda row: f"{name}, line {sparse.lines[row]}",
                table_format,
                is_sparse=True,
                remarks=sparse.remarks,
            )

        return cls(
            name,
            read_csv(text, name, table_format),
            lambda row: f"{name}, line {line_of(text, name, table_format, row)}",
            table_format,
        )

    @classmethod
    def _of(
        cls, frame: pd.DataFrame, table_format: TableFormat, name: str
    ) -> TableFile:
        labels = frame.index

        def place(row: int) -> str:
            return f"{name}, row {labels[row]}"

        plain = normalized(frame.copy(deep=False), name)
        return cls(name, plain, place, table_format, is_typed=True)


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
