"""Reading and writing of ratings and other tables as CSV and Parquet files."""

from __future__ import annotations

import csv
import io
import os
from collections import deque
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers._checks import choice
from fmlayers._files import whole_file
from fmlayers._types import OnDuplicate
from fmlayers.data.compressed import gunzip
from fmlayers.data.dataset import RATING_COLUMNS, Dataset
from fmlayers.data.errors import DataError
from fmlayers.data.records import check_width, decode, one_line, records, shown
from fmlayers.data.weighted import is_pair
from fmlayers.data.weights import check_weights

# Larger timestamps would be past the year 5000: most likely they are milliseconds.
_MAX_TIMESTAMP = 1e11
# A spreadsheet reads a cell that begins with one of these as a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def read_ratings(
    path: str | os.PathLike[str],
    *,
    user: str = "user",
    item: str = "item",
    rating: str | None = "rating",
    timestamp: str | None = None,
    weight: str | None = None,
    separator: str = ",",
    on_duplicate: OnDuplicate = "last",
    text_columns: Collection[str] = (),
    is_label: bool = False,
    needs_pairs: bool = True,
) -> Dataset:
    """Reads ratings, labels or implicit feedback from a CSV or Parquet file.

    A CSV file must be UTF-8 with a header, optionally compressed with gzip. A Parquet
    file is recognized by its contents. The users and items of a CSV file are read as
    text, unchanged: `007` is different from `7`, and `NA` is a valid name. Empty cells
    are missing values.

    Args:
        path: Path of the file.
        user: Name of the user column. Defaults to `"user"`.
        item: Name of the item column. Defaults to `"item"`.
        rating: Name of the rating column, or `None` for implicit feedback, where all
            ratings are 1. Defaults to `"rating"`.
        timestamp: Optional name of the timestamp column, in seconds since 1970 or ISO
            8601 (UTC if there is no time zone). Defaults to `None`: `"timestamp"`, if
            there is such a column.
        weight: Optional name of the column with the weights of the rows, finite numbers
            of at least 0. Defaults to `None`.
        separator: Delimiter of a CSV file, one character. Defaults to `","`.
        on_duplicate: What to do with rows of the same user and item. `"keep"` keeps
            them; `"last"` keeps the latest row (the last one in the file if there are
            no timestamps); `"mean"`, `"sum"` and `"count"` do so, too, and replace its
            rating by that of all rows; `"error"` raises an error. `repairs` reports the
            number of rows. Defaults to `"last"`.
        text_columns: Names of further columns to read as text even if all their cells
            are numbers. Defaults to `()`.
        is_label: Whether the rating column is a label, which must have two values,
            numbers or texts. The greater one becomes 1 and the other one 0. Defaults to
            `False`.
        needs_pairs: Whether the columns of users and items must be there even if they
            have their default names. Defaults to `True`.

    Returns:
        A `Dataset` named after the file, without side tables. Other columns of the
        file are kept: as numbers if all their cells are numbers, as text otherwise.

    Raises:
        DataError: If the file cannot be used. The message names the line or column.
    """
    choice("on_duplicate", on_duplicate, get_args(OnDuplicate))
    source = _read(path, separator)
    if timestamp is None and "timestamp" in source.frame:
        timestamp = "timestamp"
    wanted = {
        "user": user,
        "item": item,
        "rating": rating,
        "timestamp": timestamp,
        "weight": weight,
    }
    if not needs_pairs:
        for key in ("user", "item"):
            if wanted[key] == key and key not in source.frame:
                wanted[key] = None
    columns = {role: name for role, name in wanted.items() if name is not None}
    _check_columns(source, columns)

    contents: dict[str, Any] = {
        key: _identifiers(source, columns[key], key)
        for key in ("user", "item")
        if key in columns
    }
    contents["rating"] = np.ones(len(source.frame))
    repairs: tuple[str, ...] = ()
    if rating is not None and is_label:
        contents["rating"], repairs = _labels(source, rating)
    elif rating is not None:
        contents["rating"] = _numbers(source, rating)
    if timestamp is not None:
        contents["timestamp"] = _seconds(source, timestamp)
    for name in map(str, source.frame):
        if name not in columns.values():
            contents[name] = _feature(source, name, name in text_columns)
    if weight is not None:
        check_weights(source.frame, weight, source.place)
        contents[weight] = pd.to_numeric(source.frame[weight]).to_numpy(np.float64)
    ratings = pd.DataFrame(contents)

    if {"user", "item"} <= columns.keys():
        if on_duplicate == "error":
            _refuse_duplicates(source, ratings)
        ratings, sentences = merge_duplicates(ratings, source.name, on_duplicate)
        repairs += sentences
    return Dataset(
        name=source.name.split(".")[0],
        ratings=ratings,
        repairs=repairs,
        weight=weight,
    )


