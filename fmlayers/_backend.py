"""Operations that `keras.ops` lacks, implemented for each backend.

All other code of the layers uses `keras.ops` alone, and computes the same numbers on
TensorFlow, JAX and PyTorch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import keras
import numpy as np
from keras import ops
from keras.src.backend.common.symbolic_scope import in_symbolic_scope

from fmlayers._types import Tensor

_PORTABLE = ContextVar("portable", default=False)


@contextmanager
def portable_graph() -> Iterator[None]:
    """Restricts the graphs traced in the block to operations of LiteRT and ONNX."""
    token = _PORTABLE.set(True)
    try:
        yield
    finally:
        _PORTABLE.reset(token)


def accumulation_dtype(dtype: str) -> str:
    """Returns the dtype to sum in: float32, or float64 if `dtype` is float64."""
    return "float64" if dtype == "float64" else "float32"


def id_dtype() -> str:
    """Returns the widest integer dtype of the backend, which is used for ids."""
    return "int32" if keras.backend.backend() == "jax" else "int64"


def only_traces_shapes() -> bool:
    """Returns whether Keras is running the code symbolically, to infer shapes.

    Keras does so to rebuild a subclassed model from a file. All inputs are then
    float32, even ids.
    """
    return bool(in_symbolic_scope())


def is_ragged(x: Tensor) -> bool:
    """Returns whether `x` is a ragged tensor, which only TensorFlow has."""
    if keras.backend.backend() != "tensorflow":
        return False
    if isinstance(x, keras.KerasTensor):
        return bool(x.ragged)
    import tensorflow as tf

    return isinstance(x, tf.RaggedTensor)


def is_sparse(x: Tensor) -> bool:
    """Returns whether `x` is a sparse tensor, such as from `tf.io.VarLenFeature`."""
    if isinstance(x, keras.KerasTensor):
        return bool(x.sparse)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return isinstance(x, tf.SparseTensor)
    if keras.backend.backend() == "jax":
        from jax.experimental.sparse import JAXSparse

        return isinstance(x, JAXSparse)
    import torch

    return isinstance(x, torch.Tensor) and bool(x.is_sparse)


def rows_of_sparse(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the values of a `tf.SparseTensor` and their row splits.

    Args:
        x: Sparse tensor of shape `(rows, columns)`, with its entries sorted by row.
    """
    import tensorflow as tf

    count = x.dense_shape[0] if x.shape[0] is None else x.shape[0]
    starts = tf.range(tf.cast(count, tf.int64) + 1)
    return x.values, tf.searchsorted(x.indices[:, 0], starts, out_type=tf.int32)


def row_of_each(row_splits: Tensor, count: Tensor) -> Tensor:
    """Returns the row index of each value of a ragged tensor.

    Args:
        row_splits: Integers of shape `(rows + 1,)`. Row i consists of the values
            `row_splits[i]` to `row_splits[i + 1] - 1`.
        count: Integer or integer tensor, the number of values.

    Returns:
        Integers of shape `(count,)`, in ascending order.
    """
    # The cumulative sum of marks at the starts of rows. In XLA, a binary search for
    # each value takes thirty times as long.
    starts = ops.cast(row_splits[1:-1], "int32")
    return ops.cumsum(ops.segment_sum(ops.ones_like(starts), starts, count + 1))[:-1]


def unstack(x: Tensor, axis: int) -> list[Tensor]:
    """Unstacks a tensor along an axis of static length."""
    if _PORTABLE.get():  # LiteRT's operation fails for an empty batch
        before = (slice(None),) * axis
        return [x[(*before, i)] for i in range(x.shape[axis])]
    return list(ops.unstack(x, axis=axis))


@keras.saving.register_keras_serializable(package="fmlayers")
def softplus(x: Tensor) -> Tensor:
    """Returns log(1 + exp(x))."""
    if _PORTABLE.get():  # LiteRT's operation overflows at 88
        return ops.maximum(x, 0.0) + ops.log(1.0 + ops.exp(-ops.abs(x)))
    return ops.softplus(x)


