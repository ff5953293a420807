"""Operations that `keras.ops` lacks, implemented for each backend.

All other code of the layers uses `keras.ops` alone, and computes the same numbers on
TensorFlow, JAX and PyTorch.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.backend.common.symbolic_scope import in_symbolic_scope

from fmlayers import _hosts
from fmlayers._spread.rows import PIECE, every_row_by_host, filled, is_spread
from fmlayers._spread.stored_rows import StoredRows
from fmlayers._training.mode import uses_xla
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


def is_portable() -> bool:
    """Returns whether a graph of LiteRT or ONNX is traced."""
    return _PORTABLE.get()


def accumulation_dtype(dtype: str) -> str:
    """Returns the dtype to sum in: float32, or float64 if `dtype` is float64."""
    return "float64" if dtype == "float64" else "float32"


def id_dtype() -> str:
    """Returns the widest integer dtype of the backend, which is used for ids."""
    return "int32" if keras.backend.backend() == "jax" else "int64"


def has_gpu() -> bool:
    """Returns whether the backend computes on a GPU."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        return bool(torch.cuda.is_available())
    if backend == "jax":
        import jax

        return bool(jax.default_backend() != "cpu")
    return bool(keras.distribution.list_devices("gpu"))


def dtype_of(x: Tensor) -> str:
    """Returns the dtype of a tensor or an array, also of strings and objects."""
    try:
        return str(keras.backend.standardize_dtype(x.dtype))
    except ValueError:  # NumPy's strings and objects
        return str(x.dtype)


def wide_integers(x: Tensor) -> Tensor:
    """Returns integers in 32 or 64 bits."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    if dtype in ("int32", "int64"):
        return x
    if dtype in ("uint32", "uint64") and keras.backend.backend() == "jax":
        # Cast to 32 bits, a large id would wrap around to a valid one.
        x = ops.minimum(x, 2**31 - 1)
    elif dtype in ("uint32", "uint64"):
        return ops.cast(x, "int64")
    # A large vocabulary size would not fit into a narrow integer.
    return ops.cast(x, "int32")


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


def concrete(x: Tensor) -> np.ndarray | None:
    """Returns the values of a tensor as an array, or `None` where code is compiled."""
    if isinstance(x, np.ndarray):
        return x
    # To infer shapes, Keras fills tensors of PyTorch with arbitrary numbers.
    if isinstance(x, keras.KerasTensor) or only_traces_shapes():
        return None
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        if tf.is_tensor(x) and tf.is_symbolic_tensor(x):
            return None
    elif backend == "jax":
        import jax

        if isinstance(x, jax.core.Tracer):
            return None
    elif backend == "torch":
        import torch
        from torch._subclasses.fake_tensor import FakeTensor

        is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if is_traced or isinstance(x, FakeTensor) or getattr(x, "is_meta", False):
            return None
    return np.asarray(ops.convert_to_numpy(x))


def with_rank(x: Tensor, rank: int, message: str) -> Tensor:
    """Returns a tensor of unknown rank with `rank` axes, and others unchanged.

    After calls with one and with two axes, a compiled function of TensorFlow is traced
    once for all ranks. A second axis of length 1 is removed if `rank` is 1.

    Args:
        x: Tensor or array.
        rank: Integer, 1 or 2.
        message: Error message of the runtime for any other shape.
    """
    if keras.backend.backend() != "tensorflow":
        return x
    import tensorflow as tf

    if not isinstance(x, tf.Tensor) or x.shape.rank is not None:
        return x
    shape = tf.shape(x)
    fits = tf.size(shape) == rank
    if rank == 1:
        fits = fits | (tf.reduce_all(shape[1:] == 1) & (tf.size(shape) == 2))
    with tf.control_dependencies([tf.debugging.Assert(fits, [message, shape])]):
        if rank == 1:
            return tf.reshape(x, [shape[0]])
        return tf.ensure_shape(x, [None] * rank)


def rows_of_sparse(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the values of a `tf.SparseTensor` and their row splits.

    Args:
        x: Sparse tensor of shape `(rows, columns)`, with its entries sorted by row.
    """
    import tensorflow as tf

    count = x.dense_shape[0] if x.shape[0] is None else x.shape[0]
    starts = tf.range(tf.cast(count, tf.int64) + 1)
    return x.values, tf.searchsorted(x.indices[:, 0], starts, out_type=tf.int32)