def read_table(
    path: str | os.PathLike[str],
    *,
    separator: str = ",",
    text_columns: Collection[str] = (),
) -> pd.DataFrame:
    """Reads a table from a CSV or Parquet file, such as rows to predict.

    Args:
        path: Path of the file.
        separator: Delimiter of a CSV file, one character. Defaults to `","`.
        text_columns: Names of columns to read as text even if all their cells are
            numbers. Names that are not in the file are ignored. Defaults to `()`.

    Returns:
        A `DataFrame`. A column is numeric if all its cells are numbers, and text
        otherwise. Empty cells are missing values. Lists of a Parquet file are
        converted to tuples.

    Raises:
        DataError: If the file cannot be used. The message names the line.
    """
    source = _read(path, separator)
    names = map(str, source.frame)
    return pd.DataFrame(
        {name: _feature(source, name, name in text_columns) for name in names}
    )


def write_csv(
    frame: pd.DataFrame,
    path: str | os.PathLike[str],
    *,
    escape_formulas: bool = False,
) -> None:
    """Writes a table to a UTF-8 CSV file, atomically and without its index.

    Args:
        frame: `DataFrame` to write. The entries of a tuple are joined by `|`; missing
            values become empty cells.
        path: Path of the file. An existing file is replaced.
        escape_formulas: Boolean, whether to put an apostrophe before each text, also
            of the header, that begins with `=`, `+`, `-`, `@`, a tab or a carriage
            return. A spreadsheet would run it as a formula. Numbers are not changed.
            Defaults to `False`: `read_table` returns the same text.

    Raises:
        DataError: If the folder does not exist.
    """
    if not Path(path).parent.is_dir():
        raise DataError(f"{path}: there is no folder {Path(path).parent}.")
    plain = frame.copy(deep=False)
    for name in plain:
        if plain[name].dtype == object:
            plain[name] = plain[name].map(_joined)
    has_return = False
    for name in plain:
        if not pd.api.types.is_numeric_dtype(plain[name]):
            has_return |= any("\r" in x for x in plain[name] if isinstance(x, str))
            if escape_formulas:
                plain[name] = plain[name].map(_escaped)
    if escape_formulas:
        plain.columns = pd.Index([_escaped(name) for name in plain])
    with whole_file(path) as written:
        plain.to_csv(
            written,
            index=False,
            encoding="utf-8",
            lineterminator="\n",
            # Before Python 3.13, `csv` quotes no carriage return by itself.
            quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL,
        )


