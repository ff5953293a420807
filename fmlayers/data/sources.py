"""Loads ratings from any source, and infers the kinds of their columns."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from fmlayers._types import SYNTHETIC_CLICKS, OnDuplicate
from fmlayers.data.dataset import Dataset
from fmlayers.data.errors import DataError
from fmlayers.data.generated_clicks import clicks_of
from fmlayers.data.generated_ratings import synthetic
from fmlayers.data.kind_names import Kind
from fmlayers.data.kinds import kind_class
from fmlayers.data.kinds.inference import inferred_kind
from fmlayers.data.movielens import MARKERS, load_movielens
from fmlayers.data.parquet_files import parts_of
from fmlayers.data.ratings import read_ratings
from fmlayers.data.table_files import Source
from fmlayers.data.table_format import TABLE_SUFFIXES, TableFormat

# Nearly unique in their table: another identifier of the row, not a feature.
IDENTIFYING = ("title", "zip_code")
NO_KIND = "none"  # of a column to leave out


def load(
    source: Source,
    *,
    user: str = "user",
    item: str = "item",
    rating: str = "rating",
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
    """Loads ratings, labels or implicit feedback.

    Args:
        source: `"synthetic"` (see `synthetic`); `"synthetic-clicks"` or
            `"synthetic-clicks:rows=N,seed=N"` (see `synthetic_clicks`); a MovieLens
            folder, zip file or name (see `load_movielens`); or a CSV or Parquet file or
            a `DataFrame` (see `read_ratings`). The other arguments apply to these only.
        user: Name of the user column. Defaults to `"user"`.
        item: Name of the item column. Defaults to `"item"`.
        rating: Name of the rating column. Defaults to `"rating"`.
        timestamp: Optional name of the timestamp column. Defaults to `None`:
            `"timestamp"`, if there is such a column.
        weight: Optional name of the column with the weights of the rows. Defaults to
            `None`.
        separator: See `read_ratings`.
        on_duplicate: See `read_ratings`. Defaults to `"last"`.
        text_columns: See `read_ratings`. Defaults to `()`.
        numeric_columns: See `read_ratings`. Defaults to `()`.
        weighted_columns: See `read_ratings`. Defaults to `()`.
        is_label: See `read_ratings`. Defaults to `False`.
        positive_labels: See `read_ratings`. Defaults to `()`.
        needs_pairs: See `read_ratings`. Defaults to `True`.
        test: See `read_ratings`.
        validation: See `read_ratings`.
        users: See `read_ratings`.
        items: See `read_ratings`.
        user_key: See `read_ratings`.
        item_key: See `read_ratings`.
        table_format: See `read_ratings`. Defaults to `TableFormat()`.

    Returns:
        A `Dataset`.

    Raises:
        DataError: If the source cannot be read. The message names the file, line or
            column.
    """
    if isinstance(source, pd.DataFrame) or _is_file(source):
        return read_ratings(
            source,
            user=user,
            item=item,
            rating=rating,
            timestamp=timestamp,
            weight=weight,
            separator=separator,
            on_duplicate=on_duplicate,
            text_columns=text_columns,
            numeric_columns=numeric_columns,
            weighted_columns=weighted_columns,
            is_label=is_label,
            positive_labels=positive_labels,
            needs_pairs=needs_pairs,
            test=test,
            validation=validation,
            users=users,
            items=items,
            user_key=user_key,
            item_key=item_key,
            table_format=table_format,
        )
    names = ("test", "validation", "users", "items")
    for name, table in zip(names, (test, validation, users, items), strict=True):
        if table is not None:
            raise DataError(
                f"`{name}` must be left out for the source {source}: it is for CSV and "
                "Parquet files."
            )
    if _is_clicks(source):
        return clicks_of(str(source))
    return synthetic() if source == "synthetic" else load_movielens(source)


def _is_clicks(source: str | os.PathLike[str]) -> bool:
    return str(source).partition(":")[0] == SYNTHETIC_CLICKS


def _is_file(source: str | os.PathLike[str]) -> bool:
    """Returns whether a source is the file of a table."""
    path = Path(source)
    suffix = path.suffix.lower()
    if source == "synthetic" or _is_clicks(source):
        return False
    if suffix in TABLE_SUFFIXES or (path.is_file() and suffix != ".zip"):
        return True
    is_movielens = any((path / name).is_file() for name in MARKERS)
    return path.is_dir() and not is_movielens and bool(parts_of(path))


def infer_columns(
    dataset: Dataset,
    features: Sequence[str] | None = None,
    *,
    kinds: Sequence[str] | None = None,
    list_separator: str = "|",
    weights: Mapping[str, str] | None = None,
) -> dict[str, Kind]:
    """Infers the kinds of the columns of a dataset, for `Encoder`.

    A column of tuples, or of text in which enough cells contain `list_separator`, is
    multi-categorical; a column of tuples of pairs of a value and a number is weighted,
    and one of tuples of the same number of floats has vectors. Other text is
    categorical. Numbers are numeric, except for user, item and day, which are
    categorical.

    Args:
        dataset: A `Dataset`.
        features: Optional list of columns, each as `"name"` or `"name:kind"`. Defaults
            to user and item, if the dataset has them, and all side columns except
            titles, zip codes and weights.
        kinds: Optional list of kinds in place of the inferred ones, each as
            `"name:kind"`. The kind `"none"` leaves a column out. Other columns keep
            their kinds.
        list_separator: Text between the values of a list. Defaults to `"|"`.
        weights: Optional dict from the names of weighted columns to the columns with
            their weights.

    Returns:
        A dict from column name to kind.

    Raises:
        DataError: If the dataset lacks a column.
        ValueError: If a kind is unknown, or `features` contains the rating.
    """
    weights = weights or {}
    table = dataset.table()
    chosen = dict(_named("kinds", entry, table) for entry in kinds or ())
    if not all(chosen.values()):
        raise ValueError(
            '`kinds` must contain entries such as "price:log1p". Received: '
            f"kinds={kinds}."
        )
    if features is None:
        apart = {*IDENTIFYING, *weights.values()} - {*chosen}
        keys = [name for name in ("user", "item") if name in table]
        side = [name for name in dataset.side_columns if name not in apart]
        features = list(dict.fromkeys([*keys, *side, *chosen]))
    columns: dict[str, Kind] = {}
    for entry in features:
        name, requested = _named("features", entry, table)
        if name == "rating":
            raise ValueError(
                "`features` must not contain 'rating', which the model predicts. "
                f"Received: features={list(features)}."
            )
        if name == dataset.weight:
            raise ValueError(
                f"`features` must not contain {name!r}, the weights of the rows. "
                f"Received: features={list(features)}."
            )
        if name not in table:
            raise DataError(
                f"Feature {name!r} is not among the columns {list(table.columns)} of "
                f"{dataset.name}."
            )
        kind = requested or chosen.get(name)
        if kind is None and name in weights:
            kind = "weighted"
        columns[name] = kind or inferred_kind(table[name], list_separator)
    if absent := [name for name in chosen if name not in columns]:
        raise ValueError(
            f"`kinds` must name columns of the model, which are {list(columns)}. "
            f"Received: {absent}."
        )
    used = {name: kind for name, kind in columns.items() if kind != NO_KIND}
    if not used:
        raise ValueError(
            f"`kinds` must not leave out all columns. Received: kinds={kinds}."
        )
    return used


def _named(setting: str, entry: str, table: pd.DataFrame) -> tuple[str, Kind]:
    """Returns the name and the kind in an entry, `""` without one."""
    if entry in table:
        return entry, ""
    name, colon, kind = entry.rpartition(":")
    if not colon:
        return entry, ""
    if kind == NO_KIND and setting == "kinds":
        return name, kind
    try:
        kind_class(kind)
    except ValueError as error:
        raise ValueError(f"`{setting}` must be {error}. Received: {entry!r}.") from None
    return name, kind
