"""Sums of float64 numbers without rounding, in any order and in any parts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_LEAST_EXPONENT = -1073  # of `np.frexp`
_UNIT = 53 - _LEAST_EXPONENT  # each number is an integer times 2^-_UNIT
# A sum of this many 32-bit integers is exact in float64.
_BLOCK = 2**20


@dataclass
class ExactSums:
    """The count of numbers, their sum, and the sum of their squares, as integers.

    Merging the sums of several parts gives exactly the sums of all numbers.

    Attributes:
        count: Integer, the number of numbers.
        total: Integer, the sum in units of 2^-1126.
        squares: Integer, the sum of the squares in units of 2^-2252.
    """

    count: int = 0
    total: int = 0
    squares: int = 0

    def add(self, numbers: Floats) -> None:
        """Adds finite numbers of any shape."""
        flat = numbers.ravel()
        for start in range(0, flat.size, _BLOCK):
            self._add_block(flat[start : start + _BLOCK])
        self.count += flat.size

    def merge(self, other: ExactSums) -> None:
        """Adds the sums of other numbers."""
        self.count += other.count
        self.total += other.total
        self.squares += other.squares

    @property
    def mean(self) -> float:
        """The mean, rounded once."""
        return self.total / (self.count << _UNIT)

    @property
    def deviation(self) -> float:
        """The standard deviation, or 0 if it is below the smallest float."""
        spread = self.count * self.squares - self.total**2
        return _root(spread) / (self.count << _UNIT + _MORE_BITS)

    def root_mean_square(self, size: int) -> float:
        """Returns the root mean square of the norms of vectors of `size` numbers."""
        count = self.count // size
        return _root(count * self.squares) / (count << _UNIT + _MORE_BITS)

    def record(self) -> list[str]:
        """Returns the sums as text."""
        return [f"{x:x}" for x in (self.count, self.total, self.squares)]

    @classmethod
    def restored(cls, record: list[str]) -> ExactSums:
        """Returns the sums of a record."""
        return cls(*(int(x, 16) for x in record))

    def _add_block(self, numbers: Floats) -> None:
        fractions, exponents = np.frexp(numbers)
        integers = (fractions * 2.0**53).astype(np.int64)
        bins = exponents.astype(np.int64) - _LEAST_EXPONENT
        for power, value in _sums(bins, integers):
            self.total += value << power
        # The square of a 53-bit integer, computed from two halves within 64 bits.
        high, low = integers >> 27, integers & (2**27 - 1)
        for shift, products in ((54, high * high), (28, high * low), (0, low * low)):
            for power, value in _sums(bins, products):
                self.squares += value << (2 * power + shift)


_MORE_BITS = 64  # extra bits, so that a root is more precise than a float


def _root(value: int) -> int:
    return math.isqrt(value << 2 * _MORE_BITS)


def _sums(bins: Integers, integers: Integers) -> Iterator[tuple[int, int]]:
    """Yields the nonempty bins with the exact sums of their integers."""
    if not bins.size:
        return
    first = int(bins.min())
    high = np.bincount(bins - first, integers >> 32)
    low = np.bincount(bins - first, integers & (2**32 - 1))
    for i in np.flatnonzero((high != 0) | (low != 0)).tolist():
        yield first + i, (int(high[i]) << 32) + int(low[i])
