"""Columns of a batch, ragged ones included, and the selection of their rows."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fmlayers._row_splits import check_row_splits
from fmlayers.data.errors import DataError

Array = npt.NDArray[Any]
# An array with the rows as first axis or, if ragged, a pair of values and row splits.
Column = Array | tuple[Array, Array]
Inputs = dict[str, Any]  # from names to columns, and to `BatchHistories`
# Inputs and targets and, optionally, the weights of the rows.
Batch = tuple[Inputs, Array] | tuple[Inputs, Array, Array]


def without_padding(ids: Array, present: Array | None = None) -> tuple[Array, Array]:
    """Converts padded ids to a ragged column: a pair of values and row splits.

    A multi-valued feature accepts both forms. The cost of the ragged form depends on
    the total number of ids, that of the padded form on the longest row.

    Args:
        ids: Integers of shape `(rows, length)`, padded with 0.
        present: Optional Booleans of the same shape, the values to keep. Defaults to
            `None` (those that are not 0). For weights, pass the `ids != 0` of their
            ids.

    Returns:
        A tuple of the nonzero ids, of shape `(values,)`, and the row splits, integers
        of shape `(rows + 1,)`. The ids of row i are
        `values[row_splits[i]:row_splits[i + 1]]`.

    Raises:
        ValueError: If `ids` is not two-dimensional, or `present` has another shape.

    Example:

    >>> fmlayers.data.without_padding([[3, 5, 0], [0, 0, 0], [2, 0, 0]])
    (array([3, 5, 2]), array([0, 2, 2, 3]))
    """
    ids = np.asarray(ids)
    if ids.ndim != 2:
        raise ValueError(
            f"`ids` must be of shape (rows, length). Received: shape {ids.shape}."
        )
    present = ids != 0 if present is None else np.asarray(present, bool)
    if present.shape != ids.shape:
        raise ValueError(
            "`present` must have the shape of `ids`. Received: shape "
            f"{present.shape} for ids of shape {ids.shape}."
        )
    splits = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
    return ids[present], splits.astype(np.int64)


def take(column: Column, rows: Array) -> Column:
    """Returns the selected rows of a column.

    The values of a ragged batch are padded with zeros at the end of the last row, by at
    most half a value per row. XLA compiles once for each number of values: batches near
    the mean have the same number, an eighth above it.

    Args:
        column: An array, or a pair of values and row splits.
        rows: Integers, the rows of one batch `(batch,)` or of several
            `(batches, batch)`.
    """
    if not isinstance(column, tuple):
        return column[rows]
    values, splits = column
    batches = rows.reshape(-1, rows.shape[-1])
    lengths = splits[batches + 1] - splits[batches]
    ends = np.cumsum(lengths, axis=1)
    batch, needed = rows.shape[-1], int(ends[:, -1].max(initial=0))
    mean = batch * len(values) / max(len(splits) - 1, 1)
    capacity = _rounded_up(9 / 8 * mean, batch // 16)
    if not needed <= capacity < needed + batch / 2:
        capacity = _rounded_up(needed, batch // 4)
    taken = np.zeros((len(batches), capacity), values.dtype)
    flat = lengths.ravel()
    shifts = splits[batches].ravel() - (np.cumsum(flat) - flat)
    positions = np.arange(flat.sum()) + np.repeat(shifts, flat)
    taken[np.arange(capacity) < ends[:, -1:]] = values[positions]
    taken_splits = np.zeros((len(batches), rows.shape[-1] + 1), np.int32)
    taken_splits[:, 1:] = ends
    taken_splits[:, -1] = capacity
    shape = rows.shape[:-1]
    return taken.reshape(*shape, -1), taken_splits.reshape(*shape, -1)


def _rounded_up(size: float, step: int) -> int:
    """Returns the least positive multiple of `step` that is at least `size`."""
    step = max(1, step)
    return step * max(1, math.ceil(size / step))


def take_padded(column: Column, rows: Array, length: int, name: str) -> Array:
    """Returns the selected rows of a column, ragged ones padded with 0.

    Args:
        column: An array, or a pair of values and row splits.
        rows: Integers of any shape.
        length: Positive integer, the number of values per row of the result.
        name: String, the name of the column, for the error message.

    Raises:
        DataError: If a row has more than `length` values.
    """
    if not isinstance(column, tuple):
        return column[rows]
    values, splits = column
    starts = np.expand_dims(splits[rows], -1)
    lengths = np.expand_dims(splits[rows + 1], -1) - starts
    longest = int(lengths.max(initial=0))
    if longest > length:
        raise DataError(
            f"`list_length` must be at least {longest}, the number of values in a row "
            f"of {name!r}. Received: list_length={length}."
        )
    places = np.arange(length)
    padded: Array = np.zeros((*rows.shape, length), values.dtype)
    present = places < lengths
    padded[present] = values[(starts + places)[present]]
    return padded


def stacked(batches: Sequence[Batch]) -> Batch:
    """Stacks batches of the same size, padding ragged columns with zeros."""

    def stack(columns: Sequence[Column]) -> Column:
        ragged = [x for x in columns if isinstance(x, tuple)]
        if not ragged:
            return np.stack([x for x in columns if not isinstance(x, tuple)])
        capacity = max(len(values) for values, _ in ragged)
        filled = [np.pad(values, (0, capacity - len(values))) for values, _ in ragged]
        splits = np.stack([row_splits for _, row_splits in ragged])
        splits[:, -1] = capacity
        return np.stack(filled), splits

    inputs, *others = zip(*batches, strict=True)
    columns = {name: stack([x[name] for x in inputs]) for name in inputs[0]}
    return batch_of(columns, *map(np.stack, others))


def batch_of(inputs: Inputs, targets: Array, weights: Array | None = None) -> Batch:
    """Returns the parts of a batch as a tuple, without weights if there are none."""
    return (inputs, targets) if weights is None else (inputs, targets, weights)


def length(column: Column) -> int:
    """Returns the number of rows of a column."""
    return len(column[1]) - 1 if isinstance(column, tuple) else len(column)


def check_lengths(inputs: Mapping[str, Column], rows: int) -> None:
    """Raises `ValueError` unless every input has `rows` rows, and valid row splits."""
    for name, x in inputs.items():
        if isinstance(x, tuple):
            check_row_splits(f"{name!r}", x[1], len(x[0]))
        if length(x) != rows:
            raise ValueError(
                f"`inputs` must have one row per target, {rows:,} in all. "
                f"Received: {length(x):,} rows of {name!r}."
            )
