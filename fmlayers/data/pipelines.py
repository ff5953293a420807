"""Streams of batches that Python assembles, as `tf.data.Dataset`s."""

from collections.abc import Callable, Iterator
from typing import Any

from fmlayers._pipelines import PIECE, without_tuning
from fmlayers.data.ragged import Batch, Column


def stream(pieces: Callable[[], Iterator[Batch]], example: Batch) -> Any:
    """Returns a `tf.data.Dataset` that prefetches the batches of a generator.

    Args:
        pieces: Callable, called once per pass over the data. It yields stacks of
            batches, of shape `(batches, batch, ...)`.
        example: One batch, which determines the dtypes and shapes.
    """
    import tensorflow as tf

    inputs, *others = example

    def spec(x: Column) -> Any:
        if isinstance(x, tuple):
            values, splits = x
            return (tf.TensorSpec((None, None), values.dtype), spec(splits))
        return tf.TensorSpec((None, *x.shape), x.dtype)

    signature = ({name: spec(x) for name, x in inputs.items()}, *map(spec, others))
    stacks = tf.data.Dataset.from_generator(pieces, output_signature=signature)
    return without_tuning(stacks.prefetch(2).unbatch().prefetch(PIECE))
