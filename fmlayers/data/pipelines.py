"""Streams of batches that Python assembles, as `tf.data.Dataset`s."""

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from fmlayers._histories.index import BatchHistories
from fmlayers._training.array_pipelines import PIECE, from_function, without_tuning
from fmlayers.data.ragged import Batch


def stream(
    pieces: Callable[[], Iterator[Batch]], example: Batch, *, stacked: bool = True
) -> Any:
    """Returns a `tf.data.Dataset` that prefetches the batches of a generator.

    Args:
        pieces: Callable, called for each pass over the data. It yields stacks of
            batches, of shape `(batches, batch, ...)`, without end.
        example: One batch, which determines the dtypes and shapes.
        stacked: Boolean. If `False`, `pieces` yields single batches, which bring their
            histories along. Defaults to `True`.
    """
    import tensorflow as tf

    inputs, *others = example

    def spec(x: Any) -> Any:
        if isinstance(x, BatchHistories):
            # The batch size of the first two is fixed.
            sizes = [spec(x.index).shape, spec(x.own).shape]
            sizes += [(*first, None) for _ in x[2:]]
            specs = map(tf.TensorSpec, sizes, (each.dtype for each in x))
            return BatchHistories(*specs)
        if isinstance(x, tuple):
            values, splits = x
            return (tf.TensorSpec((*first, None), values.dtype), spec(splits))
        return tf.TensorSpec((*first, *x.shape), x.dtype)

    first = (None,) if stacked else ()
    signature = ({name: spec(x) for name, x in inputs.items()}, *map(spec, others))
    batches = from_function(InTurn(pieces), signature)
    if stacked:
        batches = batches.prefetch(2).unbatch()
    return without_tuning(batches.prefetch(PIECE))


class InTurn:
    """Returns the values of an endless generator by their position.

    The values are read in turn. A position out of turn, as in a new pass over the data,
    starts a new generator and skips its values before that position. An error of the
    generator is raised again at all positions, until a new pass starts.

    Args:
        generator: Callable that returns the generator, the same at each call.
    """

    def __init__(self, generator: Callable[[], Iterator[Any]]) -> None:
        self._generator = generator
        self._values: Iterator[Any] = iter(())
        self._next = -1
        self._error: Exception | None = None
        self._lock = threading.Lock()

    def __call__(self, position: int) -> Any:
        with self._lock:
            if position == 0:
                self._error = None
            if self._error is not None:
                raise self._error
            if position != self._next:
                self._values = itertools.islice(self._generator(), position, None)
            try:
                value = next(self._values)
            except Exception as error:
                self._error = error
                raise
            self._next = position + 1
            return value
