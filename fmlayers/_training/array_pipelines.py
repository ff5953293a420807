"""Input pipelines of `tf.data` for arrays, fast for small batches."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

PIECE = 8  # batches that are assembled at once, to make the overhead of each small
GATHERED_ROWS = 65_536  # that TensorFlow gathers at once, if they are more batches
Array = npt.NDArray[Any]


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
    piece = max(PIECE, GATHERED_ROWS // batch_size)

    def chosen() -> Iterator[Array]:
        shuffled_rows = order()
        batches = shuffled_rows[:whole].reshape(-1, batch_size)
        for first in range(0, len(batches), piece):
            yield batches[first : first + piece]
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
    options.experimental_optimization.apply_default_optimizations = False
    return dataset.with_options(options)
