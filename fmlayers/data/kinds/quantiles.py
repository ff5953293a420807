import itertools
from typing import Any

import numpy as np
import pandas as pd

from fmlayers._checks import is_number
from fmlayers.data.exact_sums import Floats
from fmlayers.data.kinds.column import (
    MISSING,
    Array,
    ColumnEncoder,
    Options,
    ValueCounts,
)
from fmlayers.data.numbers import Distribution, as_numbers, counted
from fmlayers.features import Categorical, Feature


class QuantilesColumn(ColumnEncoder):
    """A number per row, encoded as the id of one of N bins.

    The bins have about the same number of training rows.
    """

    def __init__(self, name: str, options: Options, number: int | None = None) -> None:
        super().__init__(name, options, number)
        self._distribution = Distribution()
        self._edges: Floats | None = None

    @property
    def records(self) -> tuple[str, ...]:
        return ("edges",)

    @property
    def is_fitted(self) -> bool:
        return self._edges is not None

    @property
    def edges(self) -> Floats:
        """The numbers between the bins, in ascending order."""
        assert self._edges is not None
        return self._edges

    @property
    def feature(self) -> Feature:
        # The bins, and the id 0.
        return Categorical(self.name, len(self.edges) + 2, mask_zero=True)

    def learn(self, *cells: "pd.Series[Any]") -> None:
        self.add_counts(self.counts(*cells))

    def counts(self, *cells: "pd.Series[Any]") -> ValueCounts:
        return ValueCounts(*counted(as_numbers(self.name, cells[0])))

    def add_counts(self, counts: ValueCounts) -> None:
        numbers = np.asarray(counts.values, np.float64)
        self._distribution.merge(numbers, counts.counts)

    def finish(self) -> None:
        assert self.number is not None
        self._edges = self._distribution.edges(self.number)
        self._distribution = Distribution()

    def transform(self, *cells: "pd.Series[Any]") -> dict[str, Array]:
        numbers = as_numbers(self.name, cells[0])
        return {self.name: self._ids(numbers).astype(np.int32)}

    def record(self) -> dict[str, Any]:
        return {} if self._edges is None else {"edges": self._edges.tolist()}

    def facts(self) -> dict[str, Any]:
        return {"edges": self.edges.tolist()}

    def restore(self, record: dict[str, Any]) -> None:
        edges = record["edges"]
        is_list = isinstance(edges, list | tuple) and all(map(is_number, edges))
        if not is_list or (np.diff(edges) <= 0).any():
            raise ValueError(
                f"The edges of {self.name!r} must be finite, ascending numbers. "
                f"Received: {edges!r:.60}."
            )
        self._edges = np.array(edges, np.float64)

    def values(self) -> list[str] | None:
        """Returns the bins as intervals, which contain their upper ends."""
        ends = ["-inf", *(f"{edge:.6g}" for edge in self.edges), "inf"]
        last = len(ends) - 2
        return [
            f"({low}, {high}{')' if i == last else ']'}"
            for i, (low, high) in enumerate(itertools.pairwise(ends))
        ]

    def examples(self) -> list[Any]:
        middle = round(float(np.median(self.edges))) if len(self.edges) else 0
        return [middle, middle + 1]

    def same_ids(self, other: ColumnEncoder) -> tuple[Array, Array]:
        """Returns all bins, with those of the other encoder in which their middles are.

        The bins of the other encoder have other edges.
        """
        if not isinstance(other, QuantilesColumn):
            return super().same_ids(other)
        edges = self.edges
        # The outer bins are represented by their ends.
        ends = np.append(edges, np.inf) if len(edges) else np.zeros(1)
        starts = np.append(edges[:1], edges) if len(edges) else ends
        middles = np.where(np.isinf(ends), np.inf, starts / 2 + ends / 2)
        return np.arange(1, len(middles) + 1), other._ids(middles)

    def _ids(self, numbers: Floats) -> Array:
        ids = np.searchsorted(self.edges, numbers, side="left") + 1
        return np.where(np.isnan(numbers), MISSING, ids)
