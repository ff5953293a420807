"""Tables in the sparse text formats of libsvm, libFM and libFFM."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers.data.cells import NUMBER
from fmlayers.data.errors import DataError
from fmlayers.data.records import decode, shown
from fmlayers.data.table_format import FileFormat, TableFormat

# Names of the columns, and the beginning of those of fields.
TARGET, FEATURES, QUERY, FIELD = "rating", "features", "qid", "field_"
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_PAIRS = rf"(?:[ \t]+\d+:{_NUMBER})+"
_FIRST: dict[FileFormat, re.Pattern[str]] = {
    "libffm": re.compile(rf"{_NUMBER}(?:[ \t]+\d+:\d+:{_NUMBER})+"),
    "libsvm": re.compile(rf"{_NUMBER}(?:[ \t]+qid:\d+{_PAIRS}|{_PAIRS})"),
}
_INDEX = re.compile(r"[0-9]{1,18}", re.ASCII)
_LINES = re.compile(r"\r\n|\r|\n")


class SparseTable(NamedTuple):
    """A table whose columns have lists of pairs of a value and its weight.

    Attributes:
        frame: The table. The target and the query are text, all other columns tuples.
        lines: The line of each row.
        remarks: Sentences on how the columns were formed.
    """

    frame: pd.DataFrame
    lines: npt.NDArray[np.int64]
    remarks: tuple[str, ...] = ()


def sparse_format(data: bytes, wanted: FileFormat) -> FileFormat | None:
    """Returns the sparse format of a text file, `None` if it is not sparse.

    Args:
        data: The contents of the file, in UTF-8.
        wanted: The format. `"auto"` recognizes it by the first line.
    """
    if wanted != "auto":
        return None if wanted == "csv" else wanted
    for line in io.BytesIO(data[:_MAX_FIRST]):
        text = _content(line.decode(errors="replace"))
        if text:
            return next((k for k, v in _FIRST.items() if v.fullmatch(text)), None)
    return None


_MAX_FIRST = 2**20  # bytes in which the first line is looked for


def read_sparse(
    data: bytes,
    name: str,
    table_format: TableFormat,
    layout: FileFormat,
    wanted: Collection[str] = (),
) -> SparseTable:
    """Returns the table of a sparse file.

    A file of libFFM, with lines `TARGET FIELD:INDEX:VALUE ...`, has a column for each
    field. A file of libsvm or libFM, with lines `TARGET INDEX:VALUE ...`, has the
    column `features`. But if all its values are 1, and each line has the same number of
    indices, with other ones at each position, these positions are its fields. Text
    after `#` is a comment. `qid:QUERY` after the target becomes the column `qid`.

    Args:
        data: The contents of the file, in UTF-8.
        name: Name of the file, for error messages.
        table_format: The format. Its `columns` are names of the target and the others.
        layout: `"libsvm"`, `"libfm"` or `"libffm"`.
        wanted: Names of columns that must be formed, `features` or `field_0` and so on,
            empty ones if no line has such a field.

    Raises:
        DataError: If a line does not have this format. The message names it.
    """
    width = 3 if layout == "libffm" else 2
    rows = _Rows.of(decode(data, name))
    if not len(rows.lines):
        raise DataError(f"{name} is empty.")
    parts = _parts(rows, width)
    if parts is None:
        _blame(rows, name, width, layout)
        raise DataError(f"{name} is not a file of {layout}.")
    frame = pd.DataFrame({TARGET: rows.targets})
    if any(rows.queries):
        absent = next((i for i, query in enumerate(rows.queries) if not query), None)
        if absent is not None:
            raise DataError(f"{name}, line {rows.lines[absent]}: there is no qid")
        frame[QUERY] = [query.removeprefix("qid:") for query in rows.queries]
    counts = np.array([len(tokens) for tokens in rows.tokens])
    owners = np.repeat(np.arange(len(counts)), counts)
    remarks: tuple[str, ...] = ()
    if layout != "libffm":
        width = _positions(rows, name, table_format, parts, wanted)
        if width:
            places = np.arange(len(owners)) % width
            parts = [places, *parts]
            remarks = (
                f"{name}: each line has {width} indices with the value 1, read as "
                f"{width} columns.",
            )
        else:
            frame[FEATURES] = _lists(owners, parts[0], parts[1], len(counts))
    if len(parts) == 3:
        for field in np.unique(parts[0]).tolist():
            chosen = parts[0] == field
            values = parts[1][chosen], parts[2][chosen]
            frame[f"{FIELD}{field}"] = _lists(owners[chosen], *values, len(counts))
    for column in wanted:
        if column.startswith(FIELD) and column not in frame:
            frame[column] = np.fromiter([()] * len(frame), object, count=len(frame))
    names = table_format.columns
    if names is not None:
        if len(names) != frame.shape[1]:
            raise DataError(
                f"{name}: `columns` must name the {frame.shape[1]} columns "
                f"{list(frame)}. Received: columns={list(names)}."
            )
        frame.columns = pd.Index(names)
    return SparseTable(frame, np.array(rows.lines), remarks)


def _positions(
    rows: _Rows,
    name: str,
    table_format: TableFormat,
    parts: list[npt.NDArray[Any]],
    wanted: Collection[str],
) -> int:
    """Returns the number of positions that are fields, 0 if they are not."""
    counts = [len(tokens) for tokens in rows.tokens]
    fields = [x.removeprefix(FIELD) for x in wanted if x.startswith(FIELD)]
    if table_format.columns is not None:
        width = len(table_format.columns) - 1 - any(rows.queries)
        width *= width > 1
    elif FEATURES in wanted:
        width = 0
    elif fields:
        width = max([int(x) + 1 for x in fields if _INDEX.fullmatch(x)], default=0)
    else:
        width = counts[0]
        at = np.arange(len(parts[0])) % max(width, 1)
        pairs = np.unique(np.stack([at, parts[0]]), axis=1)
        is_field = len(np.unique(pairs[1])) == pairs.shape[1] and (parts[1] == 1).all()
        return width if width > 1 and is_field and {*counts} == {width} else 0
    other = next((i for i, n in enumerate(counts) if width and n != width), None)
    if other is not None:
        raise DataError(
            f"{name}, line {rows.lines[other]}: expected {width} indices, one for each "
            f"column, read {counts[other]}"
        )
    return width


def is_categorical(column: pd.Series[Any]) -> bool:
    """Returns whether all lists have at most one value, with the weight 1."""
    return all(not cell or (len(cell) == 1 and cell[0][1] == 1) for cell in column)


def as_categorical(
    column: pd.Series[Any], place: Callable[[int], str]
) -> pd.Series[Any]:
    """Returns the only value of each list, `None` for an empty one.

    Raises:
        DataError: If a list has several values, or a value another weight than 1.
    """
    for row, cell in enumerate(column):
        if len(cell) > 1 or (cell and cell[0][1] != 1):
            raise DataError(
                f"{place(row)}: column {str(column.name)!r} must have at most one "
                f"index, with the value 1, read {shown(str(cell))}"
            )
    texts = [cell[0][0] if cell else None for cell in column]
    return pd.Series(texts, index=column.index, dtype=object, name=column.name)


class _Rows(NamedTuple):
    lines: list[int]
    targets: list[str]
    queries: list[str]
    tokens: list[list[str]]

    @classmethod
    def of(cls, text: str) -> _Rows:
        rows = cls([], [], [], [])
        for line, written in enumerate(_lines(text), start=1):
            target, *tokens = _content(written).split() or [""]
            if not target:
                continue
            has_query = bool(tokens) and tokens[0].startswith("qid:")
            rows.lines.append(line)
            rows.targets.append(target)
            rows.queries.append(tokens[0] if has_query else "")
            rows.tokens.append(tokens[has_query:])
        return rows


def _lines(text: str) -> Iterator[str]:
    start = 0
    for match in _LINES.finditer(text):
        yield text[start : match.start()]
        start = match.end()
    yield text[start:]


def _content(line: str) -> str:
    return line.removeprefix("\ufeff").partition("#")[0].strip()


def _parts(rows: _Rows, width: int) -> list[npt.NDArray[Any]] | None:
    """Returns the parts of all entries, `None` if one is invalid."""
    if not all(map(NUMBER.fullmatch, rows.targets)):
        return None
    flat = [token for tokens in rows.tokens for token in tokens]
    if not flat:
        return [np.empty(0, np.int64)] * (width - 1) + [np.empty(0)]
    separators = {token.count(":") for token in flat}
    if separators != {width - 1}:
        return None
    cells = pd.Series(":".join(flat).split(":"), dtype=object).to_numpy()
    columns = cells.reshape(-1, width).T
    if not all(_INDEX.fullmatch(cell) for column in columns[:-1] for cell in column):
        return None
    if not all(map(NUMBER.fullmatch, columns[-1])):
        return None
    values = columns[-1].astype(np.float64)
    if not np.isfinite(values).all():
        return None
    return [*(column.astype(np.int64) for column in columns[:-1]), values]


def _lists(
    owners: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    count: int,
) -> npt.NDArray[np.object_]:
    """Returns a tuple of pairs of an index, as text, and its value for each row."""
    pairs = list(zip(map(str, indices.tolist()), values.tolist(), strict=True))
    ends = np.searchsorted(owners, np.arange(count + 1)).tolist()
    lists = (tuple(pairs[start:end]) for start, end in pairwise(ends))
    return np.fromiter(lists, object, count=count)


def _blame(rows: _Rows, name: str, width: int, layout: FileFormat) -> None:
    """Raises `DataError` for the first line that is invalid."""
    form = "FIELD:INDEX:VALUE" if width == 3 else "INDEX:VALUE"
    for line, target, tokens in zip(rows.lines, rows.targets, rows.tokens, strict=True):
        if not NUMBER.fullmatch(target):
            raise DataError(
                f"{name}, line {line}: the target of a file of {layout} must be a "
                f"number, read {shown(target)}"
            )
        for token in tokens:
            *indices, value = token.split(":")
            is_valid = (
                len(indices) == width - 1
                and all(map(_INDEX.fullmatch, indices))
                and NUMBER.fullmatch(value)
                and np.isfinite(float(value))
            )
            if not is_valid:
                raise DataError(
                    f"{name}, line {line}: expected {form} with integers and a finite "
                    f"number, read {shown(token)}"
                )
