"""A fingerprint of the tables of a dataset beside the keys of its ratings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

from fmlayers.data.cells import as_text
from fmlayers.data.dataset import Dataset


def fingerprint_of_tables(dataset: Dataset) -> str:
    """Returns the SHA-256 of all columns, side tables and parts, in hexadecimal.

    The order of columns does not matter. Numbers of any type are compared as float64,
    and other cells as text.
    """
    digest = hashlib.sha256()
    tables = {
        "ratings": dataset.ratings,
        "users": dataset.users,
        "items": dataset.items,
    }
    for name, table in tables.items():
        if table is None:
            continue
        digest.update(f"{name}:{len(table)}\n".encode())
        for column in sorted(table.columns, key=str):
            digest.update(f"{column}\n".encode())
            for part in _contents(table[column]):
                digest.update(part)
    for name, rows in sorted(dataset.parts.items()):
        digest.update(f"{name}\n".encode() + rows.astype("<i8").tobytes())
    return digest.hexdigest()


def _contents(column: pd.Series[Any]) -> Iterator[bytes]:
    if pd.api.types.is_numeric_dtype(column) and column.dtype != bool:
        numbers = column.to_numpy(np.float64, na_value=np.nan)
        numbers = np.where(np.isnan(numbers), np.nan, numbers)  # all NaN are the same
        yield numbers.astype("<f8").tobytes()
        return
    cells = column.to_numpy(dtype=object)
    codes = np.arange(len(cells))
    with suppress(TypeError):  # lists have no hash
        codes, cells = pd.factorize(cells, use_na_sentinel=False)
    texts = np.fromiter(map(_text, cells), object, count=len(cells))
    # Different values may have the same text.
    of_texts, distinct = pd.factorize(texts)
    yield of_texts[codes].astype("<i4").tobytes()
    yield np.fromiter(map(len, distinct), "<i8", count=len(distinct)).tobytes()
    yield "".join(distinct).encode("utf-8", "surrogatepass")


def _text(cell: Any) -> str:
    """Returns the text of a cell; a missing value is the empty text."""
    if isinstance(cell, (tuple, list, np.ndarray)):
        return "[" + "|".join(map(_text, cell)) + "]"
    return "" if cell is None or pd.isna(cell) is True else as_text(cell)
