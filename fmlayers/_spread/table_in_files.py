from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._backend import concrete, only_traces_shapes
from fmlayers._types import Tensor

_MIN_ROWS: ContextVar[int | None] = ContextVar("min_rows_in_files", default=None)


@contextmanager
def tables_in_files(min_rows: int) -> Iterator[None]:
    """Leaves the tables of layers that are built in the block in files.

    Args:
        min_rows: Positive integer. Smaller tables are read into memory.
    """
    token = _MIN_ROWS.set(min_rows)
    try:
        yield
    finally:
        _MIN_ROWS.reset(token)


def table_in_files(
    num_rows: int, dim: int, dtype: str, path: str
) -> "TableInFiles | None":
    """Returns the `TableInFiles` of a new layer, or `None` if it needs a variable."""
    min_rows = _MIN_ROWS.get()
    if min_rows is None or num_rows < min_rows:
        return None
    return TableInFiles((num_rows, dim), dtype, path)


class TableInFiles:
    """Stands for a variable whose rows stay in files, until a call looks them up.

    It has the attributes of a variable that views of its rows use, and the methods of
    `SpreadRows`. It cannot be trained, and a compiled function cannot read it.

    Args:
        shape: `(rows, dim)`.
        dtype: String, the dtype of the rows.
        path: String, the path that the variable would have.
    """

    value = None

    def __init__(self, shape: tuple[int, int], dtype: str, path: str) -> None:
        self.shape = shape
        self.dtype = dtype
        self.path = path
        self.trainable = False
        self._parts: dict[int, Any] = {}  # rows, by the position of the first

    @property
    def spread(self) -> "TableInFiles":
        return self

    def take(self, value: None, rows: Tensor) -> Tensor:
        """Returns rows as a tensor. Rows that are not assigned yet are zeros.

        Args:
            value: The value of the variable, which does not exist.
            rows: Integers of any shape.

        Raises:
            ValueError: In a compiled function.
        """
        if only_traces_shapes():
            zeros = ops.zeros_like(rows, dtype=self.dtype)
            return ops.expand_dims(zeros, -1) * ops.zeros(self.shape[1:], self.dtype)
        ids = concrete(rows)
        if ids is None:
            raise ValueError(
                "A model whose tables are in files can only be called eagerly, for "
                "example by `TopN`, `retrieve` or `model.score`. To train, compile or "
                "export it, load it with `on_disk=False`."
            )
        values = self._rows(ids.ravel().astype("int64"))
        return ops.convert_to_tensor(values.reshape(*ids.shape, self.shape[1]))

    def read(self, variable: Any, start: int, stop: int) -> npt.NDArray[Any]:
        """Returns the rows `start` to `stop - 1`."""
        return self._rows(np.arange(start, stop))

    def assign(self, variable: Any, start: int, values: Any) -> None:
        """Sets the rows from `start` on, without reading them.

        Args:
            variable: This object.
            start: Integer, the first row.
            values: `StoredRows` or an array.
        """
        self._parts[start] = values

    def _rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        values = np.zeros((len(rows), self.shape[1]), self.dtype)
        for start, part in self._parts.items():
            here = (rows >= start) & (rows < start + len(part))
            values[here] = part[rows[here] - start]
        return values
