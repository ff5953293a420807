"""What batches are made of: columns, some of them ragged, taken by the piece."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
# An array with the rows as first axis, or all rows' values and their row splits.
Column = Array | tuple[Array, Array]
Batch = tuple[dict[str, Column], Array]

PIECE = 8  # batches formed at once: Python's share of a batch is then small


def without_padding(ids: Array) -> tuple[Array, Array]:
    """Returns padded ids as a pair: the ids of all rows, and their row splits.

    A multi-valued feature takes either; the pair costs what its ids, not what the
    longest row costs.

    Args:
        ids: Integers `(rows, length)`, padded with 0.

    Returns:
        The ids other than 0, `(values,)`, and integers `(rows + 1,)`: those of row i
        are from `row_splits[i]` to `row_splits[i + 1]`.
    """
    ids = np.asarray(ids)
    if ids.ndim != 2:
        raise ValueError(
            f"`ids` must be of shape (rows, length). Received: shape {ids.shape}."
        )
    present = ids != 0
    splits = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
    return ids[present], splits.astype(np.int64)


def take(column: Column, rows: Array) -> Column:
    """Returns the rows of a batch `(batch,)`, or of a piece `(batches, batch)`.

    The number of values in a ragged batch is rounded up, with zeros at the end of the
    last row, to one of few: XLA compiles anew for each.
    """
    if not isinstance(column, tuple):
        return column[rows]
    values, splits = column
    batches = rows.reshape(-1, rows.shape[-1])
    lengths = np.diff(splits)[batches]
    ends = np.cumsum(lengths, axis=1)
    step = max(1, rows.shape[-1] // 4)
    capacity = step * max(1, -(-int(ends[:, -1].max(initial=0)) // step))
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


def stacked(batches: Sequence[Batch]) -> Batch:
    """Returns batches of one size as a piece, ragged columns filled up with zeros."""

    def stack(columns: Sequence[Column]) -> Column:
        ragged = [x for x in columns if isinstance(x, tuple)]
        if not ragged:
            return np.stack([x for x in columns if not isinstance(x, tuple)])
        capacity = max(len(values) for values, _ in ragged)
        filled = [np.pad(values, (0, capacity - len(values))) for values, _ in ragged]
        splits = np.stack([row_splits for _, row_splits in ragged])
        splits[:, -1] = capacity
        return np.stack(filled), splits

    inputs = [x for x, _ in batches]
    columns = {name: stack([x[name] for x in inputs]) for name in inputs[0]}
    return columns, np.stack([targets for _, targets in batches])


def stream(pieces: Callable[[], Iterator[Batch]], example: Batch) -> Any:
    """Returns a `tf.data.Dataset` of the batches in `pieces`, made beforehand.

    Args:
        pieces: Called for each pass: yields some batches at a time, stacked.
        example: One batch.
    """
    import tensorflow as tf

    inputs, targets = example

    def spec(x: Column) -> Any:
        if isinstance(x, tuple):
            values, splits = x
            return (tf.TensorSpec((None, None), values.dtype), spec(splits))
        return tf.TensorSpec((None, *x.shape), x.dtype)

    signature = ({name: spec(x) for name, x in inputs.items()}, spec(targets))
    formed = tf.data.Dataset.from_generator(pieces, output_signature=signature)
    return without_tuning(formed.prefetch(2).unbatch().prefetch(PIECE))


def in_order(columns: Any, batch_size: int) -> Any:
    """Returns a `tf.data.Dataset` of the rows of arrays, in batches in their order."""
    import tensorflow as tf

    columns = tf.nest.map_structure(tf.constant, columns)
    rows = len(tf.nest.flatten(columns)[0])

    def batch(start: Any) -> Any:
        return tf.nest.map_structure(lambda x: x[start : start + batch_size], columns)

    return without_tuning(
        tf.data.Dataset.range(0, rows, batch_size).map(batch).prefetch(2)
    )


def without_tuning(dataset: Any) -> Any:
    """Returns a `tf.data.Dataset` whose end is not waited for.

    The thread that tunes a pipeline sleeps 10 ms, then 20, 40 and so on, and the end
    of an iterator waits until it wakes: as long again as it has run.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def length(column: Column) -> int:
    """Returns the number of rows."""
    return len(column[1]) - 1 if isinstance(column, tuple) else len(column)


def check_lengths(inputs: Mapping[str, Column], rows: int) -> None:
    """Raises `ValueError` unless each of the inputs has that many rows."""
    for name, x in inputs.items():
        if length(x) != rows:
            raise ValueError(
                f"`inputs` must have a row for each of the {rows:,} targets. "
                f"Received: {length(x):,} rows of {name!r}."
            )
