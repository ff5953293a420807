"""One door for every source of ratings, and what its columns are good for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from fmlayers.data.dataset import Dataset
from fmlayers.data.encoder import Kind
from fmlayers.data.errors import DataError
from fmlayers.data.movielens import load_movielens
from fmlayers.data.synthetic import synthetic
from fmlayers.data.tables import read_ratings

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".gz")
# Nearly a value a row of its table: an id under another name, not a feature.
IDENTIFYING = ("title", "zip_code")


def load(
    source: str,
    *,
    user: str = "user",
    item: str = "item",
    rating: str = "rating",
    timestamp: str | None = None,
    separator: str = ",",
) -> Dataset:
    """Reads the ratings of `source`.

    Args:
        source: `"synthetic"`; a MovieLens folder, zip or name (see
            `load_movielens`); or a CSV or Parquet file (see `read_ratings`).
        user: Name of a table's column of users. Defaults to `"user"`.
        item: Name of a table's column of items. Defaults to `"item"`.
        rating: Name of a table's column of ratings. Defaults to `"rating"`.
        timestamp: Optional name of a table's column of times.
        separator: String between the fields of a CSV. Defaults to `","`.

    Raises:
        DataError: Naming the file, the line or the column that is wrong.
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
        )
    return load_movielens(source)


def infer_columns(
    dataset: Dataset, features: Sequence[str] | None = None
) -> dict[str, Kind]:
    """Returns the kinds of the columns to encode.

    A column whose cells are lists, or text with `|` in it, is multi-categorical;
    other text is categorical; numbers are numeric, except user, item and day.

    Args:
        dataset: The ratings with their side tables.
        features: Optional names, each alone or as `"name:kind"`. By default user,
            item and all side columns but titles and zip codes.

    Raises:
        DataError: If a column is not there.
        ValueError: If a kind is unknown.
    """
    side = [name for name in dataset.side_columns if name not in IDENTIFYING]
    wanted = ["user", "item", *side] if features is None else list(features)
    table = dataset.table()
    columns: dict[str, Kind] = {}
    for entry in wanted:
        name, _, given = entry.partition(":")
        if name == "rating":
            raise ValueError(
                "`features` must not hold 'rating', which the model is to predict. "
                f"Received: features={wanted}."
            )
        if name not in table:
            raise DataError(
                f"Feature {name!r} is not among the columns {list(table.columns)} of "
                f"{dataset.name}."
            )
        kind = _kind(name, table[name])
        for known in get_args(Kind):
            if given == known:
                kind = known
        if given and given != kind:
            raise ValueError(
                f"`features` may have the kinds {get_args(Kind)}. Received: {entry!r}."
            )
        columns[name] = kind
    return columns


def _kind(name: str, column: "pd.Series[Any]") -> Kind:
    if name in ("user", "item", "day"):
        return "categorical"
    if pd.api.types.is_numeric_dtype(column) and column.dtype != bool:
        return "numeric"
    cells = column.dropna().unique()
    if any(isinstance(cell, tuple) or "|" in str(cell) for cell in cells):
        return "multi_categorical"
    return "categorical"