def rows_are_sorted(x: Tensor) -> bool:
    """Returns whether `rows_of_sparse` can be used, as far as the values are known."""
    if isinstance(x, keras.KerasTensor):
        return True
    rows, shape = concrete(x.indices), concrete(x.dense_shape)
    if rows is None or shape is None:
        return True
    rows = rows[:, 0]
    return bool((rows[1:] >= rows[:-1]).all() and (rows < shape[0]).all())


def row_of_each(row_splits: Tensor, count: Tensor) -> Tensor:
    """Returns the row index of each value of a ragged tensor.

    Compiled code cannot check row splits. There, the first one counts as 0 and the last
    one as the number of values; the others are clamped to that range and sorted. So
    each value belongs to one row, the same on every backend.

    Args:
        row_splits: Integers of shape `(rows + 1,)`. Row i consists of the values
            `row_splits[i]` to `row_splits[i + 1] - 1`.
        count: Integer or integer tensor, the number of values.

    Returns:
        Integers of shape `(count,)`, in ascending order.
    """
    # The cumulative sum of marks at the starts of rows. In XLA, a binary search for
    # each value takes thirty times as long.
    starts = wide_integers(row_splits[1:-1])
    most = ops.cast(count, starts.dtype)
    starts = ops.cast(ops.minimum(ops.maximum(starts, 0), most), "int32")
    return ops.cumsum(ops.segment_sum(ops.ones_like(starts), starts, count + 1))[:-1]


def take_rows(variable: Any, rows: Tensor, by_host: bool = False) -> Tensor:
    """Returns rows of a variable or a tensor.

    Uncompiled TensorFlow does not read the whole variable, which would copy it.

    Args:
        variable: A `keras.Variable` or tensor of shape `(rows, ...)`.
        rows: Integers of any shape, within the variable.
        by_host: Whether `rows` consists of equal parts, one per host, each looked up by
            its host. The values of rows of other hosts are arbitrary. Ignored if the
            variable is on every host. Defaults to `False`.
    """
    if is_spread(variable):
        spread = variable.spread
        take = spread.take_by_host if by_host else spread.take
        return take(variable.value, rows)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Unlike `ops.take`, without operations for negative integers.
        return tf.gather(getattr(variable, "value", variable), rows)
    return ops.take(variable, rows, axis=0)


def read_rows(variable: Any, start: int, stop: int) -> Tensor:
    """Returns the rows `start` to `stop - 1` of a variable."""
    if is_spread(variable):
        return variable.spread.read(variable, start, stop)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return take_rows(variable, tf.range(start, stop))
    return variable.value[start:stop]


def saved_shape(variable: Any) -> tuple[int, ...]:
    """Returns the shape that a variable has in files."""
    return tuple(getattr(variable, "spread", variable).shape)


def all_rows(variable: Any) -> Any:
    """Returns the values of a variable as an array of its shape in files."""
    if is_spread(variable):
        return variable.spread.read(variable, 0, variable.spread.shape[0])
    return variable.numpy()


def assign_all_rows(variable: Any, values: Any) -> None:
    """Assigns the values of a variable from an array of its shape in files."""
    if not is_spread(variable) and not isinstance(values, StoredRows):
        variable.assign(values)
        return
    if tuple(values.shape) != saved_shape(variable):
        raise ValueError(
            f"`values` must have the shape {saved_shape(variable)} of "
            f"{variable.path!r}. Received: shape {tuple(values.shape)}."
        )
    assign_rows(variable, 0, values)


