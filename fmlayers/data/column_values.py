"""The values of the columns of a file: ids, targets, times and features."""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers.data.cells import as_number, as_text, has_leading_zeros
from fmlayers.data.errors import DataError
from fmlayers.data.records import shown
from fmlayers.data.sparse_files import FEATURES, as_categorical, is_categorical
from fmlayers.data.table_files import TableFile
from fmlayers.data.table_format import NUMBER_MARKERS, TableFormat
from fmlayers.data.weighted import is_pair

# Larger timestamps would be past the year 5000: most likely they are milliseconds.
_MAX_TIMESTAMP = 1e11
MAX_NAMED = 5  # columns in a sentence
_GROUPED = re.compile(r"[+-]?\d{1,3}([,.' ]\d{3})+([.,]\d*)?")


def identifiers(source: TableFile, name: str, role: str) -> pd.Series[Any]:
    column = _single_values(source, name)
    missing = column.isna().to_numpy()
    if missing.any():
        place = source.place(int(missing.argmax()))
        raise DataError(f"{place}: the {role} in column {name!r} is missing")
    return column


def numbers(
    source: TableFile, name: str, role: str = "rating", *, least: float | None = None
) -> npt.NDArray[np.float64]:
    """Returns a column of finite numbers, of at least `least` if it is not `None`."""
    column = _single_values(source, name)
    numbers = parsed(column, source.table_format).to_numpy(np.float64, na_value=np.nan)
    bad = ~np.isfinite(numbers)
    bound = ""
    if least is not None:
        bad |= numbers < least
        bound = f" of at least {least:g}"
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"{source.place(row)}: the {role} in column {name!r} must be a finite "
            f"number{bound}, {_cell_read(column, row)}"
        )
    return numbers


def labels(
    source: TableFile, name: str, num_training: int, positive: Collection[str] = ()
) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    """Returns labels as 0 and 1, and a sentence on them unless they were that.

    Args:
        source: The table.
        name: Name of the column.
        num_training: Number of the training rows, which come first. Their values are
            the labels of all rows.
        positive: Values that count as 1, with or without blanks around them, and all
            others as 0. Defaults to `()`: the greater one of two values is 1.

    Raises:
        DataError: If a label is missing or another value, or the training rows do not
            have both.
    """
    column = _single_values(source, name)
    numbers = parsed(column, source.table_format)
    markers = source.table_format.missing
    if markers is None and numbers.notna().any():
        markers = NUMBER_MARKERS
    missing = column.isna().to_numpy() | is_one_of(column, markers or ())
    if missing.any():
        place = source.place(int(missing.argmax()))
        raise DataError(f"{place}: the label in column {name!r} is missing")
    if positive:
        return _is_positive(source, column, num_training, positive)
    are_numbers = not numbers.iloc[:num_training].isna().any()
    values = numbers.astype(np.float64) if are_numbers else column
    _, distinct = pd.factorize(values.iloc[:num_training], sort=True)
    if len(distinct) != 2:
        shown_values = ", ".join(f"{value}" for value in distinct[:5])
        raise DataError(
            f"{source.name}: the label in column {name!r} must have two values. "
            f"Received: {len(distinct):,} values, {shown_values}"
            f"{', ...' if len(distinct) > 5 else ''}. Predict a number with the task "
            "'regression', or choose the positives with `positive_threshold`."
        )
    one, zero = (
        f"{value:g}" if isinstance(value, float) else repr(str(value))
        for value in reversed(distinct)
    )
    codes = pd.Index(distinct).get_indexer(pd.Index(values))
    if (codes < 0).any():
        row = int((codes < 0).argmax())
        raise DataError(
            f"{source.place(row)}: the label in column {name!r} must be {zero} or "
            f"{one}, as in {source.name}, {_cell_read(column, row)}. Write the labels "
            "alike in all files."
        )
    labels = codes.astype(np.float64)
    if list(distinct) == [0, 1]:
        return labels, ()
    sentence = f"{source.name}: the label is 1 for {name} {one} and 0 for {zero}."
    return labels, (sentence,)


