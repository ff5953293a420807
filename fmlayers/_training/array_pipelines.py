"""Input pipelines of `tf.data` for arrays, fast for small batches."""

import weakref
from collections.abc import Callable
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
    piece = max(PIECE, GATHERED_ROWS // batch_size) * batch_size

    def pieces(shuffled_rows: Any) -> Any:
        def chosen(first: Any) -> Any:
            end = tf.minimum(first + piece, whole)
            return tf.reshape(shuffled_rows[first:end], (-1, batch_size))

        stacks = tf.data.Dataset.range(0, whole, piece).map(chosen)
        if whole < rows:
            rest = tf.data.Dataset.from_tensors(shuffled_rows[None, whole:])
            stacks = stacks.concatenate(rest)
        return stacks

    stacks = (
        from_function(lambda _: order(), tf.TensorSpec((rows,), tf.int64), calls=1)
        .flat_map(pieces)
        .map(lambda rows: tf.nest.map_structure(lambda x: tf.gather(x, rows), columns))
    )
    steps = tf.data.experimental.assert_cardinality(-(-rows // batch_size))
    return without_tuning(stacks.prefetch(1).unbatch().apply(steps).prefetch(PIECE))


def from_function(
    function: Callable[[int], Any], signature: Any, calls: int | None = None
) -> Any:
    """Returns a `tf.data.Dataset` of what a Python function returns.

    `tf.data.Dataset.from_generator` would set a threshold of `malloc` for the whole
    process, above which free memory is returned to the system. Steps with large
    tensors would then take longer, because the system clears their memory each time.

    Args:
        function: Callable. Its argument is the position of the element, from 0 in each
            pass over the dataset. It returns a nested structure of arrays.
        signature: Nested structure of `tf.TensorSpec`s, for what it returns.
        calls: Optional number of elements. By default, they do not end.
    """
    import tensorflow as tf

    specs = tf.nest.flatten(signature)
    # TensorFlow keeps `flat` until the process ends.
    living = weakref.ref(function)

    def flat(position: Any) -> list[Array]:
        living_function = living()
        if living_function is None:
            raise RuntimeError("The dataset of this iterator was deleted.")
        returned = tf.nest.flatten(living_function(int(position)))
        return [
            np.asarray(x, spec.dtype.as_numpy_dtype)
            for x, spec in zip(returned, specs, strict=True)
        ]

    def called(position: Any) -> Any:
        tensors = tf.numpy_function(flat, [position], [spec.dtype for spec in specs])
        for tensor, spec in zip(tensors, specs, strict=True):
            tensor.set_shape(spec.shape)
        return tf.nest.pack_sequence_as(signature, tensors)

    counter = tf.data.Dataset.counter()
    dataset = (counter if calls is None else counter.take(calls)).map(called)
    dataset.function = function  # lives as long as the datasets made from this one
    return dataset


def without_tuning(dataset: Any) -> Any:
    """Returns a `tf.data.Dataset` with autotuning disabled.

    The autotuning thread sleeps for 10 ms, then 20, 40 and so on, and closing an
    iterator waits for it to wake up, which can double the running time.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
