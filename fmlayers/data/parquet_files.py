"""Tables in Parquet files."""

from __future__ import annotations

import io

import pandas as pd

from fmlayers.data.errors import DataError
from fmlayers.data.records import one_line


def read_parquet(data: bytes, name: str) -> pd.DataFrame:
    """Returns the table of a Parquet file.

    Args:
        data: The contents of the file.
        name: Name of the file, for error messages.

    Raises:
        DataError: If the file cannot be read, or has no rows.
        ImportError: If pyarrow is not installed.
    """
    try:
        frame = pd.read_parquet(io.BytesIO(data), page_checksum_verification=True)
    except ImportError as error:
        raise ImportError(
            f"{name} needs pyarrow: install it with `pip install fmlayers[parquet]`."
        ) from error
    except Exception as error:  # a damaged file leads to errors of any kind
        raise DataError(
            f"{name} is not a readable Parquet file: {one_line(error)}"
        ) from error
    frame.columns = pd.Index([str(column) for column in frame])
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise DataError(f"{name} has two columns {twice!r}.")
    if frame.empty:
        raise DataError(f"{name} has no rows.")
    for column in frame.select_dtypes("category"):
        frame[column] = frame[column].astype(frame[column].cat.categories.dtype)
    return frame.reset_index(drop=frame.index.names == [None])
