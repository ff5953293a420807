"""From the texts of values to ids: the values of the training rows, or hashes."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from fmlayers.data.kinds.column import MISSING, UNKNOWN, Ids, ValueCounts
from fmlayers.data.siphash import siphash


class Vocabulary(Protocol):
    """Ids of texts, from 1 to `size`."""

    @property
    def size(self) -> int:
        """The greatest id."""

    def ids(self, texts: Sequence[str]) -> Ids:
        """Returns the id of each text."""

    def texts(self) -> list[str] | None:
        """Returns the text of each id from 1, or `None` if there is no list."""


class KnownValues:
    """The values of the training rows, in order of descending frequency.

    Args:
        values: The values; the first has the id 1.
    """

    def __init__(self, values: Sequence[str]) -> None:
        self.values = pd.Index(list(values), dtype=object)

    @property
    def size(self) -> int:
        return len(self.values)

    def ids(self, texts: Sequence[str]) -> Ids:
        index = self.values.get_indexer(pd.Index(texts, dtype=object))
        return np.where(index >= 0, index + 1, UNKNOWN).astype(np.int32)

    def texts(self) -> list[str]:
        return list(self.values)

    @classmethod
    def checked(cls, column: str, values: Any) -> "KnownValues":
        """Returns the vocabulary of a record.

        Raises:
            ValueError: If the record is not a list of different texts.
        """
        is_list = isinstance(values, list | tuple)
        if not is_list or not all(isinstance(value, str) for value in values):
            raise ValueError(f"The vocabulary of {column!r} must be a list of text.")
        known = cls(values)
        if not known.values.is_unique:
            twice = known.values[known.values.duplicated()][0]
            raise ValueError(f"The vocabulary of {column!r} has {twice!r} twice.")
        return known


class HashedValues:
    """The hashes of all texts, modulo a number of buckets. The empty text is missing.

    Args:
        buckets: Positive integer.
    """

    def __init__(self, buckets: int) -> None:
        self.size = buckets

    def ids(self, texts: Sequence[str]) -> Ids:
        ids = (siphash(texts) % np.uint64(self.size)).astype(np.int32) + 1
        ids[np.fromiter((not text for text in texts), bool, count=len(texts))] = MISSING
        return ids

    def texts(self) -> None:
        return None


class Counts:
    """Counts of the values of rows that arrive in batches."""

    def __init__(self) -> None:
        self.counts: dict[Any, int] = {}

    def add(self, counts: ValueCounts) -> None:
        known = self.counts
        for value, count in zip(counts.values, counts.counts.tolist(), strict=True):
            known[value] = known.get(value, 0) + count

    def vocabulary(self, min_count: int) -> KnownValues:
        """Returns the values that occur at least `min_count` times."""
        kept = [(-n, value) for value, n in self.counts.items() if n >= min_count]
        return KnownValues([value for _, value in sorted(kept)])
