"""Tables in Parquet files, read in parts of bounded size."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from fmlayers.data.errors import DataError
from fmlayers.data.parquet_files import series_of_column
from fmlayers.data.records import one_line
from fmlayers.data.shard_files import pyarrow


def parquet_parts(
    path: Path, name: str, rows: int, columns: Collection[str] | None
) -> Iterator[pd.DataFrame]:
    """Yields the rows of a Parquet file, with the same cells as from `read_parquet`.

    Args:
        path: Path of the file.
        name: Name of the file, for error messages.
        rows: Positive integer, the maximum number of rows per table.
        columns: Optional names of the columns to read. Names that are not in the file
            are ignored. `None` reads all columns.

    Raises:
        DataError: If the file cannot be read.
        ImportError: If pyarrow is not installed.
    """
    pa, parquet = pyarrow()
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            for twice in names:
                if names.count(twice) > 1:
                    raise DataError(f"{name} has two columns {twice!r}.")
            chosen = [x for x in names if columns is None or x in columns]
            for batch in file.iter_batches(rows, columns=chosen):
                batch.validate(full=True)
                yield _frame(pa.Table.from_batches([batch]), name)
    except DataError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"{name} is not a readable Parquet file: {one_line(error)}"
        ) from error


def _frame(table: Any, name: str) -> pd.DataFrame:
    series = {
        column: series_of_column(table.column(column), column, name)
        for column in table.column_names
    }
    return pd.DataFrame(series, index=pd.RangeIndex(table.num_rows))
