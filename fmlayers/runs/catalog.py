import difflib
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers.data import Encoder
from fmlayers.data.cells import as_text

MAX_SHOWN = 5
_YEAR = re.compile(r"\s*\(\d{4}\)$")
_ARTICLE = re.compile(r"^(.*), (the|a|an)$")


class Catalog:
    """The items of a run, which can be looked up by id or title and filtered.

    Args:
        keys: Items as text. The position of an item is its index in `keys`.
        items: Optional table with one row per `item` and columns such as `title`,
            `year` and `genres`. It may contain items that are not in `keys`.
        list_separator: Text between the values of a list. Defaults to `"|"`.

    Attributes:
        keys: `pd.Index` of `keys`.
        table: Table with one row per position: `item` and the columns of `items`.
            Values are missing for an item that `items` does not contain.
    """

    def __init__(
        self,
        keys: Sequence[str],
        items: pd.DataFrame | None = None,
        *,
        list_separator: str = "|",
    ) -> None:
        self.list_separator = list_separator
        self.keys = pd.Index(list(keys), dtype=object)
        if items is None:
            items = pd.DataFrame({"item": []})
        self._all = items.set_index(items["item"].map(as_text)).drop(columns="item")
        self.table = self._all.reindex(self.keys).reset_index(names="item")

    @classmethod
    def of(cls, encoder: Encoder, items: pd.DataFrame | None) -> Self:
        """Returns the catalog of the items that a model can score.

        These are the items in the encoder's vocabulary or, if the encoder has no column
        `item`, all items of the table.

        Args:
            encoder: The encoder of the model.
            items: See `Catalog`.
        """
        if "item" in encoder.columns:
            if encoder.columns["item"] != "categorical":
                raise ValueError(
                    "The column item must be categorical to recommend items, since its "
                    "values are then known. Received: the kind "
                    f"{encoder.columns['item']!r}."
                )
            keys = encoder.vocabulary("item")
        else:
            keys = [] if items is None else list(items["item"].map(as_text))
        return cls(keys, items, list_separator=encoder.separator)

    def __len__(self) -> int:
        return len(self.keys)

    def encode(self, encoder: Encoder) -> dict[str, npt.NDArray[Any]]:
        """Returns the item inputs of a model, one row per position."""
        columns = [column for column in encoder.columns if column in self.table]
        return encoder.transform(self.table, columns)

    def describe(self, keys: Sequence[str]) -> pd.DataFrame:
        """Returns the rows of `items`, whether or not the catalog contains them."""
        index = pd.Index(list(keys), dtype=object)
        return self._all.reindex(index).reset_index(names="item")

    def find(self, text: str) -> int:
        """Returns the position of the item with an id or title.

        The first of these rules that any item satisfies applies:

        1. Its id equals `text`.
        2. Its title equals `text`, with or without the year.
        3. Its title begins with `text`.
        4. Its title contains `text`.

        Titles are compared without case, and "Matrix, The" equals "The Matrix".

        Raises:
            ValueError: If no item satisfies any rule, or several items satisfy the rule
                that applies.
        """
        if text in self.keys:
            return int(self.keys.get_indexer(pd.Index([text]))[0])
        wanted = text.casefold().strip()
        for matches in (
            lambda name: name == wanted,
            lambda name: name.startswith(wanted),
            lambda name: wanted in name,
        ):
            positions = sorted({at for name, at in self._names if matches(name)})
            if len(positions) == 1:
                return positions[0]
            if positions and wanted:
                raise ValueError(
                    f"{text!r} matches {len(positions)} items: "
                    f"{self._listed(positions)}. Use the id of the item."
                )
        raise ValueError(self._not_found(text))

    def name(self, position: int) -> str:
        """Returns the title of an item, or its id if it has no title."""
        row = self.table.iloc[position]
        titled = "title" in row and not pd.isna(row["title"])
        return str(row["title"] if titled else row["item"])

    def allowed(
        self,
        genres: Sequence[str] = (),
        years: tuple[float, float] | None = None,
    ) -> npt.NDArray[np.bool_]:
        """Returns which items have all of `genres` and a year within `years`.

        Args:
            genres: Names of genres, case-insensitive. Defaults to `()` (no
                restriction).
            years: Optional first and last year, both included.

        Returns:
            Booleans `(items,)`.

        Raises:
            ValueError: If the items have no column to filter by, no item has one of the
                genres, or no item satisfies all conditions.
        """
        allowed = np.ones(len(self), bool)
        if genres:
            cells = [self._genres(cell) for cell in self._column("genres")]
            known = {genre.casefold(): genre for cell in cells for genre in cell}
            for genre in genres:
                name = known.get(genre.casefold())
                if name is None:
                    raise ValueError(
                        f"There is no genre {genre!r}. The genres of the items are "
                        f"{', '.join(sorted(known.values()))}."
                    )
                allowed &= [name in cell for cell in cells]
        if years is not None:
            column = pd.to_numeric(self._column("year"), errors="coerce")
            values = column.to_numpy(np.float64, na_value=np.nan)
            allowed &= (values >= years[0]) & (values <= years[1])
        if not allowed.any():
            raise ValueError("No item has all of these genres and one of these years.")
        return allowed

    @cached_property
    def _names(self) -> list[tuple[str, int]]:
        if "title" not in self.table:
            return []
        return [
            (name, position)
            for position, title in enumerate(self.table["title"])
            if not pd.isna(title)
            for name in _names_of(str(title))
        ]

    def _column(self, name: str) -> "pd.Series[Any]":
        if name not in self.table:
            raise ValueError(
                f"The items of this run have no column {name!r} to filter by. "
                f"They have {list(self.table.columns)}."
            )
        return self.table[name]

    def _genres(self, cell: object) -> set[str]:
        if isinstance(cell, (tuple, list)):
            return set(map(str, cell))
        names = str(cell).split(self.list_separator)
        return {name for name in names if name and cell == cell}

    def _listed(self, positions: Sequence[int]) -> str:
        rows = self.table.iloc[list(positions)[:MAX_SHOWN]]
        shown = [f"{row.title} (id {row.item})" for row in rows.itertuples()]
        others = len(positions) - len(shown)
        return ", ".join(shown) + (f" and {others} more" if others else "")

    def _not_found(self, text: str) -> str:
        outside = self._all[~self._all.index.isin(self.keys)]
        titles = outside.get("title", pd.Series(dtype=object)).map(str)
        is_match = (outside.index == text) | (titles.str.casefold() == text.casefold())
        if is_match.any():
            return (
                f"{text!r} has too few ratings in the training rows: the model has no "
                "embedding for it."
            )
        positions = dict(self._names)
        names = difflib.get_close_matches(text.casefold(), positions, n=5, cutoff=0.7)
        near = list(dict.fromkeys(positions[name] for name in names))[:3]
        if near:
            return f"There is no item {text!r}. Similar titles: {self._listed(near)}."
        examples = ", ".join(self.keys[:3])
        return (
            f"There is no item {text!r} among the ids and titles. Examples of ids: "
            f"{examples}."
        )


def _names_of(title: str) -> set[str]:
    """Returns the names that match a title: "the matrix" for "matrix, the (1999)"."""
    whole = title.casefold()
    bare = _YEAR.sub("", whole)
    year = whole[len(bare) :]
    names = {whole, bare}
    moved = _ARTICLE.match(bare)
    if moved:
        natural = f"{moved[2]} {moved[1]}"
        names |= {natural, natural + year, moved[1]}
    return names
