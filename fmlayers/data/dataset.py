"""Ratings with the tables of their users and items."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from fmlayers.data.errors import DataError
from fmlayers.data.splits import Split, random_split, time_split, user_split

SECONDS_A_DAY = 86_400
RATING_COLUMNS = ("user", "item", "rating", "timestamp")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Ratings with the tables of their users and items.

    Every source has the same column names.

    Attributes:
        name: what the data are called, as in `"ml-1m"`.
        ratings: a row a rating: `user`, `item`, `rating`, where known `timestamp`
            (seconds since 1970, int64), and further columns that describe the rating.
        users: a row a user, by `user`: `age`, `sex`, `occupation`, `zip_code` as far as
            the source has them. `None` if it has none.
        items: a row an item, by `item`: `title`, `year` (Int64), `genres` (a tuple of
            str, empty where there are none). `None` if the source has none.
        folds: the source's own splits, by name, as positions into `ratings`.
        repairs: a sentence for each thing that was mended, with its number of rows.

    Raises:
        DataError: if a table lacks its key, has a user or an item twice or none of
            those that are rated, or if two tables have a column of the same name.
    """

    name: str
    ratings: pd.DataFrame
    users: pd.DataFrame | None = None
    items: pd.DataFrame | None = None
    folds: Mapping[str, Split] = field(default_factory=dict)
    repairs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for column in RATING_COLUMNS[:3]:
            _require(self.ratings, "ratings", column)
        taken = set(map(str, self.ratings.columns))
        for key, table in self._side_tables():
            _require(table, f"{key}s", key)
            if table[key].duplicated().any():
                twice = table[key][table[key].duplicated()].iloc[0]
                raise DataError(
                    f"`{key}s` must have one row a {key}. It has {twice} again."
                )
            if len(table) and not self.ratings[key].isin(table[key]).any():
                raise DataError(
                    f"`{key}s` has no row of any {key} in `ratings`. Are they of one "
                    f"type? Received: {table[key].dtype} and {self.ratings[key].dtype}."
                )
            names = set(map(str, table.columns)) - {key}
            if taken & names:
                raise DataError(
                    f"the column {min(taken & names)!r} of `{key}s` is in another "
                    "table too. Rename one of them."
                )
            taken |= names

    @property
    def side_columns(self) -> tuple[str, ...]:
        """Names of `table()` other than user, item, rating and timestamp."""
        names = [str(name) for name in self.ratings.columns]
        for key, table in self._side_tables():
            names += [str(name) for name in table.columns if name != key]
        return tuple(name for name in names if name not in RATING_COLUMNS)

    @property
    def rating_bounds(self) -> tuple[float, float]:
        """The lowest and the highest rating."""
        ratings = self.ratings["rating"]
        return float(ratings.min()), float(ratings.max())

    def table(self) -> pd.DataFrame:
        """Join the ratings with what is known of their users and items.

        Returns:
            The ratings in their order, with a RangeIndex, and the columns of `users`
            and `items`: missing values, and no genres, where a user or an item has no
            row of its own. Where there are timestamps, `day` counts the days since
            1970.
        """
        parts = [self.ratings.reset_index(drop=True)]
        for key, table in self._side_tables():
            joined = table.set_index(key).reindex(self.ratings[key])
            parts.append(joined.reset_index(drop=True))
        table = pd.concat(parts, axis=1)
        if "timestamp" in table and "day" not in table:
            table["day"] = table["timestamp"] // SECONDS_A_DAY
        if self.items is not None and "genres" in self.items:
            table["genres"] = _without_missing(table["genres"])
        return table

    def fingerprint(self) -> str:
        """SHA-256 over the contents of user, item, rating and timestamp, in hex.

        The same ratings in the same order have the same fingerprint on every machine;
        the number 7 and the text "7" differ.
        """
        digest = hashlib.sha256()
        for name in RATING_COLUMNS:
            if name in self.ratings:
                kind, contents = _canonical(self.ratings[name])
                digest.update(f"{name}:{kind}:{len(self.ratings)}\n".encode())
                for part in contents:
                    digest.update(part)
        return digest.hexdigest()

    def _side_tables(self) -> list[tuple[str, pd.DataFrame]]:
        tables = (("user", self.users), ("item", self.items))
        return [(key, table) for key, table in tables if table is not None]


def split_rows(
    dataset: Dataset, split: str = "random", test_fraction: float = 0.2, seed: int = 0
) -> Split:
    """Return the training and test rows of a split by its name.

    Args:
        dataset: the ratings.
        split: `"random"`, `"user"`, `"time"` or one of `dataset.folds`.
        test_fraction: share of the test rows; a fold has its own. Defaults to 0.2.
        seed: seed of a random choice. Defaults to 0.

    Raises:
        DataError: if the data have no such fold or cannot be split so.
    """
    ratings = dataset.ratings
    if split == "random":
        return random_split(len(ratings), test_fraction=test_fraction, seed=seed)
    if split == "user":
        return user_split(ratings["user"], test_fraction=test_fraction, seed=seed)
    if split == "time":
        return time_split(ratings.get("timestamp"), test_fraction=test_fraction)
    if split not in dataset.folds:
        raise DataError(
            f"{dataset.name} has no fold {split!r}. It can be split by "
            f"{['random', 'user', 'time', *dataset.folds]}."
        )
    return dataset.folds[split]


def _require(table: pd.DataFrame, name: str, column: str) -> None:
    if column not in table:
        listed = ", ".join(repr(str(one)) for one in table.columns)
        raise DataError(f"`{name}` has no column {column!r}. Its columns: {listed}.")


def _without_missing(genres: pd.Series[Any]) -> pd.Series[Any]:
    known = genres.notna()
    if known.all():
        return genres
    return pd.Series(
        [cell if has else () for cell, has in zip(genres, known, strict=True)],
        dtype=object,
    )


def _canonical(column: pd.Series[Any]) -> tuple[str, list[bytes]]:
    if pd.api.types.is_integer_dtype(column):
        return "i8", [column.to_numpy().astype("<i8").tobytes()]
    if pd.api.types.is_float_dtype(column):
        return "f8", [column.to_numpy().astype("<f8").tobytes()]
    cells = [str(cell) for cell in column]
    lengths = np.fromiter(map(len, cells), dtype="<i8", count=len(cells))
    return "text", [lengths.tobytes(), "".join(cells).encode()]
