"""The items that lists are made of, by key, by title, by genre and year."""

import difflib
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers.data.encoder import as_text

_YEAR = re.compile(r"\s*\(\d{4}\)$")
_ARTICLE = re.compile(r"^(.*), (the|a|an)$")


class Catalogue:
    """The items of a run by position, and what is known of them.

    Args:
        keys: The items as text, by position.
        items: Optional table of items, a row each by `item`: `title`, `year`, `genres`
            and others. It may have more items than the catalogue has.

    Attributes:
        keys: `pd.Index` of the keys.
        table: A row a position: `item` and the columns of `items`, missing where that
            has no such item.
    """

    def __init__(self, keys: Sequence[str], items: pd.DataFrame | None = None) -> None:
        self.keys = pd.Index(list(keys), dtype=object)
        if items is None:
            items = pd.DataFrame({"item": []})
        self._all = items.set_index(items["item"].map(as_text)).drop(columns="item")
        self.table = self._all.reindex(self.keys).reset_index(names="item")

    def __len__(self) -> int:
        return len(self.keys)

    def describe(self, keys: Sequence[str]) -> pd.DataFrame:
        """Returns what is known of items, of the catalogue or not."""
        index = pd.Index(list(keys), dtype=object)
        return self._all.reindex(index).reset_index(names="item")

    def find(self, text: str) -> int:
        """Returns the position of the item that `text` names.

        In this order: an item's key; a title, with or without its year, capitals and
        "The" in front or behind being all one; the one title that begins so; the one
        title that has it somewhere.

        Raises:
            ValueError: If there is none, with the nearest titles, or several, with
                what they are.
        """
        if text in self.keys:
            return int(self.keys.get_indexer(pd.Index([text]))[0])
        wanted = text.casefold().strip()
        for matches in (
            lambda name: name == wanted,
            lambda name: name.startswith(wanted),
            lambda name: wanted in name,
        ):
            found = sorted({at for name, at in self._names if matches(name)})
            if len(found) == 1:
                return found[0]
            if found and wanted:
                raise ValueError(
                    f"{text!r} may be {len(found)} items: {self._listed(found)}. "
                    "Give the item's id."
                )
        raise ValueError(self._not_found(text))

    def name(self, position: int) -> str:
        """Returns an item's title, or its key where it has none."""
        row = self.table.iloc[position]
        titled = "title" in row and not pd.isna(row["title"])
        return str(row["title"] if titled else row["item"])

    def allowed(
        self,
        genres: Sequence[str] = (),
        years: tuple[float, float] | None = None,
    ) -> npt.NDArray[np.bool_]:
        """Tells of each item whether it has all the genres and is of these years.

        Args:
            genres: Names of genres, whatever their capitals. Defaults to none.
            years: Optional first and last year.

        Raises:
            ValueError: If no item has such a column, such a genre, or all of this.
        """
        allowed = np.ones(len(self), bool)
        if genres:
            cells = [self._genres(cell) for cell in self._column("genres")]
            known = {genre.casefold(): genre for cell in cells for genre in cell}
            for genre in genres:
                name = known.get(genre.casefold())
                if name is None:
                    raise ValueError(
                        f"There is no genre {genre!r} among the items. There are "
                        f"{', '.join(sorted(known.values()))}."
                    )
                allowed &= [name in cell for cell in cells]
        if years is not None:
            column = pd.to_numeric(self._column("year"), errors="coerce")
            found = column.to_numpy(np.float64, na_value=np.nan)
            allowed &= (found >= years[0]) & (found <= years[1])
        if not allowed.any():
            raise ValueError("No item is left: none has these genres in these years.")
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
                f"The items of this run have no column {name!r} to choose by. "
                f"They have {list(self.table.columns)}."
            )
        return self.table[name]

    def _genres(self, cell: object) -> set[str]:
        if isinstance(cell, (tuple, list)):
            return set(map(str, cell))
        return {name for name in str(cell).split("|") if name and cell == cell}

    def _listed(self, positions: Sequence[int], most: int = 5) -> str:
        rows = self.table.iloc[list(positions)[:most]]
        shown = [f"{row.title} (id {row.item})" for row in rows.itertuples()]
        left = len(positions) - len(shown)
        return ", ".join(shown) + (f" and {left} more" if left else "")

    def _not_found(self, text: str) -> str:
        outside = self._all[~self._all.index.isin(self.keys)]
        titles = outside.get("title", pd.Series(dtype=object)).map(str)
        is_it = (outside.index == text) | (titles.str.casefold() == text.casefold())
        if is_it.any():
            return (
                f"{text!r} has too few ratings in the training rows: the run knows "
                "no vector of it."
            )
        positions = dict(self._names)
        names = difflib.get_close_matches(text.casefold(), positions, n=5, cutoff=0.7)
        near = list(dict.fromkeys(positions[name] for name in names))[:3]
        if near:
            return f"There is no item {text!r}. Near it: {self._listed(near)}."
        examples = ", ".join(self.keys[:3])
        return (
            f"There is no item {text!r} by id or by title. Ids are such as {examples}."
        )


def _names_of(title: str) -> set[str]:
    """Returns by what a title may be called: "matrix, the (1999)" as "the matrix"."""
    whole = title.casefold()
    bare = _YEAR.sub("", whole)
    year = whole[len(bare) :]
    names = {whole, bare}
    moved = _ARTICLE.match(bare)
    if moved:
        turned = f"{moved[2]} {moved[1]}"
        names |= {turned, turned + year, moved[1]}
    return names
