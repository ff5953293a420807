"""Writing of datasets in the sparse text formats of libsvm, libFM and libFFM."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers._checks import choice
from fmlayers._files import whole_file
from fmlayers.data.dataset import Dataset
from fmlayers.data.encoder import Encoder
from fmlayers.data.errors import DataError, named_places
from fmlayers.data.kind_names import Kind
from fmlayers.data.kinds import MISSING
from fmlayers.data.kinds.numeric import NumericColumn
from fmlayers.data.tables import write_csv
from fmlayers.data.vectors import as_vectors

SparseFormat = Literal["libsvm", "libfm", "libffm"]
_FIRST_INDEX = {"libsvm": 1, "libfm": 0, "libffm": 0}

Entries = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[Any]]


def write_sparse(
    dataset: Dataset,
    path: str | os.PathLike[str],
    columns: Mapping[str, Kind],
    format: SparseFormat = "libffm",
    *,
    rows: npt.NDArray[np.int64] | None = None,
    list_separator: str = "|",
    weights: Mapping[str, str] | None = None,
) -> Path:
    """Writes a dataset to a file of libsvm, libFM or libFFM.

    Each row is a line: the target, and `INDEX:VALUE` or, for libFFM,
    `FIELD:INDEX:VALUE` for each of its values. A categorical value has an index of its
    own and the value 1, a weighted one its weight. A numeric column has one index, and
    a column of vectors one for each number; numbers are not standardized. Missing
    values are left out. Indices begin at 1 for libsvm, otherwise at 0.

    A second file, `path` with the suffix `.index.csv`, contains what each index means:
    the columns `index`, `field`, `column` and `value`.

    Args:
        dataset: A `Dataset`.
        path: Path of the file. An existing file is replaced.
        columns: Dict from the names of the columns to write to their kinds, such as
            `infer_columns` returns. Each is a field.
        format: `"libsvm"`, `"libfm"` or `"libffm"`. Defaults to `"libffm"`.
        rows: Optional positions of the rows to write. Their indices are those that all
            rows of the dataset would have. Defaults to all rows.
        list_separator: Text between the values of a list. Defaults to `"|"`.
        weights: Optional dict from the names of weighted columns to the columns with
            their weights.

    Returns:
        The path of the second file.

    Raises:
        DataError: If the folder does not exist, or a column cannot be encoded.
        ValueError: If an argument violates its constraint.
    """
    choice("format", format, get_args(SparseFormat))
    path = Path(path)
    if not path.parent.is_dir():
        raise DataError(f"{path}: there is no folder {path.parent}.")
    table = dataset.table()
    encoder = Encoder(columns, separator=list_separator, weights=weights)
    with named_places(dataset.place_of):
        encoder.fit(table)
    if rows is not None:
        table = table.iloc[rows]
    first = _FIRST_INDEX[format]
    parts, known = [], []
    for field, column in enumerate(encoder.columns):
        (owners, ids, values), names = _entries(encoder, column, table)
        field_of = f"{field}:" if format == "libffm" else ""
        pairs = zip((first + ids).tolist(), map(_number, values), strict=True)
        texts = [f"{field_of}{index}:{value}" for index, value in pairs]
        parts.append(pd.Series(texts, index=owners, dtype=object))
        first += len(names)
        known.append(pd.DataFrame({"field": field, "column": column, "value": names}))
    entries = pd.concat(parts).sort_index(kind="stable").groupby(level=0).agg(" ".join)
    lines = entries.reindex(range(len(table)), fill_value="")
    with whole_file(path) as written, written.open("w", encoding="utf-8") as file:
        for target, line in zip(table["rating"], lines, strict=True):
            file.write(f"{_number(target)} {line}".rstrip() + "\n")
    index = pd.concat(known, ignore_index=True)
    index.insert(0, "index", index.index + _FIRST_INDEX[format])
    names_path = path.with_name(f"{path.name}.index.csv")
    write_csv(index, names_path)
    return names_path


def _entries(
    encoder: Encoder, column: str, table: pd.DataFrame
) -> tuple[Entries, list[str]]:
    """Returns the row, id and value of each entry, and the names of the ids from 0."""
    kind = encoder.column(column)
    if isinstance(kind, NumericColumn):
        return _known(kind.numbers(table[column])[:, None]), [""]
    if kind.size is not None:
        vectors = as_vectors(column, table[column], encoder.separator, kind.size)
        return _known(vectors), [str(i) for i in range(kind.size)]
    inputs = encoder.transform(table, [column])
    ids = inputs[column].reshape(len(table), -1)
    rows, places = np.nonzero(ids != MISSING)
    values: npt.NDArray[Any] = np.ones(len(rows))
    weights = encoder.weights_input(column)
    if weights is not None:
        values = inputs[weights][rows, places]
    # Hashes have no values, but a number of their own.
    names = kind.values() or [str(i) for i in range(kind.number or 0)]
    return (rows, ids[rows, places].astype(np.int64) - 1, values), names


def _known(numbers: npt.NDArray[Any]) -> Entries:
    rows, places = np.nonzero(~np.isnan(numbers))
    return rows, places, numbers[rows, places]


def _number(value: Any) -> str:
    """Returns the shortest text of a number, of a float32 one, too."""
    number = float(str(value))
    return (
        str(int(number))
        if number.is_integer() and abs(number) < 1e16
        else f"{number!r}"
    )
