"""Columns of numbers, and what is learned from them."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import is_complex_dtype, is_numeric_dtype

from fmlayers.data.cells import as_number, refuse
from fmlayers.data.errors import DataError
from fmlayers.data.exact_sums import ExactSums, Floats

MAX_DISTINCT = 2_000_000  # numbers from which quantiles are computed exactly


def as_numbers(column: str, values: "pd.Series[Any]") -> Floats:
    """Returns a column as float64 numbers, with NaN for missing values."""
    if values.dtype.kind in "mM":
        raise DataError(
            f"Column {column!r} must contain numbers: convert the times to seconds or "
            "days."
        )
    if is_numeric_dtype(values) and not is_complex_dtype(values):
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        numbers = np.fromiter(map(as_number, values), np.float64, count=len(values))
    refuse(np.isinf(numbers), column, values, "must be a finite number or missing")
    return numbers


class Moments:
    """Mean and standard deviation of numbers that arrive in batches.

    They depend neither on the order of the numbers nor on the batches.
    """

    def __init__(self) -> None:
        self.sums = ExactSums()
        self.least, self.most = math.inf, -math.inf

    def add(self, numbers: Floats) -> None:
        known = numbers[~np.isnan(numbers)]
        if not known.size:
            return
        self.sums.add(known)
        self.least = min(self.least, float(known.min()))
        self.most = max(self.most, float(known.max()))

    def record(self) -> dict[str, Any]:
        """Returns the state as JSON content."""
        ends = [self.least.hex(), self.most.hex()]
        return {"sums": self.sums.record(), "ends": ends}

    def add_record(self, record: dict[str, Any]) -> None:
        """Adds the numbers of the record of another `Moments`."""
        self.sums.merge(ExactSums.restored(record["sums"]))
        least, most = map(float.fromhex, record["ends"])
        self.least, self.most = min(self.least, least), max(self.most, most)

    def scale(self) -> tuple[float, float]:
        """Returns mean and standard deviation, the latter 1 for constant values."""
        if not self.sums.count:
            return 0.0, 1.0
        if self.least == self.most:
            return self.least, 1.0
        deviation = self.sums.deviation
        # Of tiny numbers, the square underflows to 0.
        return self.sums.mean, deviation if deviation * deviation else 1.0


def counted(numbers: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Returns the distinct numbers in ascending order, and the count of each."""
    known, counts = np.unique(numbers[~np.isnan(numbers)], return_counts=True)
    return known, counts.astype(np.int64)


class Distribution:
    """The distinct numbers of batches and how often they occur.

    Above `limit` distinct numbers, every second number is merged into the next one, so
    that the memory is bounded and quantiles are approximate.

    Args:
        limit: Positive integer. Defaults to `MAX_DISTINCT`.
    """

    def __init__(self, limit: int = MAX_DISTINCT) -> None:
        self.limit = limit
        self.numbers: Floats = np.empty(0)
        self.counts: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def add(self, numbers: Floats) -> None:
        self.merge(*counted(numbers))

    def merge(self, known: Floats, counts: npt.NDArray[np.int64]) -> None:
        """Adds distinct numbers, with the number of rows of each."""
        merged, places = np.unique(
            np.concatenate([self.numbers, known]), return_inverse=True
        )
        self.counts = np.bincount(
            places, np.concatenate([self.counts, counts]), len(merged)
        ).astype(np.int64)
        self.numbers = merged
        while len(self.numbers) > self.limit:
            # From the end, so that the greatest number stays.
            starts = np.arange(len(self.numbers) % 2, len(self.numbers), 2)
            starts = np.union1d(0, starts)
            self.counts = np.add.reduceat(self.counts, starts)
            self.numbers = self.numbers[np.append(starts[1:], len(self.numbers)) - 1]

    def edges(self, bins: int) -> Floats:
        """Returns the edges between bins that have about the same number of rows.

        An edge is halfway between two neighboring numbers of the training rows, so that
        rounding a number to float32 rarely moves it into another bin. A number that
        occurs often has a bin for itself, and there are fewer bins.
        """
        if len(self.numbers) < 2:
            return np.empty(0)
        ends = np.cumsum(self.counts)
        targets = ends[-1] * np.arange(1, bins) / bins
        # The last number of each bin; the last bin must not be empty.
        last = np.unique(np.searchsorted(ends, targets))
        last = last[last < len(self.numbers) - 1]
        low, high = self.numbers[last], self.numbers[last + 1]
        middle: Floats = low / 2 + high / 2
        # Between two adjacent floats, there is none.
        return np.where(middle < high, middle, low)