def assign_rows(variable: Any, start: int, values: Tensor | StoredRows) -> None:
    """Assigns rows of a variable, beginning with row `start`."""
    if is_spread(variable):
        variable.spread.assign(variable, start, values)
        return
    if isinstance(values, StoredRows):
        _read_into(variable, start, values)
        return
    backend, value = keras.backend.backend(), variable.value
    stop = start + values.shape[0]
    if backend == "torch":
        value.data[start:stop] = values
    elif backend == "tensorflow" and not hasattr(value, "values"):
        value[start:stop].assign(values)
    else:  # JAX, and variables of a `tf.distribute` strategy
        first = (start, *(0 for _ in values.shape[1:]))
        variable.assign(ops.slice_update(value, first, values))


def _read_into(variable: Any, start: int, values: StoredRows) -> None:
    """Reads rows into a variable in pieces, without a copy of the variable."""
    starts = range(0, len(values), PIECE)
    pieces = (values[first : first + PIECE] for first in starts)
    if keras.backend.backend() == "jax":
        variable.assign(filled(variable.value, start, pieces))
        return
    for first, piece in zip(starts, pieces, strict=True):
        rows = ops.convert_to_tensor(piece, dtype=variable.dtype)
        assign_rows(variable, start + first, rows)


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
    cannot raise and drop the check, and for distributed training, in which the other
    processes would wait for the one that raises.

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
            if _hosts.mesh() is not None:
                return ids
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
            `offsets[k + 1] - 1`. That of the last key is empty.
        keys: Integers of shape `(batch,)`.
        num_pairs: Integer, at least the last of the offsets. On JAX, positions from the
            last offset on are assigned to the last key, whose length stays 0.

    Returns:
        A tuple of four integer tensors: the positions of all spans, concatenated; the
        index of the span of each position; the length of each span; and the index of
        the span of each example.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        unique, index = tf.unique(keys)
        starts = tf.gather(offsets, unique)
        lengths = tf.gather(offsets, unique + 1) - starts
        if not _PORTABLE.get():
            # Faster, but LiteRT lacks the operation.
            spans = tf.ragged.range(starts, starts + lengths, row_splits_dtype="int32")
            positions = spans.values
            owners = row_of_each(spans.row_splits, tf.size(positions))
            return positions, owners, lengths, index
        owners = tf.repeat(tf.range(tf.size(unique)), lengths)
        shifts = starts - (tf.cumsum(lengths) - lengths)
        positions = tf.range(tf.size(owners)) + tf.gather(shifts, owners)
        return positions, owners, lengths, index
    if backend == "torch":
        import torch

        unique, index = torch.unique(keys, return_inverse=True)
        starts = offsets[unique]
        lengths = offsets[unique + 1] - starts
        spans = torch.arange(len(unique), device=keys.device)
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


def pairs_contain(
    owners: Tensor, values: Tensor, size: int, of: Tensor, wanted: Tensor
) -> Tensor | None:
    """Returns whether the span `of` of each example contains the value `wanted`.

    It is a search in sorted 64-bit integers. Where there are none, on JAX and in
    LiteRT, it returns `None`.

    Args:
        owners: Integers `(positions,)` in ascending order, the span of each value.
        values: Integers `(positions,)` below `size`, in ascending order in each span.
        size: Integer.
        of: Integers `(batch,)`, the index of a span.
        wanted: Integers `(batch,)` below `size`.
    """
    if keras.backend.backend() == "jax" or _PORTABLE.get():
        return None

    def code(owners: Tensor, values: Tensor) -> Tensor:
        return ops.cast(owners, "int64") * size + ops.cast(values, "int64")

    # With an end, so that a search always has a result.
    end = ops.full((1,), -1, dtype="int64")
    codes = ops.concatenate([end, code(owners, values)])
    searched = code(of, wanted)
    at = ops.searchsorted(codes, searched, side="right") - 1
    return ops.equal(ops.take(codes, at), searched)