def _is_positive(
    source: TableFile,
    column: pd.Series[Any],
    num_training: int,
    positive: Collection[str],
) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    texts = column.map(lambda cell: as_text(cell).strip())
    is_one = texts.isin([label.strip() for label in positive])
    ones, zeros = (
        ", ".join(map(repr, chosen.unique()[:MAX_NAMED]))
        + (", ..." if chosen.nunique() > MAX_NAMED else "")
        for chosen in (texts[is_one], texts[~is_one])
    )
    if is_one.iloc[:num_training].nunique() < 2:
        raise DataError(
            f"{source.name}: the label in column {column.name!r} must be one of "
            "`positive_labels` in some rows, and another value in others. Received: "
            f"{', '.join(map(repr, positive))}, and in the file {ones or zeros}."
        )
    sentence = f"{source.name}: the label is 1 for {column.name} {ones}, 0 for {zeros}."
    return np.asarray(is_one, np.float64), (sentence,)


def seconds(source: TableFile, name: str) -> npt.NDArray[np.int64]:
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


def _single_values(source: TableFile, name: str) -> pd.Series[Any]:
    """Returns a column, or raises `DataError` if it contains lists or records."""
    column = source.frame[name]
    if source.is_sparse and isinstance(column.iloc[0], tuple):
        return as_categorical(column, source.place)
    if column.dtype == object:
        for row, cell in enumerate(column):
            if not _is_single(cell):
                raise DataError(
                    f"{source.place(row)}: column {name!r} must have one value per "
                    f"row, read {shown(str(cell))}"
                )
    return column


def feature(
    source: TableFile,
    name: str,
    *,
    text: bool = False,
    number: bool = False,
    is_id: bool = False,
    weighted: bool = False,
) -> tuple[pd.Series[Any], int]:
    """Returns a column as numbers if all its cells are numbers, otherwise as text.

    A column with a cell such as `012` is text, since a number would lose the zero.

    Args:
        source: The table.
        name: Name of the column.
        text: Whether to return text even if all cells are numbers. Defaults to `False`.
        number: Whether the column must be numeric. Defaults to `False`.
        is_id: Whether to return text in which only an empty cell is a missing value.
            Defaults to `False`.
        weighted: Whether values of a sparse file keep their weights even if these are
            all 1. Defaults to `False`.

    Returns:
        The column, with lists as tuples, and the number of its cells that are texts
        for a missing value.

    Raises:
        DataError: If a cell is a record or a list of lists, or must be a number and is
            not.
    """
    column = source.frame[name]
    if source.is_sparse and len(column) and isinstance(column.iloc[0], tuple):
        if (
            name == FEATURES
            or weighted
            or not (text or is_id or is_categorical(column))
        ):
            return column, 0
        return as_categorical(column, source.place), 0
    known = column.notna()
    if column.dtype == object and known.any():
        column = column.map(_tuple)
        for row, cell in enumerate(column):
            values = cell if isinstance(cell, tuple) else (cell,)
            if not all(map(_is_value, values)):
                raise DataError(
                    f"{source.place(row)}: column {name!r} must have values or lists "
                    f"of values, read {shown(str(cell))}"
                )
    if pd.api.types.infer_dtype(column) not in ("string", "empty"):
        if number:
            _check_numbers(source, name, column)
        return (_as_text(column, known) if text or is_id else column), 0
    missing = source.table_format.missing
    count = 0
    if missing is not None and not is_id:
        is_marker = is_one_of(column, missing)
        column, count = column.mask(is_marker), int(is_marker.sum())
    if text or is_id or (source.is_typed and not number):
        return column, count
    numeric = parsed(column, source.table_format)
    finite = np.isfinite(numeric.to_numpy(np.float64, na_value=np.nan))
    other = column.notna().to_numpy() & ~finite
    if missing is None:
        is_marker = other & is_one_of(column, NUMBER_MARKERS)
        other &= ~is_marker
        count = int(is_marker.sum())
    if number and other.any():
        row = int(other.argmax())
        raise DataError(
            f"{source.place(row)}: column {name!r} must have finite numbers, "
            f"{_cell_read(column, row)}. {_remedy(str(column.iloc[row]))}"
        )
    is_text = other.any() or not finite.any() or _would_lose_zeros(column)
    if is_text and not number:
        return column, count if missing is not None else 0
    return numeric, count


