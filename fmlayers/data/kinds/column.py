"""What the encoders of all kinds of columns have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers.features import Feature

MISSING = 0  # id of a missing value: masked by `mask_zero`, and the padding of lists
UNKNOWN = -1  # id outside every vocabulary: handled by the layer's `out_of_range`

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int32]


class Options(NamedTuple):
    """The arguments of `Encoder` that apply to all columns.

    Attributes:
        min_count: Number of training rows that a value of a vocabulary needs.
        separator: String that separates the values of a text.
        weights: Dict from the names of weighted columns to those with their weights.
    """

    min_count: int
    separator: str
    weights: dict[str, str]


class ValueCounts(NamedTuple):
    """Values and the number of times that each occurs. Values may repeat.

    Attributes:
        values: The values, as texts for a vocabulary and numbers for quantiles.
        counts: The counts.
    """

    values: Sequence[str] | npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]


class ColumnEncoder(ABC):
    """Encodes a column, with what it learned from the training rows.

    `learn` is called for each part of the training rows, and `finish` at the end.
    `transform` and `feature` need a column that `is_fitted`.

    Args:
        name: Name of the column.
        options: The options.
        number: The number N of a kind such as `"hash=N"`, else `None`.

    Attributes:
        is_multiple: Whether a row has several ids.
        is_scaled: Whether the input consists of numbers without a vocabulary.
    """

    is_multiple: ClassVar[bool] = False
    is_scaled: ClassVar[bool] = False

    def __init__(self, name: str, options: Options, number: int | None = None) -> None:
        self.name = name
        self.options = options
        self.number = number

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a table that `learn` and `transform` take."""
        return (self.name,)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs that `transform` returns."""
        return (self.name,)

    @property
    @abstractmethod
    def records(self) -> tuple[str, ...]:
        """The names of the entries of a saved encoder with a record of the column."""

    @property
    @abstractmethod
    def is_fitted(self) -> bool:
        """Whether the column has learned from training rows, or needs none."""

    @property
    @abstractmethod
    def feature(self) -> Feature:
        """The feature that reads the inputs."""

    @abstractmethod
    def learn(self, *cells: "pd.Series[Any]") -> None:
        """Learns from a part of the training rows."""

    @abstractmethod
    def finish(self) -> None:
        """Ends the learning."""

    def counts(self, *cells: "pd.Series[Any]") -> ValueCounts | None:
        """Returns the counts of values in a part of the rows.

        Columns that are fitted to sums instead of counts return `None`.
        """
        return None

    def add_counts(self, counts: ValueCounts) -> None:
        """Adds counts that `counts` returned for some parts of the rows."""
        raise NotImplementedError

    def sums(self) -> Any:
        """Returns the sums so far as JSON content, or `None` if there are none."""
        return None

    def add_sums(self, sums: Any) -> None:
        """Adds the sums that `sums` returned for other rows."""
        raise NotImplementedError

    @abstractmethod
    def transform(self, *cells: "pd.Series[Any]") -> dict[str, Array]:
        """Returns the inputs of the model for the rows of a table."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Returns JSON content for each of the `records`."""

    def digest_record(self) -> dict[str, Any]:
        """Returns the record from which the digest of the encoder is computed."""
        return self.record()

    @abstractmethod
    def restore(self, record: dict[str, Any]) -> None:
        """Takes over what `record` returned.

        Raises:
            ValueError: If the record is invalid.
        """

    def values(self) -> list[str] | None:
        """Returns the text of the value of each id from 1, `None` without a list."""
        return None

    @property
    def scale(self) -> tuple[float, float] | None:
        """What is subtracted from numbers, and what they are divided by."""
        return None

    @property
    def size(self) -> int | None:
        """The length of vectors."""
        return None

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Returns what the model card of an export says about the column."""

    def examples(self) -> list[Any]:
        """Returns two cells, in the unit of the data, as an example."""
        return []

    def same_ids(self, other: "ColumnEncoder") -> tuple[Array, Array]:
        """Returns the ids from 1 of the values that both columns have, in each of them.

        Args:
            other: The encoder of the same column in another encoder.
        """
        values, others = self.values(), other.values()
        if values is None or others is None:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        places = pd.Index(others, dtype=object).get_indexer(
            pd.Index(values, dtype=object)
        )
        known = np.flatnonzero(places >= 0)
        return known + 1, places[known] + 1
