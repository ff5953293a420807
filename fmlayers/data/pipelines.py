"""Input pipelines of `tf.data`, fast for small batches."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fmlayers._history_index import BatchHistories
from fmlayers.data.ragged import Array, Batch

PIECE = 8  # batches that are assembled at once, to make the overhead of each small


def stream(
    pieces: Callable[[], Iterator[Batch]], example: Batch, *, stacked: bool = True
) -> Any:
    """Returns a `tf.data.Dataset` that prefetches the batches of a generator.

    Args:
        pieces: Callable, called once per pass over the data. It yields stacks of
            batches, of shape `(batches, batch, ...)`.
        example: One batch, which determines the dtypes and shapes.
        stacked: Boolean. If `False`, `pieces` yields single batches, which bring their
            histories along. Defaults to `True`.
    """
    import tensorflow as tf

    inputs, *others = example

    def spec(x: Any) -> Any:
        if isinstance(x, BatchHistories):
            # The batch size of the first two is fixed.
            sizes = [x.index.shape, x.own.shape, *((None,) for _ in x[2:])]
            specs = map(tf.TensorSpec, sizes, (each.dtype for each in x))
            return BatchHistories(*specs)
        if isinstance(x, tuple):
            values, splits = x
            return (tf.TensorSpec((*first, None), values.dtype), spec(splits))
        return tf.TensorSpec((*first, *x.shape), x.dtype)

    first = (None,) if stacked else ()
    signature = ({name: spec(x) for name, x in inputs.items()}, *map(spec, others))
    batches = tf.data.Dataset.from_generator(pieces, output_signature=signature)
    if stacked:
        batches = batches.prefetch(2).unbatch()
    return without_tuning(batches.prefetch(PIECE))


def in_order(columns: Any, batch_size: int) -> Any:
    """Returns a `tf.data.Dataset` of consecutive batches of arrays.

    Args:
        columns: Nested structure of arrays with the rows as first axis.
        batch_size: Positive integer, rows per batch.
    """
    import tensorflow as tf

    rows = len(tf.nest.flatten(columns)[0])
    whole = rows - rows % batch_size

    def stack(x: Array) -> Any:
        return tf.constant(np.reshape(x[:whole], (-1, batch_size, *x.shape[1:])))

    batches = tf.data.Dataset.from_tensor_slices(tf.nest.map_structure(stack, columns))
    if whole < rows:
        rest = tf.nest.map_structure(lambda x: x[whole:], columns)
        batches = batches.concatenate(tf.data.Dataset.from_tensors(rest))
    return without_tuning(batches.prefetch(PIECE))


def shuffled(columns: Any, batch_size: int, order: Callable[[], Array]) -> Any:
    """Returns a `tf.data.Dataset` of batches of arrays, shuffled in each iteration.

    Args:
        columns: Nested structure of arrays with the rows as first axis.
        batch_size: Positive integer, rows per batch. The last batch may be smaller.
        order: Callable, called once per iteration. It returns a permutation of the
            rows, as int64.
    """
    import tensorflow as tf

    columns = tf.nest.map_structure(tf.constant, columns)
    rows = len(tf.nest.flatten(columns)[0])
    whole = rows - rows % batch_size

    def chosen() -> Iterator[Array]:
        shuffled_rows = order()
        batches = shuffled_rows[:whole].reshape(-1, batch_size)
        for first in range(0, len(batches), PIECE):
            yield batches[first : first + PIECE]
        if whole < rows:
            yield shuffled_rows[None, whole:]

    shape = (None, batch_size if whole == rows else None)
    stacks = tf.data.Dataset.from_generator(
        chosen, output_signature=tf.TensorSpec(shape, tf.int64)
    ).map(lambda rows: tf.nest.map_structure(lambda x: tf.gather(x, rows), columns))
    steps = tf.data.experimental.assert_cardinality(-(-rows // batch_size))
    return without_tuning(stacks.prefetch(1).unbatch().apply(steps).prefetch(PIECE))


def without_tuning(dataset: Any) -> Any:
    """Returns a `tf.data.Dataset` with autotuning disabled.

    The autotuning thread sleeps for 10 ms, then 20, 40 and so on, and closing an
    iterator waits for it to wake up, which can double the running time.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
