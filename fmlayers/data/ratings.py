"""Reading of ratings, labels and implicit feedback from a file."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pandas as pd

from fmlayers._checks import choice
from fmlayers._types import OnDuplicate
from fmlayers.data.column_values import (
    feature,
    identifiers,
    labels,
    missing_sentence,
    numbers,
    seconds,
)
from fmlayers.data.dataset import RATING_COLUMNS, Dataset
from fmlayers.data.errors import DataError
from fmlayers.data.parts import TRAINING, Changed, Parts, joined
from fmlayers.data.side_tables import with_side_table
from fmlayers.data.table_files import Source, TableFile
from fmlayers.data.table_format import TableFormat

_ROW = "\0row"  # a column of the rows in the files, which no file can have
# Names of `DataFrame`s in error messages.
NAMES = {TRAINING: "ratings", "validation": "validation", "test": "test"}


def read_ratings(
    path: Source,
    *,
    user: str = "user",
    item: str = "item",
    rating: str | None = "rating",
    timestamp: str | None = None,
    weight: str | None = None,
    separator: str | None = None,
    on_duplicate: OnDuplicate = "last",
    text_columns: Collection[str] = (),
    numeric_columns: Collection[str] = (),
    weighted_columns: Collection[str] = (),
    is_label: bool = False,
    positive_labels: Collection[str] = (),
    needs_pairs: bool = True,
    test: Source | None = None,
    validation: Source | None = None,
    users: Source | None = None,
    items: Source | None = None,
    user_key: str | None = None,
    item_key: str | None = None,
    table_format: TableFormat | None = None,
) -> Dataset:
    """Reads ratings, labels or implicit feedback from a CSV or Parquet file.

    A CSV file is UTF-8 with a header unless `table_format` says otherwise, and may be
    compressed with gzip, bzip2, xz or Zstandard. Parquet files, folders of them, and
    files of libsvm, libFM and libFFM are recognized by their contents. The users and
    items of a CSV file are read as text, unchanged: `007` is different from `7`, and
    `NA` is a valid name. Empty cells are missing values. A `DataFrame` is read like a
    file, but its texts stay texts.

    Args:
        path: Path of the file, or a `DataFrame`.
        user: Name of the user column. Defaults to `"user"`.
        item: Name of the item column. Defaults to `"item"`.
        rating: Name of the rating column, or `None` for implicit feedback, where all
            ratings are 1. Defaults to `"rating"`.
        timestamp: Optional name of the timestamp column, in seconds since 1970 or ISO
            8601 (UTC if there is no time zone). Defaults to `None`: `"timestamp"`, if
            there is such a column.
        weight: Optional name of the column with the weights of the rows, finite numbers
            of at least 0. Defaults to `None`.
        separator: Optional delimiter of a CSV file, instead of that of `table_format`.
        on_duplicate: What to do with rows of the same user and item. `"keep"` keeps
            them; `"last"` keeps the latest row (the last one in the file if there are
            no timestamps); `"mean"`, `"sum"` and `"count"` do so, too, and replace its
            rating by that of all rows; `"error"` raises an error. `repairs` reports the
            number of rows. Defaults to `"last"`.
        text_columns: Names of further columns to read as text even if all their cells
            are numbers. Defaults to `()`.
        numeric_columns: Names of further columns that must be numbers. Any other cell,
            except for missing values, raises an error. Defaults to `()`.
        weighted_columns: Names of columns of a sparse file whose values keep their
            weights even if these are all 1. Defaults to `()`.
        is_label: Whether the rating column is a label, which must have two values,
            numbers or texts. The greater one becomes 1 and the other one 0. Defaults to
            `False`.
        positive_labels: Values of a label that count as 1. All others then count as 0.
            Defaults to `()`.
        needs_pairs: Whether the columns of users and items must be there even if they
            have their default names. Defaults to `True`.
        test: Optional file or `DataFrame` of the test rows, with the same columns. They
            follow the other rows, and `parts` of the dataset has their positions.
            Labels mean the same as in the training rows, repeated rows are merged
            within a file, and a column of numbers must have numbers in all files.
        validation: Optional file or `DataFrame` of the rows that are held out for early
            stopping; see `test`.
        users: Optional file or `DataFrame` with a row per user.
        items: Optional file or `DataFrame` with a row per item.
        user_key: Optional name of the column of the users in `users`. Defaults to
            `user`, or `"user"` if there is no such column.
        item_key: Optional name of the column of the items in `items`. Defaults to
            `item`, or `"item"` if there is no such column.
        table_format: Optional `TableFormat` of all files, of which `columns` applies to
            files of ratings. Defaults to `TableFormat()`.

    Returns:
        A `Dataset` named after the file. Other columns of the file are kept: as numbers
        if all their cells are numbers, as text otherwise.

    Raises:
        DataError: If the file cannot be used. The message names the line or column.
    """
    choice("on_duplicate", on_duplicate, get_args(OnDuplicate))
    table_format = TableFormat.of(table_format, separator)
    files = {TRAINING: path, "validation": validation, "test": test}
    wanted_columns = {user, item, *text_columns, *weighted_columns}
    sources: dict[str, TableFile] = {}
    for part, file in files.items():
        if file is not None:
            sources[part] = TableFile.read(
                file, table_format, NAMES[part], wanted=wanted_columns
            )
            if sources[part].is_sparse:
                wanted_columns |= set(map(str, sources[part].frame))
    parts = Parts.of(sources)
    frame, place = joined(sources, (user, item))
    source = replace(sources[TRAINING], frame=frame, place=place)
    num_training = parts.sizes[TRAINING]
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
        key: identifiers(source, columns[key], key)
        for key in ("user", "item")
        if key in columns
    }
    contents["rating"] = np.ones(len(source.frame))
    repairs = source.remarks
    if rating is not None and is_label:
        contents["rating"], remarks = labels(
            source, rating, num_training, positive_labels
        )
        repairs += remarks
    elif rating is not None:
        contents["rating"] = numbers(source, rating)
    if timestamp is not None:
        contents["timestamp"] = seconds(source, timestamp)
    if weight is not None:
        contents[weight] = numbers(source, weight, "weight", least=0.0)
    missing = {}
    for name in map(str, source.frame):
        if name not in columns.values():
            contents[name], missing[name] = feature(
                source,
                name,
                text=name in text_columns,
                number=name in numeric_columns,
                weighted=name in weighted_columns,
            )
            if len(sources) > 1 and name not in text_columns:
                _check_kind(source, contents[name], num_training)
    ratings = pd.DataFrame(contents)
    repairs += missing_sentence(source.name, missing)

    def merge(rows: pd.DataFrame, name: str, start: int) -> Changed:
        if on_duplicate == "error":
            _refuse_duplicates(source, rows, start)
        return merge_duplicates(rows, name, on_duplicate)

    ratings[_ROW] = np.arange(len(ratings))
    if {"user", "item"} <= columns.keys():
        ratings, parts, sentences = parts.mapped(ratings, merge)
        repairs += sentences
    rows = ratings.pop(_ROW).to_numpy()
    dataset = Dataset(
        name=source.name.split(".")[0],
        ratings=ratings,
        repairs=repairs,
        parts=parts.held_out(),
        place=lambda row: source.place(int(rows[row])),
        weight=weight,
    )
    for role, file, key in (
        ("user", users, user_key or user),
        ("item", items, item_key or item),
    ):
        if file is not None:
            # Names of columns are those of the ratings.
            side = replace(table_format, columns=None)
            table = TableFile.read(file, side, f"{role}s")
            dataset = with_side_table(
                dataset, role, table, key, text_columns, numeric_columns
            )
    return dataset


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


def _check_columns(source: TableFile, columns: dict[str, str]) -> None:
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


def _check_kind(source: TableFile, column: pd.Series[Any], num_training: int) -> None:
    """Checks that a column of numbers in the training rows has numbers in all rows."""
    if pd.api.types.is_numeric_dtype(column):
        return
    training = replace(source, frame=source.frame.iloc[:num_training])
    alone, _ = feature(training, str(column.name))
    if pd.api.types.is_numeric_dtype(alone) and alone.notna().any():
        feature(source, str(column.name), number=True)


def _refuse_duplicates(source: TableFile, ratings: pd.DataFrame, start: int) -> None:
    pairs = ratings[["user", "item"]]
    repeated = pairs.duplicated().to_numpy()
    if repeated.any():
        row = int(repeated.argmax())
        user, item = pairs.iloc[row]
        first = int((pairs == [user, item]).all(axis=1).to_numpy().argmax())
        raise DataError(
            f"{source.place(start + row)}: user {user} has already rated item {item}, "
            f"at {source.place(start + first)}"
        )
