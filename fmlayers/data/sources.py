"""Loads ratings from any source, and infers the kinds of their columns."""

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fmlayers._types import OnDuplicate
from fmlayers.data.dataset import Dataset
from fmlayers.data.errors import DataError
from fmlayers.data.kinds import Kind, kind_class
from fmlayers.data.movielens import load_movielens
from fmlayers.data.ratings import read_ratings
from fmlayers.data.synthetic import synthetic
from fmlayers.data.table_format import TableFormat
from fmlayers.data.weighted import is_pair

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".gz")
# Nearly unique in their table: another identifier of the row, not a feature.
IDENTIFYING = ("title", "zip_code")


def load(
    source: str,
    *,
    user: str = "user",
    item: str = "item",
    rating: str = "rating",
    timestamp: str | None = None,
    separator: str | None = None,
    on_duplicate: OnDuplicate = "last",
    text_columns: Collection[str] = (),
    numeric_columns: Collection[str] = (),
    is_label: bool = False,
    needs_pairs: bool = True,
    table_format: TableFormat | None = None,
) -> Dataset:
    """Loads ratings, labels or implicit feedback.

    Args:
        source: `"synthetic"` (see `synthetic`); a MovieLens folder, zip file or name
            (see `load_movielens`); or a CSV or Parquet file (see `read_ratings`). The
            other arguments apply to CSV and Parquet files only.
        user: Name of the user column. Defaults to `"user"`.
        item: Name of the item column. Defaults to `"item"`.
        rating: Name of the rating column. Defaults to `"rating"`.
        timestamp: Optional name of the timestamp column. Defaults to `None`:
            `"timestamp"`, if there is such a column.
        separator: See `read_ratings`.
        on_duplicate: See `read_ratings`. Defaults to `"last"`.
        text_columns: See `read_ratings`. Defaults to `()`.
        numeric_columns: See `read_ratings`. Defaults to `()`.
        is_label: See `read_ratings`. Defaults to `False`.
        needs_pairs: See `read_ratings`. Defaults to `True`.
        table_format: See `read_ratings`. Defaults to `TableFormat()`.

    Returns:
        A `Dataset`.

    Raises:
        DataError: If the source cannot be read. The message names the file, line or
            column.
    """
    if source == "synthetic":
        return synthetic()
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix in TABLE_SUFFIXES or (path.is_file() and suffix != ".zip"):
        return read_ratings(
            source,
            user=user,
            item=item,
            rating=rating,
            timestamp=timestamp,
            separator=separator,
            on_duplicate=on_duplicate,
            text_columns=text_columns,
            numeric_columns=numeric_columns,
            is_label=is_label,
            needs_pairs=needs_pairs,
            table_format=table_format,
        )
    return load_movielens(source)


def infer_columns(
    dataset: Dataset,
    features: Sequence[str] | None = None,
    *,
    list_separator: str = "|",
    weights: Mapping[str, str] | None = None,
) -> dict[str, Kind]:
    """Infers the kinds of the columns of a dataset, for `Encoder`.

    A column of tuples, or of text that contains `list_separator`, is multi-categorical;
    a column of tuples of pairs of a value and a number is weighted, and one of tuples
    of the same number of floats has vectors. Other text is categorical.
    Numbers are numeric, except for user, item and day, which are categorical.

    Args:
        dataset: A `Dataset`.
        features: Optional list of columns, each as `"name"` or `"name:kind"`. Defaults
            to user and item, if the dataset has them, and all side columns except
            titles, zip codes and weights.
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
    apart = {*IDENTIFYING, *weights.values()}
    side = [name for name in dataset.side_columns if name not in apart]
    table = dataset.table()
    keys = [name for name in ("user", "item") if name in table]
    wanted = [*keys, *side] if features is None else list(features)
    columns: dict[str, Kind] = {}
    for entry in wanted:
        name, _, requested = entry.partition(":")
        if name == "rating":
            raise ValueError(
                "`features` must not contain 'rating', which the model predicts. "
                f"Received: features={wanted}."
            )
        if name not in table:
            raise DataError(
                f"Feature {name!r} is not among the columns {list(table.columns)} of "
                f"{dataset.name}."
            )
        if requested:
            try:
                kind_class(requested)
            except ValueError as error:
                raise ValueError(
                    f"`features` must be {error}. Received: {entry!r}."
                ) from None
        inferred = (
            "weighted" if name in weights else _kind(table[name], list_separator)
        )
        columns[name] = requested or inferred
    return columns


def _kind(column: "pd.Series[Any]", list_separator: str) -> Kind:
    if column.name in ("user", "item", "day"):
        return "categorical"
    if pd.api.types.is_numeric_dtype(column) and column.dtype != bool:
        return "numeric"
    cells = column.dropna().unique()
    lists = [cell for cell in cells if isinstance(cell, tuple)]
    sizes = {len(cell) for cell in lists}
    are_floats = all(
        isinstance(x, (float, np.floating)) for cell in lists for x in cell
    )
    if len(sizes) == 1 and 0 not in sizes and len(lists) == len(cells) and are_floats:
        return "vector"
    if lists and all(map(is_pair, chain.from_iterable(lists))) and any(lists):
        return "weighted"
    if any(isinstance(cell, tuple) or list_separator in str(cell) for cell in cells):
        return "multi_categorical"
    return "categorical"
