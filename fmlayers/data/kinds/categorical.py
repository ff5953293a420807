from typing import Any

import numpy as np
import pandas as pd

from fmlayers.data.kinds.column import (
    MISSING,
    Array,
    ColumnEncoder,
    Options,
    ValueCounts,
)
from fmlayers.data.kinds.distinct_cells import DistinctCells, single_values
from fmlayers.data.kinds.stored_values import StoredValues
from fmlayers.data.kinds.vocabulary import (
    Counts,
    HashedValues,
    KnownValues,
    Vocabulary,
)
from fmlayers.features import Categorical, Feature


class CategoricalColumn(ColumnEncoder):
    """One value per row, encoded as an id.

    With a number N, the ids are hashes from 1 to N, and nothing is learned.
    """

    def __init__(self, name: str, options: Options, number: int | None = None) -> None:
        super().__init__(name, options, number)
        self._counts = Counts()
        self._vocabulary: Vocabulary | None = None
        if number is not None:
            self._vocabulary = HashedValues(number)

    @property
    def records(self) -> tuple[str, ...]:
        return ("vocabularies",) if self.number is None else ()

    @property
    def is_fitted(self) -> bool:
        return self._vocabulary is not None

    @property
    def vocabulary(self) -> Vocabulary:
        assert self._vocabulary is not None
        return self._vocabulary

    @property
    def feature(self) -> Feature:
        return Categorical(self.name, self.vocabulary.size + 1, mask_zero=True)

    def learn(self, *cells: "pd.Series[Any]") -> None:
        counts = self.counts(*cells)
        if counts is not None:
            self.add_counts(counts)

    def counts(self, *cells: "pd.Series[Any]") -> ValueCounts | None:
        return None if self.number is not None else self.cells(*cells).value_counts()

    def add_counts(self, counts: ValueCounts) -> None:
        self._counts.add(counts)

    def finish(self) -> None:
        if self.number is None:
            self._vocabulary = self._counts.vocabulary(self.options.min_count)
        self._counts = Counts()

    def transform(self, *cells: "pd.Series[Any]") -> dict[str, Array]:
        distinct = self.cells(*cells)
        ids = distinct.padded(self.vocabulary.ids(distinct.values), MISSING)
        return {self.name: ids[:, 0]}

    def cells(self, *cells: "pd.Series[Any]") -> DistinctCells:
        """Returns the distinct cells of the column."""
        return single_values(self.name, cells[0])

    def store(self, vocabulary: StoredValues) -> None:
        """Uses a vocabulary that is stored in a file."""
        self._vocabulary = vocabulary

    def record(self) -> dict[str, Any]:
        values = self.values()
        return {} if values is None else {"vocabularies": values}

    def digest_record(self) -> dict[str, Any]:
        known = self._vocabulary
        if isinstance(known, StoredValues):
            return {"vocabularies": known.digest()}
        return self.record()

    def facts(self) -> dict[str, Any]:
        return {"values": self.vocabulary.size} if self.number is None else {}

    def restore(self, record: dict[str, Any]) -> None:
        if self.number is None:
            values = record["vocabularies"]
            self._vocabulary = KnownValues.checked(self.name, values)

    def values(self) -> list[str] | None:
        return None if self._vocabulary is None else self._vocabulary.texts()

    def same_ids(self, other: ColumnEncoder) -> tuple[Array, Array]:
        if self.number is None or self.number != other.number:
            return super().same_ids(other)
        ids = np.arange(1, self.number + 1)
        return ids, ids