def raise_where(invalid: Tensor, ids: Tensor, message: str) -> Tensor:
    """Returns `ids`, or raises an error if an id is invalid.

    Eager code raises `ValueError` on every backend. Compiled code raises an error of
    its runtime with the same message, except for XLA programs of TensorFlow, which
    cannot raise and drop the check.

    Args:
        invalid: Boolean tensor, of the same shape as `ids`.
        ids: Integer tensor.
        message: Error message, to which the first invalid id is added.
    """

    def check(ids: np.ndarray, invalid: np.ndarray) -> np.ndarray:
        if np.any(invalid):
            first = np.asarray(ids)[np.asarray(invalid)][0]
            raise ValueError(f"{message} Received: id={first}.")
        return np.asarray(ids)

    if only_traces_shapes():
        return ids
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        if not tf.executing_eagerly():
            offending = tf.boolean_mask(ids, invalid)
            passed = tf.logical_not(tf.reduce_any(invalid))
            data = [message, "Received: id=", offending]
            with tf.control_dependencies([tf.debugging.Assert(passed, data)]):
                return tf.identity(ids)
    if backend == "jax":
        import jax

        if isinstance(ids, jax.core.Tracer):
            spec = jax.ShapeDtypeStruct(ids.shape, ids.dtype)
            return jax.pure_callback(check, spec, ids, invalid)
    check(ops.convert_to_numpy(ids), ops.convert_to_numpy(invalid))
    return ids


def spans_of_batch(
    offsets: Tensor, keys: Tensor, num_pairs: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the spans of the distinct keys of a batch in a ragged array.

    On JAX, where shapes must not depend on the data, these are the spans of all keys.

    Args:
        offsets: Integers of shape `(keys + 1,)`. The span of key k is `offsets[k]` to
            `offsets[k + 1] - 1`.
        keys: Integers of shape `(batch,)`.
        num_pairs: Integer, the last of the offsets.

    Returns:
        A tuple of four integer tensors: the positions of all spans, concatenated; the
        index of the span of each position; the length of each span; and the index of
        the span of each example.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        distinct, index = tf.unique(keys)
        starts = tf.gather(offsets, distinct)
        lengths = tf.gather(offsets, distinct + 1) - starts
        owners = tf.repeat(tf.range(tf.size(distinct)), lengths)
        shifts = starts - (tf.cumsum(lengths) - lengths)
        positions = tf.range(tf.size(owners)) + tf.gather(shifts, owners)
        return positions, owners, lengths, index
    if backend == "torch":
        import torch

        distinct, index = torch.unique(keys, return_inverse=True)
        starts = offsets[distinct]
        lengths = offsets[distinct + 1] - starts
        spans = torch.arange(len(distinct), device=keys.device)
        owners = torch.repeat_interleave(spans, lengths)
        shifts = starts - (torch.cumsum(lengths, 0) - lengths)
        positions = torch.arange(len(owners), device=keys.device) + shifts[owners]
        return positions, owners, lengths, index
    import jax.numpy as jnp

    positions = jnp.arange(num_pairs)
    lengths = jnp.diff(offsets)
    owners = jnp.repeat(
        jnp.arange(len(lengths)), lengths, total_repeat_length=num_pairs
    )
    return positions, owners, lengths, keys


def sum_spans(rows: Tensor, owners: Tensor, count: Tensor) -> Tensor:
    """Sums the rows of each span.

    Args:
        rows: Floats of shape `(positions, ...)`.
        owners: Integers of shape `(positions,)` in ascending order, the index of the
            span of each row.
        count: Number of spans: an integer, or a tensor on TensorFlow.

    Returns:
        Floats of shape `(count, ...)`, with zeros for an empty span.
    """
    if keras.backend.backend() == "tensorflow" and not _PORTABLE.get():
        import tensorflow as tf

        # Six times faster than the unsorted sum, but its result ends at the last owner,
        # and LiteRT supports no empty spans.
        sums = tf.math.segment_sum(rows, owners)
        missing = tf.expand_dims(count - tf.shape(sums)[0], 0)
        empty = tf.zeros(tf.concat([missing, tf.shape(sums)[1:]], 0), sums.dtype)
        return tf.concat([sums, empty], 0)
    # With an additional span, since Keras on PyTorch treats 0 like a missing argument.
    return ops.segment_sum(rows, owners, count + 1)[:count]