def distinct(values: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Returns distinct integers below `size`, and the position of each value in them.

    Except on TensorFlow, these are all of them, since gradients are dense anyway. Over
    hosts, they are in equal parts, one per host.
    """
    if keras.backend.backend() == "tensorflow" and not _PORTABLE.get():
        import tensorflow as tf

        unique, positions = tf.unique(values)
        return unique, positions
    mesh = _hosts.mesh()
    if mesh is not None:
        return every_row_by_host(values, size, mesh.size)
    return ops.arange(size, dtype="int32"), values


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
    return sum_by_owner(rows, owners, count)


def sum_by_owner(rows: Tensor, owners: Tensor, count: Tensor) -> Tensor:
    """Same as `sum_spans`, in programs of LiteRT, ONNX and XLA as well."""

    def total(rows: Tensor) -> Tensor:
        # One additional span: Keras on PyTorch treats 0 like a missing argument.
        return ops.segment_sum(rows, owners, count + 1)[:count]

    if not uses_xla():
        return total(rows)
    import tensorflow as tf

    @tf.custom_gradient
    def summed(rows: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        def gradient(upstream: Tensor) -> Tensor:
            # A sum, to store the gradient of each span. Otherwise, XLA would compute it
            # again for each row.
            spans = tf.range(tf.shape(upstream)[0])
            stored = tf.math.unsorted_segment_sum(upstream, spans, tf.size(spans))
            return tf.gather(stored, owners)

        return total(rows), gradient

    return summed(rows)


def sum_rows(
    table: Tensor,
    indices: Tensor,
    owners: Tensor,
    count: Tensor,
    *,
    weights: Tensor | None = None,
    sorted_indices: Tensor | None = None,
    sorted_owners: Tensor | None = None,
) -> Tensor:
    """Looks up rows of a table and sums those of each span.

    Args:
        table: Floats of shape `(rows, dim)`.
        indices: Integers of shape `(positions,)`, the rows to look up.
        owners: Integers of shape `(positions,)` in ascending order, the index of the
            span of each row.
        count: Number of spans: an integer, or a tensor on TensorFlow.
        weights: Optional floats of shape `(positions, 1)`.
        sorted_indices: Optional `indices` in ascending order. On TensorFlow, the
            gradient takes a quarter of the time with them.
        sorted_owners: Optional integers `(positions,)`, the owners in this order.

    Returns:
        Floats of shape `(count, dim)`, with zeros for an empty span.
    """
    is_plain = weights is None and not _PORTABLE.get()
    if is_plain and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Does not write the looked-up rows to memory.
        if sorted_indices is None:
            return tf.sparse.segment_sum(table, indices, owners, num_segments=count)
        size = tf.shape(table)[0]

        @tf.custom_gradient
        def summed(table: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
            def gradient(sums: Tensor) -> Tensor:
                return tf.sparse.segment_sum(
                    sums, sorted_owners, sorted_indices, num_segments=size
                )

            sums = tf.sparse.segment_sum(table, indices, owners, num_segments=count)
            return sums, gradient

        return summed(table)
    rows = ops.take(table, indices, axis=0)
    return sum_spans(rows if weights is None else weights * rows, owners, count)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of tensors that runs as a graph of the backend.

    PyTorch runs it as it is, without gradients. On a GPU, JAX computes its products in
    full float32.
    """
    backend = keras.backend.backend()
    graph: Callable[..., Any]
    if backend == "tensorflow":
        import tensorflow as tf

        # TensorFlow warns if functions of the same code are traced often. It does not
        # look into a partial, so that each result of this function counts on its own.
        graph = tf.function(functools.partial(function), autograph=False)
    elif backend == "jax":
        import jax

        # Otherwise they have 10 bits, too few to solve systems of equations.
        graph = jax.default_matmul_precision("float32")(jax.jit(function))
    else:
        import torch

        graph = torch.no_grad()(function)
    return graph
