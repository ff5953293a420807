from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._backend import assign_rows, read_rows
from fmlayers._spread.rows import is_spread
from fmlayers._spread.stored_rows import StoredRows
from fmlayers._types import Tensor


class RowsView:
    """A weight whose values are rows of a variable that it shares with others.

    It offers the attributes and methods of a `keras.Variable` with which weights are
    inspected and set, and converts to arrays and tensors.

    Args:
        variable: The `keras.Variable` of shape `(rows, dim)`. Its attribute `views` is
            a list of the views of all of its rows.
        name: String, the name of the weight.
        shape: `(rows, dim)`, or `(dim,)` for a single row.
        start: Integer, the position of the first row in the variable.

    Attributes:
        path: String, the path that the weight would have as a variable.
        dtype: String.
        num_rows: Integer, the number of rows in the variable.
    """

    def __init__(
        self, variable: Any, name: str, shape: tuple[int, ...], start: int
    ) -> None:
        self.variable = variable
        self.name = name
        self.path = "/".join([*variable.path.split("/")[:-1], name])
        self.shape = shape
        self.dtype = variable.dtype
        self.start = start
        self.num_rows = shape[0] if len(shape) == 2 else 1
        self._trainable = True

    @property
    def trainable(self) -> bool:
        """Boolean. Setting it freezes or unfreezes these rows alone.

        The variable is frozen if all of its rows are. As for any variable, compile the
        model again afterwards.
        """
        return self._trainable and bool(self.variable.trainable)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = bool(value)
        views: Sequence[RowsView] = self.variable.views
        self.variable.trainable = any(view._trainable for view in views)

    @property
    def value(self) -> Tensor:
        """The values as a tensor."""
        rows = read_rows(self.variable, self.start, self.start + self.num_rows)
        return ops.reshape(rows, self.shape)

    def constant(self) -> npt.NDArray[Any]:
        """Returns the values as an array, also while TensorFlow traces a graph."""
        import tensorflow as tf

        with tf.init_scope():
            return self.numpy()

    def numpy(self) -> npt.NDArray[Any]:
        """Returns the values as an array."""
        rows = read_rows(self.variable, self.start, self.start + self.num_rows)
        values: npt.NDArray[Any] = ops.convert_to_numpy(rows)
        return values.reshape(self.shape)

    def assign(self, value: Any) -> None:
        """Sets the values.

        Args:
            value: Array, tensor or `StoredRows` of the shape of the weight.
        """
        if not is_spread(self.variable) and not isinstance(value, StoredRows):
            value = ops.convert_to_tensor(value, dtype=self.dtype)
        elif not hasattr(value, "shape"):
            value = np.asarray(value)
        if tuple(value.shape) != self.shape:
            raise ValueError(
                f"`value` must have the shape {self.shape} of {self.path!r}. "
                f"Received: shape {tuple(value.shape)}."
            )
        rows = value if len(self.shape) == 2 else ops.expand_dims(value, 0)
        assign_rows(self.variable, self.start, rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        values = self.numpy()
        return values if dtype is None else values.astype(dtype)

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        import tensorflow as tf

        return tf.convert_to_tensor(self.value, dtype=dtype, name=name)

    def __jax_array__(self) -> Any:
        return self.value

    def __repr__(self) -> str:
        return f"<RowsView path={self.path}, shape={self.shape}, dtype={self.dtype}>"