def merge_duplicates(
    ratings: pd.DataFrame, name: str, how: OnDuplicate = "last"
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Merges the rows of each pair of user and item into the latest row.

    Without timestamps, or among equal ones, the last row is the latest.

    Args:
        ratings: `DataFrame` of ratings.
        name: Name of the source, for the report.
        how: What becomes of the ratings; see `read_ratings`. Defaults to `"last"`.

    Returns:
        The remaining rows in their order, and a tuple with a sentence on the number of
        rows, empty if there are no duplicates.
    """
    pairs = ratings[["user", "item"]]
    repeated = pairs.duplicated()
    if not repeated.any():
        return ratings, ()
    rows = f"{repeated.sum():,} of {len(ratings):,} rows"
    if how in ("keep", "error"):
        return ratings, (f"{name}: kept {rows} that repeat a user and an item.",)
    order = np.arange(len(ratings))
    if "timestamp" in ratings:
        order = np.argsort(ratings["timestamp"].to_numpy(), kind="stable")
    dropped = np.empty(len(ratings), dtype=bool)
    dropped[order] = pairs.iloc[order].duplicated(keep="last").to_numpy()
    repair = (
        f"{name}: dropped {rows}, each replaced by a later row of the same user and "
        "item."
    )
    if how != "last":
        groups = ratings.groupby(["user", "item"], sort=False)["rating"]
        merged = groups.agg(str(how))
        ratings = ratings.assign(
            rating=merged.loc[pd.MultiIndex.from_frame(pairs)].to_numpy(np.float64)
        )
        repair = f"{repair[:-1]}, whose rating is the {how} of theirs."
    return ratings[~dropped].reset_index(drop=True), (repair,)


@dataclass(frozen=True)
class _Source:
    """A table as read from a file.

    Attributes:
        name: Name of the file, for error messages.
        frame: The table.
        place: Function from the index of a row to its place in the file, for error
            messages.
    """

    name: str
    frame: pd.DataFrame
    place: Callable[[int], str]


def _read(path: str | os.PathLike[str], separator: str) -> _Source:
    if len(separator) != 1:
        raise ValueError(
            f"`separator` must be one character. Received: separator={separator!r}."
        )
    name = Path(path).name
    data = read_bytes(Path(path))
    if data[:4] == b"PAR1" or Path(path).suffix in (".parquet", ".pq"):
        frame = _read_parquet(data, name)
        return _Source(name, frame, lambda row: f"{name}, row {row + 1}")
    if data[:2] == b"\x1f\x8b":
        data = gunzip(data, name)

    def place(row: int) -> str:
        rows = islice(records(decode(data, name), name, separator), row + 1, None)
        return f"{name}, line {next(rows)[0]}"

    return _Source(name, _read_csv(data, name, separator), place)


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


def _read_parquet(data: bytes, name: str) -> pd.DataFrame:
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


def _read_csv(data: bytes, name: str, separator: str) -> pd.DataFrame:
    try:
        # Read as a row, the header determines the number of fields of each row.
        cells = pd.read_csv(
            io.BytesIO(data),
            sep=separator,
            header=None,
            dtype=str,
            keep_default_na=False,
            na_values=[""],
        )
    except pd.errors.EmptyDataError:
        raise DataError(f"{name} is empty.") from None
    except ValueError as error:
        _blame(data, name, separator, str(error))
        raise DataError(f"{name}: {one_line(error)}") from error
    # pandas pads short rows, so a row is complete unless its last cell is empty.
    if cells.iloc[:, -1].isna().any():
        _blame(data, name, separator)
    header = cells.iloc[0]
    if header.isna().any():
        column = int(header.isna().to_numpy().argmax()) + 1
        raise DataError(f"{name}: column {column} has no name in the header.")
    if header.duplicated().any():
        twice = header[header.duplicated()].iloc[0]
        raise DataError(f"{name}: the header names {twice!r} twice.")
    if len(cells) == 1:
        raise DataError(f"{name} has a header and no rows.")
    frame = cells.iloc[1:].reset_index(drop=True)
    return frame.set_axis(header.tolist(), axis=1)


def _blame(data: bytes, name: str, separator: str, error: str = "") -> None:
    """Raises `DataError` for the first line with another width than the header."""
    rows = records(decode(data, name), name, separator)
    if "EOF inside string" in error:
        line = deque(rows, maxlen=1)[0][0]
        raise DataError(f"{name}, line {line}: a quotation mark is never closed")
    width = 0
    for line, fields in rows:
        width = width or len(fields)
        check_width(name, line, fields, width, separator)


def _check_columns(source: _Source, columns: dict[str, str]) -> None:
    names = [str(name) for name in source.frame.columns]
    listed = ", ".join(map(repr, names))
    for role, name in columns.items():
        if name not in names:
            hint = " Is `separator` right?" if len(names) == 1 else ""
            raise DataError(
                f"{source.name} has no column {name!r} for `{role}`. "
                f"Its columns: {listed}.{hint}"
            )
    if len(set(columns.values())) < len(columns):
        raise ValueError(
            "`user`, `item`, `rating`, `timestamp` and `weight` must be different "
            "columns. "
            f"Received: {columns}."
        )
    for name in RATING_COLUMNS:
        if name in names and name not in columns.values():
            raise DataError(
                f"{source.name} has a column {name!r} that is not used as `{name}`. "
                "Rename it, or leave it out."
            )


def _identifiers(source: _Source, name: str, role: str) -> pd.Series[Any]:
    column = _single_values(source, name)
    missing = column.isna().to_numpy()
    if missing.any():
        place = source.place(int(missing.argmax()))
        raise DataError(f"{place}: the {role} in column {name!r} is missing")
    return column


def _numbers(source: _Source, name: str) -> npt.NDArray[np.float64]:
    column = _single_values(source, name)
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(
        np.float64, na_value=np.nan
    )
    bad = ~np.isfinite(numbers)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"{source.place(row)}: the rating in column {name!r} must be a finite "
            f"number, {_cell_read(column, row)}"
        )
    return numbers


def _labels(
    source: _Source, name: str
) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    """Returns labels as 0 and 1, and a sentence on them unless they were that."""
    column = _single_values(source, name)
    if column.isna().any():
        place = source.place(int(column.isna().to_numpy().argmax()))
        raise DataError(f"{place}: the label in column {name!r} is missing")
    numbers = pd.to_numeric(column, errors="coerce")
    values = column if numbers.isna().any() else numbers.astype(np.float64)
    codes, distinct = pd.factorize(values, sort=True)
    if len(distinct) != 2:
        shown_values = ", ".join(f"{value}" for value in distinct[:5])
        raise DataError(
            f"{source.name}: the label in column {name!r} must have two values. "
            f"Received: {len(distinct):,} values, {shown_values}"
            f"{', ...' if len(distinct) > 5 else ''}. Predict a number with the task "
            "'regression', or choose the positives with `positive_threshold`."
        )
    labels = codes.astype(np.float64)
    if list(distinct) == [0, 1]:
        return labels, ()
    one, zero = (
        f"{value:g}" if isinstance(value, float) else repr(str(value))
        for value in reversed(distinct)
    )
    sentence = f"{source.name}: the label is 1 for {name} {one} and 0 for {zero}."
    return labels, (sentence,)


def _seconds(source: _Source, name: str) -> npt.NDArray[np.int64]:
    column = _single_values(source, name)
    numbers = pd.to_numeric(column, errors="coerce")
    is_time = pd.api.types.is_datetime64_any_dtype(column)
    if is_time or not pd.notna(numbers.iloc[0]):
        times = pd.to_datetime(column, format="ISO8601", utc=True, errors="coerce")
        bad = times.isna().to_numpy()
        seconds = times.to_numpy("datetime64[s]").astype(np.int64)
    else:
        moments = numbers.to_numpy(np.float64, na_value=np.nan)
        bad = ~(np.abs(moments) < _MAX_TIMESTAMP)
        seconds = np.floor(np.where(bad, 0, moments)).astype(np.int64)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"{source.place(row)}: the time in column {name!r} must be seconds since "
            f"1970 or an ISO 8601 time, {_cell_read(column, row)}"
        )
    return seconds


def _cell_read(column: pd.Series[Any], row: int) -> str:
    cell = column.iloc[row]
    return "read an empty cell" if pd.isna(cell) else f"read {shown(str(cell))}"


def _single_values(source: _Source, name: str) -> pd.Series[Any]:
    """Returns a column, or raises `DataError` if it contains lists or records."""
    column = source.frame[name]
    if column.dtype == object:
        for row, cell in enumerate(column):
            if not _is_single(cell):
                raise DataError(
                    f"{source.place(row)}: column {name!r} must have one value per "
                    f"row, read {shown(str(cell))}"
                )
    return column


def _feature(source: _Source, name: str, text: bool) -> pd.Series[Any]:
    column = source.frame[name]
    known = column.notna()
    if not known.any():
        return column
    if column.dtype == object:
        column = column.map(_tuple)
        for row, cell in enumerate(column):
            values = cell if isinstance(cell, tuple) else (cell,)
            if not all(map(_is_value, values)):
                raise DataError(
                    f"{source.place(row)}: column {name!r} must have values or lists "
                    f"of values, read {shown(str(cell))}"
                )
    if pd.api.types.infer_dtype(column) != "string":
        return column if not text else _as_text(column, known)
    if text:
        return column
    numbers = pd.to_numeric(column, errors="coerce")
    finite = np.isfinite(numbers.to_numpy(np.float64))
    return numbers if finite[known.to_numpy()].all() else column


def _as_text(column: pd.Series[Any], known: pd.Series[bool]) -> pd.Series[Any]:
    cells = zip(column, known, strict=True)
    return pd.Series(
        [_text(cell) if has else None for cell, has in cells],
        index=column.index,
        dtype=object,
    )


def _text(cell: object) -> object:
    return cell if isinstance(cell, tuple) else str(cell)  # of a Parquet file


def _is_single(cell: object) -> bool:
    return isinstance(cell, Hashable) and not isinstance(cell, tuple)


def _is_value(value: Any) -> bool:
    """Returns whether a value of a list is a single one, or has a weight."""
    return _is_single(value[0] if is_pair(value) else value)


def _tuple(cell: object) -> object:
    return tuple(cell) if isinstance(cell, np.ndarray | list) else cell


def _joined(cell: object) -> object:
    return "|".join(map(_value, cell)) if isinstance(cell, tuple) else cell


def _value(value: object) -> str:
    """Returns the text of a value, or of a pair of a value and its weight."""
    return ":".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _escaped(cell: object) -> object:
    is_formula = isinstance(cell, str) and cell.startswith(_FORMULA)
    return f"'{cell}" if is_formula else cell


def _refuse_duplicates(source: _Source, ratings: pd.DataFrame) -> None:
    pairs = ratings[["user", "item"]]
    repeated = pairs.duplicated().to_numpy()
    if repeated.any():
        row = int(repeated.argmax())
        user, item = pairs.iloc[row]
        first = int((pairs == [user, item]).all(axis=1).to_numpy().argmax())
        raise DataError(
            f"{source.place(row)}: user {user} has already rated item {item}, "
            f"at {source.place(first)}"
        )
