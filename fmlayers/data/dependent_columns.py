"""Columns of the ratings that describe the item or the user of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers.data.cells import shown
from fmlayers.data.dataset import RATING_COLUMNS, Dataset
from fmlayers.data.errors import DataError

KEYS = ("item", "user")  # a column that is a function of both describes the item
# A column that was independent of the keys would have two values at a key in this many
# rows, on average. The chance that it has them nowhere is then below 1e-8.
MIN_EVIDENCE = 20.0
MIN_REPEATED_KEYS = 5
NEARLY = 0.99  # share of the keys with one value, from which an exception is reported


def with_dependent_columns(
    dataset: Dataset,
    *,
    user_columns: Sequence[str] | None = None,
    item_columns: Sequence[str] | None = None,
    weights: Mapping[str, str] | None = None,
) -> Dataset:
    """Moves the columns that describe users or items to the tables of these.

    A column of the ratings describes the item if all rows of an item have the same
    value, and enough items have several rows that this is no coincidence. The values
    then follow the item wherever there is no row: to a sampled negative, a candidate
    for a recommendation, and an exported table of items. Columns that describe neither,
    such as the day of a purchase, stay with their rows.

    Args:
        dataset: A `Dataset`. Without users and items, it is returned as it is.
        user_columns: Optional names of the columns that describe users. Defaults to
            those that are recognized.
        item_columns: Optional names of the columns that describe items. Defaults to
            those that are recognized.
        weights: Optional dict from columns of lists to the columns of their weights,
            with which they move together.

    Returns:
        The dataset. `table()` has the same rows and columns. `repairs` reports which
        columns are in which table, and columns with few exceptions.

    Raises:
        DataError: If a named column is not in the ratings, or has several values at an
            item or user.
    """
    named = {"user": user_columns, "item": item_columns}
    _check_names(dataset, named)
    if not dataset.has_pairs:
        return dataset
    ratings, sentences = dataset.ratings, list[str]()
    tables: dict[str, Any] = {}
    exceptions: dict[str, str] = {}
    of_rows = (*RATING_COLUMNS, dataset.weight)
    free = [str(name) for name in ratings if name not in of_rows]
    for key in KEYS:
        other = named["user" if key == "item" else "item"] or ()
        if named[key] is not None:
            moved = _checked(ratings, key, list(named[key] or ()), weights or {})
        else:
            candidates = [name for name in free if name not in other]
            moved, nearly = _recognized(ratings, key, candidates, weights or {})
            exceptions |= nearly
        free = [name for name in free if name not in moved]
        if moved:
            tables[f"{key}s"] = _side_table(dataset, key, moved)
            sentences.append(
                f"{', '.join(moved)} {'has' if len(moved) == 1 else 'have'} one value "
                f"per {key} and {'describes' if len(moved) == 1 else 'describe'} the "
                f"{key}."
            )
    sentences += [exceptions[name] for name in free if name in exceptions]
    if not sentences:
        return dataset
    kept = [name for name in ratings if name in (*of_rows, *free)]
    return replace(
        dataset,
        ratings=ratings[kept],
        repairs=(*dataset.repairs, *(f"{dataset.name}: {x}" for x in sentences)),
        **tables,
    )


def _recognized(
    ratings: pd.DataFrame, key: str, names: list[str], weights: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Returns the columns that describe a key, and sentences on those that nearly do.

    Args:
        ratings: The ratings.
        key: `"user"` or `"item"`.
        names: Names of the columns that may describe it.
        weights: See `with_dependent_columns`.
    """
    rows = _Rows.of(ratings[key])
    moved: list[str] = []
    exceptions = {}
    for name in names:
        values = _codes(ratings[name])
        if not rows.show(values):
            continue
        wrong = rows.with_several(values)
        if not len(wrong):
            moved.append(name)
        elif 1.0 - len(wrong) / rows.repeated >= NEARLY:
            exceptions[name] = (
                f"{name} has one value per {key}, except for {len(wrong):,} of "
                f"{rows.repeated:,} {key}s with several rows, and stays with the rows: "
                f"{_several(key, name, ratings, rows, wrong[0])}."
            )
    for pair in _divided(moved, weights):
        moved = [name for name in moved if name not in pair]
    return moved, exceptions


