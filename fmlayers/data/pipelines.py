"""Input pipelines of `tf.data`, fast for small batches."""

from collections.abc import Callable, Iterator
from typing import Any

from fmlayers._history_index import BatchHistories
from fmlayers.data.ragged import Batch

PIECE = 8  # batches that Python assembles at once, to make its share of a step small


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

    columns = tf.nest.map_structure(tf.constant, columns)
    rows = len(tf.nest.flatten(columns)[0])

    def batch(start: Any) -> Any:
        return tf.nest.map_structure(lambda x: x[start : start + batch_size], columns)

    return without_tuning(
        tf.data.Dataset.range(0, rows, batch_size).map(batch).prefetch(2)
    )


def without_tuning(dataset: Any) -> Any:
    """Returns a `tf.data.Dataset` with autotuning disabled.

    The autotuning thread sleeps for 10 ms, then 20, 40 and so on, and closing an
    iterator waits for it to wake up, which can double the running time.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
