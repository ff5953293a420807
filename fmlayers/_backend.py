"""What `keras.ops` has no word for, backend by backend.

Everything else in the layers is written in `keras.ops`, so that it gives the
same numbers under TensorFlow, JAX and PyTorch.
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
    """Lets what is traced inside keep to what LiteRT and ONNX have, too."""
    token = _PORTABLE.set(True)
    try:
        yield
    finally:
        _PORTABLE.reset(token)


def accumulation_dtype(dtype: str) -> str:
    """Returns the dtype to sum in: float32, or float64 if `dtype` is float64."""
    return "float64" if dtype == "float64" else "float32"


def id_dtype() -> str:
    """Returns the widest integer of the backend, into which any id fits."""
    return "int32" if keras.backend.backend() == "jax" else "int64"


def only_traces_shapes() -> bool:
    """Tells whether Keras runs the code on made-up tensors, to learn shapes.

    It does so to rebuild a user's subclassed model from a file, and makes every
    input a float32, ids too.
    """
    return bool(in_symbolic_scope())


def is_ragged(x: Tensor) -> bool:
    """Tells whether `x` is a ragged tensor, which exists on TensorFlow alone."""
    if keras.backend.backend() != "tensorflow":
        return False
    if isinstance(x, keras.KerasTensor):
        return bool(x.ragged)
    import tensorflow as tf

    return isinstance(x, tf.RaggedTensor)


def is_sparse(x: Tensor) -> bool:
    """Tells whether `x` is a sparse tensor, such as `tf.io.VarLenFeature` parses to."""
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
    """Returns the values of a `tf.SparseTensor`, row after row, and their row splits.

    Args:
        x: `(rows, columns)`, its entries in the order of rows.
    """
    import tensorflow as tf

    count = x.dense_shape[0] if x.shape[0] is None else x.shape[0]
    starts = tf.range(tf.cast(count, tf.int64) + 1)
    return x.values, tf.searchsorted(x.indices[:, 0], starts, out_type=tf.int32)


def row_of_each(row_splits: Tensor, count: Tensor) -> Tensor:
    """Returns the row of each of `count` values that lie row after row.

    Args:
        row_splits: Integers `(rows + 1,)`: row i has the values from
            `row_splits[i]` to `row_splits[i + 1]`.
        count: How many values there are, an integer or an integer tensor.

    Returns:
        Integers `(count,)` in ascending order.
    """
    # Marks where rows start, summed up: a binary search for each value takes XLA
    # thirty times as long.
    starts = ops.cast(row_splits[1:-1], "int32")
    return ops.cumsum(ops.segment_sum(ops.ones_like(starts), starts, count + 1))[:-1]


def unstack(x: Tensor, axis: int) -> list[Tensor]:
    """Returns the tensors along an axis of known length, without that axis."""
    if _PORTABLE.get():  # LiteRT's own fails for an empty batch
        before = (slice(None),) * axis
        return [x[(*before, i)] for i in range(x.shape[axis])]
    return list(ops.unstack(x, axis=axis))


@keras.saving.register_keras_serializable(package="fmlayers")
def softplus(x: Tensor) -> Tensor:
    """Returns log(1 + exp(x))."""
    if _PORTABLE.get():  # LiteRT's own ends at 88
        return ops.maximum(x, 0.0) + ops.log(1.0 + ops.exp(-ops.abs(x)))
    return ops.softplus(x)


def raise_where(invalid: Tensor, ids: Tensor, message: str) -> Tensor:
    """Returns `ids`, having raised `message` and the first id that is `invalid`.

    Eager code raises `ValueError` on every backend, compiled code its runtime's
    own error with the same sentence. The exception is an XLA program of
    TensorFlow: it drops the check, having no way to raise.

    Args:
        invalid: Boolean tensor, shaped as `ids`.
        ids: Integer tensor.
        message: Sentence to raise; the id is added to it.
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
    """Finds the spans of a batch's distinct keys in an array of lists.

    JAX, whose shapes must not depend on the data, gets the spans of all keys.

    Args:
        offsets: Integers `(keys + 1,)`: key k has the span offsets[k] to
            offsets[k + 1].
        keys: Integers `(batch,)`.
        num_pairs: The last of the offsets.

    Returns:
        The spans' positions, one span after the other, and of each position the
        number of its span; the lengths of the spans; the span of each example.
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
        rows: Floats `(positions, ...)`.
        owners: Integers `(positions,)` in ascending order, the span of each row.
        count: How many spans there are; an integer, on TensorFlow a tensor.

    Returns:
        `(count, ...)`; zeros for an empty span.
    """
    if keras.backend.backend() == "tensorflow" and not _PORTABLE.get():
        import tensorflow as tf

        # Six times faster than the unsorted sum, but it ends at the last owner, and in
        # LiteRT no owner may be without rows.
        sums = tf.math.segment_sum(rows, owners)
        missing = tf.expand_dims(count - tf.shape(sums)[0], 0)
        empty = tf.zeros(tf.concat([missing, tf.shape(sums)[1:]], 0), sums.dtype)
        return tf.concat([sums, empty], 0)
    # One span more than there are: Keras on PyTorch takes 0 for "not given".
    return ops.segment_sum(rows, owners, count + 1)[:count]