def _checked(
    ratings: pd.DataFrame, key: str, names: list[str], weights: Mapping[str, str]
) -> list[str]:
    """Returns the columns that a caller has named, if they describe a key."""
    rows = _Rows.of(ratings[key])
    for name in names:
        wrong = rows.with_several(_codes(ratings[name]))
        if len(wrong):
            raise DataError(
                f"`{key}_columns` must have one value per {key}. Received: "
                f"{_several(key, name, ratings, rows, wrong[0])}."
            )
    for column, of_weights in _divided(names, weights):
        raise DataError(
            f"`{key}_columns` must contain both of {column!r} and the column "
            f"{of_weights!r} of its weights, or none of them. Received: {names}."
        )
    return names


def _divided(names: list[str], weights: Mapping[str, str]) -> list[tuple[str, str]]:
    """Returns the columns of which only the values or only the weights are named."""
    return [pair for pair in weights.items() if len({*pair} & {*names}) == 1]


@dataclass(frozen=True)
class _Rows:
    """The rows of each key, such as each item.

    Attributes:
        codes: Integers `(rows,)`, the number of each row's key.
        first: Integers `(keys,)`, the first row of each key.
        counts: Integers `(keys,)`, the rows of each key.
    """

    codes: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, keys: pd.Series[Any]) -> _Rows:
        codes, distinct = pd.factorize(keys, use_na_sentinel=False)
        first = np.full(len(distinct), -1)
        first[codes[::-1]] = np.arange(len(codes))[::-1]
        return cls(codes, first, np.bincount(codes, minlength=len(distinct)))

    @property
    def repeated(self) -> int:
        """The number of keys with several rows."""
        return int((self.counts > 1).sum())

    def differ(self, values: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Returns whether each row has another value than the first row of its key."""
        rows: npt.NDArray[np.bool_] = values != values[self.first][self.codes]
        return rows

    def with_several(self, values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Returns the keys with several values, in order of their first exception."""
        return pd.unique(self.codes[self.differ(values)])

    def show(self, values: npt.NDArray[np.int64]) -> bool:
        """Returns whether one value per key would be no coincidence."""
        shares = np.bincount(values) / max(len(values), 1)
        repeats = len(values) - len(self.counts)
        evidence = repeats * (1.0 - (shares**2).sum())
        return bool(self.repeated >= MIN_REPEATED_KEYS and evidence >= MIN_EVIDENCE)


def _check_names(dataset: Dataset, named: dict[str, Sequence[str] | None]) -> None:
    for key, names in named.items():
        if names and not dataset.has_pairs:
            raise DataError(
                f"`{key}_columns` must be left out, since {dataset.name} has no users "
                f"and items. Received: {list(names)}."
            )
        for name in names or ():
            if name in RATING_COLUMNS or name not in dataset.ratings:
                free = [str(x) for x in dataset.ratings if x not in RATING_COLUMNS]
                raise DataError(
                    f"`{key}_columns` must be columns of the ratings other than user, "
                    f"item, target and timestamp. Received: {name!r}; there are {free}."
                )
    both = set(named["user"] or ()) & set(named["item"] or ())
    if both:
        raise DataError(
            "`user_columns` and `item_columns` must have no column in common. "
            f"Received: {min(both)!r} in both."
        )


def _codes(column: pd.Series[Any]) -> npt.NDArray[np.int64]:
    """Returns equal integers for equal values, of which a missing value is one."""
    try:
        codes = pd.factorize(column, use_na_sentinel=False)[0]
    except TypeError:  # a list or dict has no hash
        codes = pd.factorize(column.map(repr), use_na_sentinel=False)[0]
    return codes.astype(np.int64)


def _several(
    key: str, name: str, ratings: pd.DataFrame, rows: _Rows, code: np.int64
) -> str:
    """Returns a sentence's part on the first two values of a column at a key."""
    differ = rows.differ(_codes(ratings[name]))
    at = np.flatnonzero((rows.codes == code) & differ)[0]
    first = rows.first[code]
    cells = [ratings[name].iloc[row] for row in (first, at)]
    texts = ["no value" if _is_missing(cell) else shown(cell) for cell in cells]
    return f"{key} {ratings[key].iloc[at]} has {name} {texts[0]} and {texts[1]}"


def _is_missing(cell: Any) -> bool:
    return not isinstance(cell, tuple) and bool(pd.isna(cell))


def _side_table(dataset: Dataset, key: str, names: list[str]) -> pd.DataFrame:
    """Returns the table of users or items with further columns of the ratings."""
    added = dataset.ratings[[key, *names]].drop_duplicates(key)
    table = dataset.users if key == "user" else dataset.items
    if table is None:
        return added.reset_index(drop=True)
    keys = pd.concat([table[key], added[key]]).drop_duplicates()
    parts = [part.set_index(key).reindex(keys) for part in (table, added)]
    return pd.concat(parts, axis=1).reset_index(names=key)
