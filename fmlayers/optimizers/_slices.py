"""Sliced gradients of tables: some rows and their ids, one slice per occurrence.

On TensorFlow, the gradient of an embedding lookup is a `tf.IndexedSlices`. On JAX,
`ScoringModel` computes `RowGradients`. Other gradients are dense.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from fmlayers import _hosts
from fmlayers._training.row_gradients import RowGradients

# Up to this number of rows per id, clearing a number per row is faster than a sort.
MAX_SCRATCH_ROWS = 100


def is_sliced(gradient: Any) -> bool:
    """Returns whether a gradient has slices."""
    if keras.backend.backend() != "tensorflow":
        return isinstance(gradient, RowGradients)
    import tensorflow as tf

    return isinstance(gradient, tf.IndexedSlices)


def map_values(function: Callable[..., Any], gradient: Any) -> Any:
    """Applies a function to a gradient, or to the values of its slices."""
    if gradient is None or not is_sliced(gradient):
        return gradient if gradient is None else function(gradient)
    return _like(gradient, function(gradient.values), gradient.indices)


def sum_rows(gradient: Any) -> Any:
    """Sums the slices of each row into one of them and sets the others to zero.

    The number of slices stays the same, since XLA requires static shapes.
    """
    slices = gradient.values, gradient.indices
    if getattr(gradient, "by_host", False):
        return _like(gradient, *_hosts.on_each_host(_summed, *slices))
    return _like(gradient, *_summed(*slices))


def _summed(values: Any, indices: Any) -> tuple[Any, Any]:
    order = ops.argsort(indices)
    indices = ops.take(indices, order)
    values = ops.take(values, order, axis=0)
    first = _first_of_runs(indices)
    run = ops.cumsum(ops.cast(first, "int32")) - 1
    sums = ops.segment_sum(values, run, num_segments=ops.shape(indices)[0])
    return ops.where(as_rows(first, values), ops.take(sums, run, axis=0), 0), indices


def representatives(indices: Any, rows: int) -> Any:
    """Returns the position of one occurrence of each id, for all its occurrences.

    On JAX, where an optimizer cannot keep scratch space outside of its state.
    """
    import jax
    from jax import numpy as jnp

    places = jnp.arange(len(indices), dtype="int32")
    if rows <= MAX_SCRATCH_ROWS * len(indices):
        scratch = jnp.zeros(rows, "int32").at[indices].set(places)
        return scratch[indices]
    order = jnp.argsort(indices)
    starts = jnp.where(_first_of_runs(indices[order]), places, 0)
    return places.at[order].set(order[jax.lax.cummax(starts)].astype("int32"))


def _first_of_runs(indices: Any) -> Any:
    start = ops.ones_like(indices[:1], dtype="bool")
    return ops.concatenate([start, indices[1:] != indices[:-1]])


def as_rows(flags: Any, like: Any) -> Any:
    """Reshapes a vector of flags, one per row, to broadcast with `like`."""
    return ops.reshape(flags, (-1, *(1 for _ in like.shape[1:])))


def _like(gradient: Any, values: Any, indices: Any) -> Any:
    if isinstance(gradient, RowGradients):
        return RowGradients(values, indices, gradient.by_host)
    import tensorflow as tf

    return tf.IndexedSlices(values, indices, gradient.dense_shape)
