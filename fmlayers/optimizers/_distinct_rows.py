"""Updates of the distinct rows among the slices of a gradient.

The slices of a row are summed first. The number of distinct rows depends on the data.
TensorFlow without XLA uses tensors of that size. XLA and JAX need fixed shapes: there,
small batches are updated in one pass over all slices, where all but one slice of a row
add zeros. Of larger batches, the distinct rows come first in arrays of one entry per
slice, and a loop updates them in pieces until there are no more.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from fmlayers.optimizers._slices import as_rows

# Slices of one piece. Smaller batches are updated without a loop.
PIECE = 8192
# A function of the summed slices of some rows, and of these rows of each table. It
# returns the increments of the rows of each table.
Changes = Callable[[Any, Sequence[Any]], Sequence[Any]]


class RowPieces(NamedTuple):
    """Rows of a table and the sums of their slices, in pieces of equal size.

    Attributes:
        rows: Integers `(pieces, size)`.
        sums: Floats `(pieces, size, ...)`.
        is_row: Booleans `(pieces, size)`, `True` for one entry of each distinct row.
            The other entries must be ignored.
        count: Integer scalar, the number of pieces to update. Later pieces have no row.
    """

    rows: Any
    sums: Any
    is_row: Any
    count: Any

    @property
    def is_single(self) -> bool:
        """Whether there is one piece, so that a loop is not needed."""
        return bool(self.rows.shape[0] == 1)


def in_pieces(indices: Any, chosen: Any, values: Any) -> RowPieces:
    """Sums the slices of each row, with shapes that do not depend on the data.

    Args:
        indices: Integers `(slices,)`, the rows of the slices.
        chosen: Integers `(slices,)`, the position of the slice that represents all
            slices of its row.
        values: Floats `(slices, ...)`.
    """
    slices = ops.shape(indices)[0]
    chosen = ops.cast(chosen, "int32")
    first = chosen == ops.arange(slices, dtype="int32")
    if isinstance(slices, int) and slices <= PIECE:
        sums = ops.segment_sum(values, chosen, num_segments=slices)
        rows, sums, first = (ops.expand_dims(x, 0) for x in (indices, sums, first))
        return RowPieces(rows, sums, first, count=1)
    ones = ops.cast(first, "int32")
    rows, number = ops.sum(ones), ops.take(ops.cumsum(ones) - 1, chosen)
    # At least one place and one piece, for a batch of unknown size without an id.
    slices = slices if isinstance(slices, int) else ops.maximum(slices, 1)
    size = PIECE if isinstance(slices, int) else ops.minimum(slices, PIECE)
    pieces = (slices + size - 1) // size
    places = pieces * size

    def compact(x: Any) -> Any:
        sums = ops.segment_sum(x, number, num_segments=places)
        return ops.reshape(sums, (pieces, size, *x.shape[1:]))

    return RowPieces(
        rows=compact(ops.where(first, indices, 0)),
        sums=compact(values),
        is_row=ops.reshape(ops.arange(places) < rows, (pieces, size)),
        count=(rows + size - 1) // size,
    )


def add_by_piece(variables: Sequence[Any], pieces: RowPieces, changes: Changes) -> None:
    """Adds the changes of rows to TensorFlow variables, in an XLA program."""
    import tensorflow as tf

    tables = [_value(variable) for variable in variables]

    def add(at: Any) -> None:
        rows, sums, is_row = (x[at] for x in pieces[:3])
        # Reading a variable would keep a reference to it, and adding would copy it.
        before = [tf.cast(tf.gather(table, rows), sums.dtype) for table in tables]
        for table, change in zip(tables, changes(sums, before), strict=True):
            increments = tf.cast(_masked(is_row, change), table.dtype)
            table.scatter_add(tf.IndexedSlices(increments, rows))

    def step(at: Any) -> Any:
        add(at)
        return at + 1

    if pieces.is_single:
        add(0)
    else:
        tf.while_loop(lambda at: at < pieces.count, step, [0])


def added_by_piece(
    tables: Sequence[Any], pieces: RowPieces, changes: Changes
) -> list[Any]:
    """Returns JAX arrays with the changes of rows. Rows past their end are ignored."""
    import jax

    def add(at: Any, tables: Sequence[Any]) -> list[Any]:
        rows, sums, is_row = (x[at] for x in pieces[:3])
        before = [ops.cast(ops.take(x, rows, axis=0), sums.dtype) for x in tables]
        return [
            x.at[rows].add(_masked(is_row, change).astype(x.dtype), mode="drop")
            for x, change in zip(tables, changes(sums, before), strict=True)
        ]

    if pieces.is_single:
        return add(0, tables)
    _, found = jax.lax.while_loop(
        lambda state: state[0] < pieces.count,
        lambda state: (state[0] + 1, add(*state)),
        (0, list(tables)),
    )
    return list(found)


def add_to_distinct(
    variables: Sequence[Any], distinct: tuple[Any, Any], values: Any, changes: Changes
) -> None:
    """Adds the changes of rows to TensorFlow variables, outside of XLA.

    Args:
        variables: The tables.
        distinct: The distinct rows `(rows,)` and, for each slice, the position of its
            row among them `(slices,)`, as `tf.unique` returns them.
        values: Floats `(slices, ...)`.
        changes: The function of the increments.
    """
    import tensorflow as tf

    rows, of_each = distinct
    # `scatter_nd` takes half of the time of `unsorted_segment_sum`.
    sums = tf.scatter_nd(
        tf.expand_dims(of_each, 1), values, (tf.size(rows), *values.shape[1:])
    )
    tables = [_value(variable) for variable in variables]
    before = [tf.gather(table, rows) for table in tables]
    increments = changes(sums, [tf.cast(x, sums.dtype) for x in before])
    for table, old, change in zip(tables, before, increments, strict=True):
        # Writing rows takes a fifteenth of the time of adding to them.
        table.scatter_update(tf.IndexedSlices(old + tf.cast(change, old.dtype), rows))


def _value(variable: Any) -> Any:
    # Keras passes either its own variables or those of TensorFlow.
    return variable.value if isinstance(variable, keras.Variable) else variable


def _masked(is_row: Any, change: Any) -> Any:
    return ops.where(as_rows(is_row, change), change, 0)
