from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._backend import sum_spans
from fmlayers._types import Tensor
from fmlayers.bayes.designs import Design, Floats, Ids

# A design with few zeros is a dense matrix: its products are several times as fast.
MAX_CELLS, MAX_CELLS_PER_ENTRY = 2**25, 50


class Products:
    """The products of a design, Z, and of its transpose with matrices.

    Args:
        design: The `Design`.

    Attributes:
        forth: Function that returns Z @ x for a tensor x of shape `(columns, n)`.
        back: Function that returns Z' @ x for a tensor x of shape `(rows, n)`.
    """

    def __init__(self, design: Design) -> None:
        self._design = design
        rows, columns = design.num_rows, design.num_columns
        if rows * columns <= min(MAX_CELLS, MAX_CELLS_PER_ENTRY * len(design.values)):
            dense = design.dense()
            self.forth = _dense_product(dense)
            self.back = _dense_product(dense.T)
        else:
            order = np.argsort(design.columns, kind="stable")
            owners, others = design.owners, design.columns
            self.forth = _sparse_product(owners, others, design.values, rows)
            self.back = _sparse_product(
                others[order], owners[order], design.values[order], columns
            )

    @cached_property
    def squared(self) -> "Products":
        """The products of the design with squared entries."""
        return Products(replace(self._design, values=self._design.values**2))


def _dense_product(matrix: npt.NDArray[np.float32]) -> Callable[[Tensor], Tensor]:
    z = ops.convert_to_tensor(np.ascontiguousarray(matrix))
    return lambda x: ops.matmul(z, x)


def _sparse_product(
    owners: Ids, others: Ids, values: Floats, rows: int
) -> Callable[[Tensor], Tensor]:
    owner = ops.convert_to_tensor(owners, "int32")
    other = ops.convert_to_tensor(others, "int32")
    value = ops.convert_to_tensor(values[:, np.newaxis], "float32")
    return lambda x: sum_spans(value * ops.take(x, other, axis=0), owner, rows)
