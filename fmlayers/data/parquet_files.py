"""Tables in Parquet files, and in folders of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd

from fmlayers.data.errors import DataError
from fmlayers.data.records import one_line

SUFFIXES = (".parquet", ".pq")
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def read_parquet(data: bytes, name: str) -> pd.DataFrame:
    """Returns the table of a Parquet file.

    Integers stay exact, also next to missing values and in lists. Decimals become
    numbers, or integers if they have no decimal places; bytes become text, and
    durations seconds.

    Args:
        data: The contents of the file.
        name: Name of the file, for error messages.

    Raises:
        DataError: If the file cannot be read, or has no rows.
        ImportError: If pyarrow is not installed.
    """
    frame = _table(data, name)
    if frame.empty:
        raise DataError(f"{name} has no rows.")
    return frame


def parts_of(folder: Path) -> list[Path]:
    """Returns the Parquet files in a folder and its folders, in order of their paths.

    Files and folders whose names begin with `_` or `.` are ignored.

    Raises:
        DataError: If there are Parquet files and others.
    """
    files = sorted(
        path
        for path in folder.rglob("*")
        if not any(x.startswith(("_", ".")) for x in path.relative_to(folder).parts)
        and path.is_file()
    )
    parts = [path for path in files if path.suffix.lower() in SUFFIXES]
    others = [path for path in files if path not in set(parts)]
    if parts and others:
        raise DataError(
            f"{folder} has Parquet files and others, such as "
            f"{others[0].relative_to(folder)}. Move these out of the folder."
        )
    return parts


def read_folder(
    folder: Path, parts: list[Path], read: Callable[[Path], bytes]
) -> tuple[pd.DataFrame, Callable[[int], str]]:
    """Returns the table of a folder of Parquet files, and the place of a row.

    A folder with a name such as `day=7` makes a column `day` for the files in it.

    Args:
        folder: The folder.
        parts: The files.
        read: Returns the contents of a file.

    Raises:
        DataError: If a file cannot be read, or has other columns than the first one.
    """
    frames = []
    names = [f"{folder.name}/{path.relative_to(folder).as_posix()}" for path in parts]
    for path, name in zip(parts, names, strict=True):
        frame = _table(read(path), name)
        for key, value in keys_of(path.relative_to(folder)):
            if key in frame:
                raise DataError(f"{name} has a column {key!r}, as its folder has.")
            frame[key] = pd.Series([value] * len(frame), index=frame.index, dtype="str")
        frames.append(frame)
    first = frames[0]
    for name, frame in zip(names, frames, strict=True):
        if set(frame) != set(first):
            different = sorted(map(str, set(frame) ^ set(first)))
            raise DataError(
                f"{name} and {names[0]} must have the same columns. They differ in "
                f"{different}."
            )
        for column in first:
            kinds = {_kind(frame[column]), _kind(first[column])} - {"none"}
            if len(kinds) > 1:
                raise DataError(
                    f"{name}: column {column!r} has {_kind(frame[column])}, and "
                    f"{_kind(first[column])} in {names[0]}."
                )
    filled = [frame for frame in frames if len(frame)]
    if not filled:
        raise DataError(f"{folder.name} has no rows.")
    starts = np.cumsum([0, *(len(frame) for frame in frames)])

    def place(row: int) -> str:
        part = int(np.searchsorted(starts, row, side="right")) - 1
        return f"{names[part]}, row {row - int(starts[part]) + 1}"

    columns = {c: _joined([frame[c] for frame in filled]) for c in first}
    return pd.DataFrame(columns), place


def normalized(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Returns a table with different names of columns, a plain index and no categories.

    Raises:
        DataError: If two columns have the same name, or the table has no rows.
    """
    frame.columns = pd.Index([str(column) for column in frame])
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise DataError(f"{name} has two columns {twice!r}.")
    if frame.empty:
        raise DataError(f"{name} has no rows.")
    for column in frame.select_dtypes("category"):
        frame[column] = frame[column].astype(frame[column].cat.categories.dtype)
    return frame.reset_index(drop=frame.index.names == [None])


