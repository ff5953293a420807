from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers.data.errors import DataError
from fmlayers.data.splits import Split, random_split, time_split, user_split
from fmlayers.data.weights import check_weights

DAY_SECONDS = 86_400
RATING_COLUMNS = ("user", "item", "rating", "timestamp")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Ratings with the side tables of their users and items.

    All sources use the same column names. A table of labels or other numbers may have
    no users and items: its target is the column `rating`, too.

    Attributes:
        name: Name of the dataset, such as `"ml-1m"`.
        ratings: `DataFrame` with one row per rating: `user` and `item` if available,
            `rating`, `timestamp` (seconds since 1970, int64) if available, and further
            columns that describe the rating.
        users: `DataFrame` with one row per `user`: `age`, `sex`, `occupation` and
            `zip_code`, if available. `None` if the source has no table of users.
        items: `DataFrame` with one row per `item`: `title`, `year` (Int64) and
            `genres` (a tuple of strings, possibly empty), if available. `None` if the
            source has no table of items.
        folds: Dict from name to `Split`, the predefined splits of the source.
        parts: Dict from `"test"` and `"validation"` to their rows of `ratings`, int64,
            if they are in files or tables of their own.
        repairs: Tuple of sentences, one per correction that was made to the data, with
            the number of rows affected.
        place: Optional function from a position in `ratings` to the place of the row in
            its file, for error messages.
        weight: Optional name of the column of `ratings` with the weights of the rows,
            finite numbers of at least 0 that are not all 0. Defaults to `None`.

    Raises:
        DataError: If a table lacks its key column, has duplicate keys or none of the
            users or items of `ratings`, if two tables share a column name, or if the
            weights are invalid.
    """

    name: str
    ratings: pd.DataFrame
    users: pd.DataFrame | None = None
    items: pd.DataFrame | None = None
    folds: Mapping[str, Split] = field(default_factory=dict)
    repairs: tuple[str, ...] = ()
    parts: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    place: Callable[[int], str] | None = None
    weight: str | None = None

    def __post_init__(self) -> None:
        _require(self.ratings, "ratings", "rating")
        taken = set(map(str, self.ratings.columns))
        for key, table in self._side_tables():
            _require(self.ratings, "ratings", key)
            _require(table, f"{key}s", key)
            for name in RATING_COLUMNS:
                if name != key and name in table:
                    raise DataError(
                        f"`{key}s` must have no column {name!r}, which describes a "
                        "rating: rename it, or leave it out."
                    )
            if table[key].duplicated().any():
                twice = table[key][table[key].duplicated()].iloc[0]
                raise DataError(
                    f"`{key}s` must have one row per {key}. "
                    f"Received: more than one row of {key} {twice}."
                )
            if len(table) and not self.ratings[key].isin(table[key]).any():
                raise DataError(
                    f"`{key}s` must have rows of the {key}s in `ratings`. Check that "
                    f"both have the same type. Received: {table[key].dtype} and "
                    f"{self.ratings[key].dtype}."
                )
            names = set(map(str, table.columns)) - {key}
            if taken & names:
                raise DataError(
                    f"Column names must be unique across the tables. Column "
                    f"{min(taken & names)!r} of `{key}s` is in another table, too: "
                    "rename one of them."
                )
            taken |= names
        if self.weight is not None:
            check_weights(self.ratings, self.weight)

    @property
    def has_pairs(self) -> bool:
        """Whether each row has a user and an item."""
        return {"user", "item"} <= set(self.ratings.columns)

    @property
    def side_columns(self) -> tuple[str, ...]:
        """Columns of `table()` except user, item, rating, timestamp, day and weight."""
        names = [str(name) for name in self.ratings.columns]
        for key, table in self._side_tables():
            names += [str(name) for name in table.columns if name != key]
        left_out = (*RATING_COLUMNS, self.weight)
        return tuple(name for name in names if name not in left_out)

    @property
    def weights(self) -> npt.NDArray[np.float64] | None:
        """Array with the weight of each row, `None` if the rows have no weights."""
        if self.weight is None:
            return None
        return self.ratings[self.weight].to_numpy(np.float64)

    @property
    def rating_bounds(self) -> tuple[float, float]:
        """Tuple of the lowest and the highest rating."""
        ratings = self.ratings["rating"]
        return float(ratings.min()), float(ratings.max())

    def table(self) -> pd.DataFrame:
        """Joins the ratings with the side tables.

        Returns:
            A `DataFrame` of the ratings in their order, with a `RangeIndex`, and the
            columns of `users` and `items`. For a user or item without a row in its
            side table, these values are missing, and the genres empty. If there are
            timestamps, the column `day` counts the days since 1970.
        """
        parts = [self.ratings.reset_index(drop=True)]
        for key, table in self._side_tables():
            joined = table.set_index(key).reindex(self.ratings[key])
            parts.append(joined.reset_index(drop=True))
        table = pd.concat(parts, axis=1)
        if "timestamp" in table and "day" not in table:
            table["day"] = table["timestamp"] // DAY_SECONDS
        if self.items is not None and "genres" in self.items:
            table["genres"] = _without_missing(table["genres"])
        return table

    def place_of(self, column: str, row: int) -> str:
        """Returns the place of a cell of `table()`, for error messages."""
        place = f"{self.name}, row {row} of the ratings"
        if self.place is not None:
            place = self.place(row)
        for key, table in self._side_tables():
            if column in table:
                place += f", {key} {self.ratings[key].iloc[row]}"
        return place

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the ratings and their weights, in hexadecimal.

        These are user, item, rating, timestamp and the column of weights or, without
        users or items, all columns. The same ratings in the same order have the same
        fingerprint on every machine. The number 7 and the text "7" are different.
        """
        digest = hashlib.sha256()
        names = list(RATING_COLUMNS if self.has_pairs else self.ratings.columns)
        if self.has_pairs and self.weight is not None:
            names.append(self.weight)
        for name in names:
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
    """Splits a dataset into training and test rows.

    Test rows in a table of their own are the test rows of every split. Validation rows
    in a table of their own are training rows, held out by `dataset.parts`.

    Args:
        dataset: A `Dataset`.
        split: `"random"`, `"user"`, `"time"` (see `random_split`, `user_split` and
            `time_split`) or the name of one of `dataset.folds`. Defaults to
            `"random"`.
        test_fraction: Fraction of the rows to test on; ignored for a fold. Defaults to
            0.2.
        seed: Random seed. Defaults to 0.

    Returns:
        A `Split`.

    Raises:
        DataError: If the dataset has no such fold, or no timestamps to split by.
    """
    every = np.arange(len(dataset.ratings))
    test = dataset.parts.get("test")
    if test is not None:
        return Split(np.setdiff1d(every, test), test)
    validation = dataset.parts.get("validation")
    if validation is None:
        return _split_ratings(dataset, dataset.ratings, split, test_fraction, seed)
    rows = np.setdiff1d(every, validation)
    ratings = dataset.ratings.iloc[rows]
    train, test = _split_ratings(dataset, ratings, split, test_fraction, seed)
    return Split(np.concatenate([rows[train], validation]), rows[test])


def _split_ratings(
    dataset: Dataset,
    ratings: pd.DataFrame,
    split: str,
    test_fraction: float,
    seed: int,
) -> Split:
    if split == "random":
        return random_split(len(ratings), test_fraction=test_fraction, seed=seed)
    if split == "user":
        if "user" not in ratings:
            raise DataError(f"{dataset.name} has no users to split by.")
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
    cells = list(map(str, column.to_numpy(dtype=object)))  # faster than the column
    lengths = np.fromiter(map(len, cells), dtype="<i8", count=len(cells))
    return "text", [lengths.tobytes(), "".join(cells).encode()]