def _would_lose_zeros(column: pd.Series[Any]) -> bool:
    """Returns whether cells such as "012" are more than their numbers."""
    # Few numbers begin with one of these characters, and the pattern is slow.
    cells = (x for x in column if isinstance(x, str) and x[:1] in "0+- \t")
    return any(map(has_leading_zeros, cells))


def is_one_of(column: pd.Series[Any], texts: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Returns which cells are one of some texts, apart from blanks around them."""
    if pd.api.types.infer_dtype(column) != "string":
        return np.zeros(len(column), bool)
    found = column.isin(texts) | column.str.strip().isin(texts)
    return (found & column.notna()).to_numpy(bool)


def _check_numbers(source: TableFile, name: str, column: pd.Series[Any]) -> None:
    numbers = np.fromiter(map(as_number, column), np.float64, count=len(column))
    bad = np.isinf(numbers)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"{source.place(row)}: column {name!r} must have finite numbers, "
            f"{_cell_read(column, row)}"
        )


def parsed(column: pd.Series[Any], table_format: TableFormat) -> pd.Series[Any]:
    """Returns the numbers in a column of text, NaN for all other cells."""
    decimal, thousands = table_format.decimal, table_format.thousands
    is_text = pd.api.types.infer_dtype(column) == "string"
    if is_text and thousands is not None:
        mark = re.escape(thousands)
        groups = rf"\s*[+-]?\d{{1,3}}(?:{mark}\d{{3}})+(?!\d)[^{mark}]*"
        grouped = column.str.fullmatch(groups, na=False)
        column = column.where(~grouped, column.str.replace(thousands, "", regex=False))
    if is_text and decimal != ".":
        column = column.where(~column.str.contains(".", regex=False, na=False))
        column = column.str.replace(decimal, ".", regex=False)
    return pd.to_numeric(column, errors="coerce")


def missing_sentence(name: str, counts: Mapping[str, int]) -> tuple[str, ...]:
    """Returns a sentence on the texts that were read as missing values, if any.

    Args:
        name: Name of the file.
        counts: Dict from column name to the number of such cells.
    """
    parts = [f"{count:,} of {column}" for column, count in counts.items() if count]
    if not parts:
        return ()
    if len(parts) > MAX_NAMED + 1:
        parts[MAX_NAMED:] = [f"others of {len(parts) - MAX_NAMED} more columns"]
    return (f"{name}: read as missing the cells {', '.join(parts)}.",)


def _remedy(cell: str) -> str:
    if _GROUPED.fullmatch(cell.strip()):
        return "Name the character between groups of three digits with `thousands`."
    return "Name the texts for missing values with `missing`."


def _as_text(column: pd.Series[Any], known: pd.Series[bool]) -> pd.Series[Any]:
    cells = zip(column, known, strict=True)
    return pd.Series(
        [_text(cell) if has else None for cell, has in cells],
        index=column.index,
        dtype=object,
    )


def _text(cell: object) -> object:
    return cell if isinstance(cell, tuple) else as_text(cell)  # of a Parquet file


def _is_single(cell: object) -> bool:
    return isinstance(cell, Hashable) and not isinstance(cell, tuple)


def _is_value(value: Any) -> bool:
    """Returns whether a value of a list is a single one, or has a weight."""
    return _is_single(value[0] if is_pair(value) else value)


def _tuple(cell: object) -> object:
    return tuple(cell) if isinstance(cell, np.ndarray | list) else cell