def _table(data: bytes, name: str) -> pd.DataFrame:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(
            f"{name} needs pyarrow: install it with `pip install fmlayers[parquet]`."
        ) from error
    try:
        table = parquet.read_table(io.BytesIO(data), page_checksum_verification=True)
        columns = {c: table.column(i) for i, c in enumerate(table.column_names)}
        for column in columns.values():
            column.validate(full=True)
        indexes = (table.schema.pandas_metadata or {}).get("index_columns", [])
    except Exception as error:  # a damaged file leads to errors of any kind
        raise DataError(
            f"{name} is not a readable Parquet file: {one_line(error)}"
        ) from error
    if len(columns) < len(table.column_names):
        names = table.column_names
        twice = next(column for column in names if names.count(column) > 1)
        raise DataError(f"{name} has two columns {twice!r}.")
    series: dict[str, Any] = {}
    for index in indexes:
        if isinstance(index, dict) and index.get("name") is not None:
            steps = range(index["start"], index["stop"], index["step"])
            series[str(index["name"])] = pd.Series(steps)
    for column, values in columns.items():
        if column in indexes and column.startswith("__index_level_"):
            continue  # an index without a name
        series[column] = series_of_column(values, column, name)
    names = [
        x for x in indexes if isinstance(x, str) and x in series
    ]  # the columns of an index come first
    return pd.DataFrame(
        {name: series[name] for name in {**dict.fromkeys(names), **series}}
    )


def series_of_column(values: Any, column: str, name: str) -> pd.Series:
    """Returns a column of Arrow as a series.

    Args:
        values: The column.
        column: String, its name.
        name: String, what it is a column of, for the error.

    Raises:
        DataError: If a value cannot be read.
    """
    import pyarrow as pa

    try:
        return series_of(values)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise DataError(
            f"{name}: column {column!r} of the type {values.type} cannot be read: "
            f"{one_line(error)}"
        ) from error


def series_of(column: Any) -> pd.Series[Any]:
    """Returns the values of an Arrow column."""
    import pyarrow as pa
    import pyarrow.compute

    if pa.types.is_decimal(column.type) and column.type.scale == 0:
        try:
            column = column.cast(pa.int64())
        except pa.ArrowInvalid:
            column = column.cast(pa.string())
    if pa.types.is_duration(column.type):
        steps = column.cast(pa.duration("us"), safe=False).cast(pa.int64())
        column = pa.compute.divide(steps.cast(pa.float64(), safe=False), 1e6)
    kind = _simpler(column.type)
    if kind != column.type:
        column = column.cast(kind)
    if pa.types.is_integer(kind) and column.null_count:
        dtype = pd.UInt64Dtype() if pa.types.is_uint64(kind) else pd.Int64Dtype()
        return pd.Series(column.to_pandas(types_mapper=lambda _: dtype))
    # Integers next to missing values would become floats in lists.
    return pd.Series(column.to_pandas(integer_object_nulls=True))


def _simpler(kind: Any) -> Any:
    """Returns the Arrow type whose values Python or NumPy knows."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return _simpler(kind.value_type)
    if types.is_decimal(kind):
        return pa.float64()
    if types.is_float16(kind):
        return pa.float32()
    if types.is_binary(kind) or types.is_large_binary(kind):
        return pa.string()
    if types.is_fixed_size_binary(kind):
        return pa.string()
    if types.is_list(kind) or types.is_large_list(kind):
        value = _simpler(kind.value_type)
        return kind if value == kind.value_type else pa.list_(value)
    return kind


def keys_of(path: Path) -> list[tuple[str, str | None]]:
    """Returns the columns and values in the names of a file's folders."""
    pairs = [part.partition("=") for part in path.parts[:-1] if "=" in part]
    return [
        (unquote(key), None if value == _NO_VALUE else unquote(value))
        for key, _, value in pairs
    ]


def _kind(column: pd.Series[Any]) -> str:
    """Returns what a column contains, `"none"` without values."""
    if column.isna().all():
        return "none"
    if pd.api.types.is_bool_dtype(column):
        return "Booleans"
    if pd.api.types.is_numeric_dtype(column):
        return "numbers"
    if pd.api.types.is_datetime64_any_dtype(column):
        return "times"
    kind = pd.api.types.infer_dtype(column)
    return {"string": "text", "mixed": "lists"}.get(kind, kind)


def _joined(columns: list[pd.Series[Any]]) -> pd.Series[Any]:
    """Returns the parts of a column in one, with exact integers."""
    known = [column for column in columns if not column.isna().all()]
    if len({str(column.dtype) for column in columns}) > 1 and known:
        dtype: Any = "object"
        if all(pd.api.types.is_integer_dtype(x) for x in known):
            dtype = "Int64"
        elif {_kind(x) for x in known} == {"numbers"}:
            dtype = "float64"
        columns = [
            pd.Series([None] * len(x), dtype=dtype)
            if x.isna().all()
            else x.astype(dtype)
            for x in columns
        ]
    return pd.concat(columns, ignore_index=True)
