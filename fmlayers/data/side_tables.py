"""Tables of users and items from files of their own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pandas as pd

from fmlayers.data.cells import as_text
from fmlayers.data.column_values import feature, missing_sentence
from fmlayers.data.dataset import Dataset
from fmlayers.data.errors import DataError
from fmlayers.data.table_files import TableFile


def with_side_table(
    dataset: Dataset,
    role: str,
    table: TableFile,
    key: str,
    text_columns: Collection[str],
    numeric_columns: Collection[str],
) -> Dataset:
    """Returns a dataset with a table of its users or items.

    Args:
        dataset: The dataset.
        role: `"user"` or `"item"`.
        table: The table, with a row per user or item.
        key: Name of the column of the users or items. If the table lacks it, it is
            `"user"` or `"item"`.
        text_columns: Names of columns to read as text.
        numeric_columns: Names of columns that must be numbers.

    Raises:
        DataError: If the dataset has no users or items, or has such a table already; if
            the key column is absent, or a key is missing or repeated; or if no user or
            item of the ratings is in the table.
    """
    if role not in dataset.ratings:
        raise DataError(
            f"`{role}s` must be left out, since {dataset.name} has no {role}s. Name "
            f"their column with `{role}`. Received: {table.name}."
        )
    if getattr(dataset, f"{role}s") is not None:
        raise DataError(
            f"`{role}s` must be left out, since {dataset.name} has a table of {role}s. "
            f"Received: {table.name}."
        )
    names = [str(name) for name in table.frame]
    key = key if key in names or role not in names else role
    if key not in names:
        raise DataError(
            f"{table.name} has no column {key!r} for `{role}_key`. Its columns: "
            f"{', '.join(map(repr, names))}."
        )
    if role in names and key != role:
        raise DataError(
            f"{table.name} has a column {role!r} that is not its key {key!r}. Rename "
            "it, or leave it out."
        )
    keys = _like(dataset.ratings[role], table.frame[key])
    _check_keys(keys, role, key, table)
    cells, missing = {role: keys}, {}
    for name in names:
        if name != key:
            cells[name], missing[name] = feature(
                table, name, text=name in text_columns, number=name in numeric_columns
            )
    repairs = dataset.repairs + missing_sentence(table.name, missing)
    tables: dict[str, Any] = {f"{role}s": pd.DataFrame(cells)}
    with_table = replace(dataset, repairs=repairs, **tables)
    known = pd.Index(dataset.ratings[role].unique())
    absent = known[~known.isin(keys)]
    if not len(absent):
        return with_table
    sentence = (
        f"{table.name}: {len(absent):,} of {len(known):,} {role}s have no row, such as "
        f"{absent[0]}; their columns count as missing."
    )
    return replace(with_table, repairs=(*repairs, sentence))


def _like(ids: pd.Series[Any], keys: pd.Series[Any]) -> pd.Series[Any]:
    """Returns keys of the type of some ids: the text "7" for the number 7."""
    if ids.dtype == keys.dtype and ids.dtype != object:
        return keys
    by_text = {as_text(x): x for x in ids.unique()}
    cells = keys.astype(object)
    return cells.map(lambda x: by_text.get(as_text(x), x), na_action="ignore")


def _check_keys(keys: pd.Series[Any], role: str, key: str, table: TableFile) -> None:
    missing = keys.isna().to_numpy()
    if missing.any():
        place = table.place(int(missing.argmax()))
        raise DataError(f"{place}: the {role} in column {key!r} is missing")
    repeated = keys.duplicated().to_numpy()
    if repeated.any():
        row = int(repeated.argmax())
        first = int((keys == keys.iloc[row]).to_numpy().argmax())
        raise DataError(
            f"{table.place(row)}: {role} {keys.iloc[row]} has a row already, at "
            f"{table.place(first)}"
        )
