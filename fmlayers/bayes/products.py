from typing import NamedTuple

import numpy as np
from keras import ops

from fmlayers._backend import sum_rows
from fmlayers._types import Tensor
from fmlayers.bayes.designs import Design, Floats, Ids

# A design with few zeros is a dense matrix, whose products are faster.
MAX_CELLS, MAX_CELLS_PER_ENTRY = 2**25, 12


class _Sparse(NamedTuple):
    """A sparse matrix: its entries by row, and a factor of each row and column."""

    owners: Tensor
    others: Tensor
    before: Tensor | None
    entries: Tensor | None
    after: Tensor | None

    def times(self, x: Tensor, rows: int) -> Tensor:
        x = x if self.before is None else self.before * x
        y = sum_rows(x, self.others, self.owners, rows, weights=self.entries)
        return y if self.after is None else self.after * y


class _Dense(NamedTuple):
    matrix: Tensor

    def times(self, x: Tensor, rows: int) -> Tensor:
        return ops.matmul(self.matrix, x)


class Products(NamedTuple):
    """A design Z as the tensors that its products with matrices read.

    It is a nested tuple, so that compiled functions take it as an argument.

    Attributes:
        z: The design.
        transposed: Z'.
        squared: Z', with squared entries.
    """

    z: _Dense | _Sparse
    transposed: _Dense | _Sparse
    squared: _Dense | _Sparse

    @classmethod
    def of(cls, design: Design) -> "Products":
        """Returns the products of a design."""
        rows, columns = design.num_rows, design.num_columns
        if rows * columns <= min(MAX_CELLS, MAX_CELLS_PER_ENTRY * len(design.values)):
            z = design.dense()
            return cls(*(_Dense(_tensor(each)) for each in (z, z.T, z.T**2)))
        owners, others, values = design.owners, design.columns, design.values
        factors, entries = _factors(owners, values, rows)
        order = np.argsort(others, kind="stable")
        turned = others[order], owners[order]
        squares = None if entries is None else entries[order] ** 2
        return cls(
            _sparse(owners, others, entries=entries, after=factors),
            _sparse(
                *turned,
                before=factors,
                entries=None if entries is None else entries[order],
            ),
            _sparse(
                *turned,
                before=None if factors is None else factors**2,
                entries=squares,
            ),
        )

    def forth(self, x: Tensor, rows: int) -> Tensor:
        """Returns Z @ x, `(rows, n)`, for a tensor x `(columns, n)`."""
        return self.z.times(x, rows)

    def back(self, x: Tensor, columns: int) -> Tensor:
        """Returns Z' @ x, `(columns, n)`, for a tensor x `(rows, n)`."""
        return self.transposed.times(x, columns)

    def back_squared(self, x: Tensor, columns: int) -> Tensor:
        """Returns the product as `back`, with the squared entries of Z."""
        return self.squared.times(x, columns)


def _factors(
    owners: Ids, values: Floats, rows: int
) -> tuple[Floats | None, Floats | None]:
    """Returns the values as factors of the rows, or else as those of the entries."""
    if (values == 1.0).all():
        return None, None
    factors = np.zeros(rows, np.float32)
    factors[owners] = values
    if np.array_equal(factors[owners], values):
        return factors, None
    return None, values


def _sparse(
    owners: Ids,
    others: Ids,
    *,
    before: Floats | None = None,
    entries: Floats | None = None,
    after: Floats | None = None,
) -> _Sparse:
    factors = [
        None if x is None else _tensor(x[:, np.newaxis])
        for x in (before, entries, after)
    ]
    ids = (ops.convert_to_tensor(x, "int32") for x in (owners, others))
    return _Sparse(*ids, *factors)


def _tensor(x: Floats) -> Tensor:
    return ops.convert_to_tensor(np.ascontiguousarray(x), "float32")
