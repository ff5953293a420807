"""The pooled histories of a batch, summed once for all layers that share them."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np
from keras import ops

from fmlayers import _hosts
from fmlayers._backend import sum_rows, take_rows
from fmlayers._histories.by_host import HistoriesByHost
from fmlayers._histories.index import BatchHistories
from fmlayers._histories.sums_over_hosts import sums_over_hosts
from fmlayers._types import Tensor
from fmlayers.features import History

# TensorFlow sums rows in vectors of eight numbers, and the rest one by one: 72 columns
# take 0.83 of the time of 67.
LANES = 8
# The divisor of each combiner for a sum of n vectors. A power would take longer than
# the sum, because XLA computes it for each column.
_DIVISORS = {"sum": ops.ones_like, "sqrtn": ops.sqrt, "mean": lambda n: n}


class HistorySums(NamedTuple):
    """The sums of the table rows in the histories of a batch, one per example.

    Attributes:
        own: `(batch,)`, the example's own value if its history contains it, else 0.
        length: `(batch,)`, the number of ids in the history.
        total: `(batch, columns)`, the sums of `HistoryField.rows`.
        excludes_own: Whether `total` already excludes the example's own value.
    """

    own: Tensor
    length: Tensor
    total: Tensor
    excludes_own: bool = False

    def pooled(self, fields: list["HistoryField"]) -> tuple[Tensor, Tensor]:
        """Returns the pooled rows without the examples' own values, and the divisors.

        Returns:
            A tuple of floats `(batch, columns)` and `(batch, 1)`.
        """
        dtype = self.total.dtype
        has_own = ops.expand_dims(self.own > 0, -1)
        length = ops.cast(ops.expand_dims(self.length, -1), dtype)
        length = length - ops.cast(has_own, dtype)
        divisor = _DIVISORS[fields[0].feature.combiner](
            ops.maximum(length, ops.ones((), dtype))
        )
        inverse = 1.0 / divisor

        # On TensorFlow, the gradient of `where` would take a dozen operations.
        @ops.custom_gradient
        def pool(total: Tensor, own: Tensor) -> tuple[Tensor, Callable[..., Any]]:
            def gradient(*args: Tensor, upstream: Tensor | None = None) -> Any:
                upstream = args[-1] if upstream is None else upstream
                of_total = ops.where(length > 0.0, upstream * inverse, 0.0)
                return of_total, ops.where(has_own, -of_total, 0.0)

            others = total - ops.where(has_own, own, 0.0)
            # The sum of an empty history is 0 only up to rounding.
            return ops.where(length > 0.0, others * inverse, 0.0), gradient

        if self.excludes_own:
            return pool(self.total, ops.zeros_like(self.total)), divisor
        return pool(self.total, rows(fields, self.own)), divisor


class HistoryField(Protocol):
    """A field of a `FeatureEmbedding` that pools histories."""

    feature: History
    layer: Any
    l2: float
    dtype: str

    @property
    def lists(self) -> Any:
        """The layer that looks up the histories of keys."""

    @property
    def is_spread(self) -> bool:
        """Whether the rows of the table are spread over hosts."""

    def rows(self, ids: Tensor, by_host: bool = False) -> Tensor:
        """Returns the table rows of ids, `(ids, dim)`."""


class SharedHistory(NamedTuple):
    """The histories of a batch, and the fields of all layers that sum them.

    Attributes:
        fields: The fields. Either all of their tables are spread over hosts, or none.
        batch: The histories.
        pairs_by_host: Whether the pairs of `batch` are in equal parts, one per host.
    """

    fields: list[HistoryField]
    batch: BatchHistories
    pairs_by_host: bool

    def sums(self) -> HistorySums:
        """Returns the sums of the table rows in each example's history."""
        if not self.fields[0].is_spread:
            return self.sums_of(self.table())
        batch = self.batch
        look_up = functools.partial(rows, self.fields, by_host=True)
        total = sums_over_hosts(look_up, batch, self.pairs_by_host)
        length = take_rows(batch.lengths, batch.index)
        return HistorySums(batch.own, length, total, excludes_own=True)

    def table(self) -> Tensor:
        """Returns the table rows that the histories contain, `(rows, columns)`."""
        return rows(self.fields, self.batch.rows)

    def sums_of(self, table: Tensor) -> HistorySums:
        """Returns the sums of rows of `table` in each example's history."""
        batch = self.batch
        totals = sum_rows(
            table,
            batch.values,
            batch.owners,
            ops.shape(batch.lengths)[0],
            sorted_indices=batch.sorted_values,
            sorted_owners=batch.sorted_owners,
        )
        length = take_rows(batch.lengths, batch.index)
        return HistorySums(batch.own, length, _of_examples(totals, batch.index))


def _of_examples(totals: Tensor, index: Tensor) -> Tensor:
    """Returns the row of each example."""
    if keras.backend.backend() != "tensorflow":
        return take_rows(totals, index)
    import tensorflow as tf

    # The gradient that TensorFlow derives takes twice as long.
    @tf.custom_gradient
    def take(totals: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        def gradient(upstream: Tensor) -> Tensor:
            return tf.scatter_nd(tf.expand_dims(index, 1), upstream, tf.shape(totals))

        return tf.gather(totals, index), gradient

    return take(totals)


def with_history_sums(
    fields: Iterable[HistoryField], inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the inputs with the pooled histories of some fields.

    The entry with the name of the feature contains them, by layer. In `inputs`, this
    entry may contain the `BatchHistories` or the `HistoriesByHost` of the batch.
    """
    inputs = dict(inputs)
    for shared in shared_histories(fields, inputs):
        inputs = with_sums(inputs, shared.fields, shared.sums())
    return inputs


def rows(fields: list[HistoryField], ids: Tensor, *, by_host: bool = False) -> Tensor:
    """Returns the table rows of all fields that share a history.

    With an L2, the rows of a field are followed by their squared norms. On TensorFlow,
    columns of zeros follow up to a multiple of `LANES`.

    Args:
        fields: The fields.
        ids: Integers `(ids,)`.
        by_host: Whether each host looks up its part of the ids. Defaults to `False`.

    Returns:
        Floats `(ids, columns)`.
    """
    dtype = "float64" if "float64" in [field.dtype for field in fields] else "float32"
    each = [ops.cast(field.rows(ids, by_host), dtype) for field in fields]
    return _with_norms(each, [field.l2 > 0 for field in fields])


def _with_norms(tables: Sequence[Tensor], has_norms: Sequence[bool]) -> Tensor:
    """Concatenates the columns of tables and, for some of them, their squared norms."""
    dims = [table.shape[-1] for table in tables]

    # Automatic differentiation would take five times as many operations.
    @ops.custom_gradient
    def join(*tables: Tensor) -> tuple[Tensor, Callable[..., Any]]:
        def gradient(*args: Tensor, upstream: Tensor | None = None) -> Any:
            upstream = args[-1] if upstream is None else upstream
            parts = _parts(upstream, dims, has_norms)
            gradients = tuple(
                of_rows if of_norms is None else of_rows + _of_squares(of_norms, rows)
                for rows, (of_rows, of_norms) in zip(tables, parts, strict=True)
            )
            return gradients if len(gradients) > 1 else gradients[0]

        columns = []
        for rows, has_norm in zip(tables, has_norms, strict=True):
            columns.append(rows)
            if has_norm:
                columns.append(ops.sum(ops.square(rows), axis=-1, keepdims=True))
        joined = ops.concatenate(columns, axis=-1)
        padding = -joined.shape[-1] % LANES
        if padding and keras.backend.backend() == "tensorflow":
            joined = ops.pad(joined, ((0, 0), (0, padding)))
        return joined, gradient

    joined: Tensor = join(*tables)
    return joined


def _of_squares(of_norms: Tensor, rows: Tensor) -> Tensor:
    """Returns the gradient of rows, from that of their squared norms."""
    # If a row in no history is not finite, its gradient of 0 must not become NaN.
    return ops.where(of_norms == 0.0, 0.0, rows) * (2.0 * of_norms)


def _parts(
    columns: Tensor, dims: Sequence[int], has_norms: Sequence[bool]
) -> list[tuple[Tensor, Tensor | None]]:
    """Splits the columns of `_with_norms` into rows and norms, one pair per table."""
    sizes = [n for dim, has in zip(dims, has_norms, strict=True) for n in (dim, has)]
    *ends, end = np.cumsum(sizes).tolist()
    if end < columns.shape[-1]:  # padding follows
        ends.append(end)
    parts = ops.split(columns, ends, axis=-1)[: len(sizes)]
    norms = [
        each if has else None for each, has in zip(parts[1::2], has_norms, strict=True)
    ]
    return list(zip(parts[::2], norms, strict=True))


def with_sums(
    inputs: Mapping[str, Any], fields: list[HistoryField], sums: HistorySums
) -> dict[str, Any]:
    """Returns the inputs with the pooled rows of fields that share a history.

    For each layer, these are the vectors `(batch, dim)`, and the norms `(batch, 1)`, or
    the divisors without an L2.
    """
    name = fields[0].feature.name
    pooled, divisor = sums.pooled(fields)
    entry = inputs.get(name)
    by_layer = dict(entry) if isinstance(entry, dict) else {}
    dims = [field.layer.dim for field in fields]
    parts = _parts(pooled, dims, [field.l2 > 0 for field in fields])
    for field, (vectors, norms) in zip(fields, parts, strict=True):
        pair = vectors, divisor if norms is None else norms
        by_layer[field.layer.pooling_key] = [ops.cast(x, field.dtype) for x in pair]
    return {**inputs, name: by_layer}


def shared_histories(
    fields: Iterable[HistoryField], inputs: Mapping[str, Any]
) -> list[SharedHistory]:
    """Returns the histories of a batch that are not yet summed."""
    sharing: dict[Any, list[HistoryField]] = {}
    for field in fields:
        entry = inputs.get(field.feature.name)
        if not (isinstance(entry, dict) and field.layer.pooling_key in entry):
            is_prepared = isinstance(entry, (BatchHistories, HistoriesByHost))
            source = field.feature.name if is_prepared else id(field.lists)
            key = source, field.feature.combiner, field.is_spread
            sharing.setdefault(key, []).append(field)
    return [_shared(each, inputs) for each in sharing.values()]


def _shared(fields: list[HistoryField], inputs: Mapping[str, Any]) -> SharedHistory:
    field = fields[0]
    entry = inputs.get(field.feature.name)
    if isinstance(entry, HistoriesByHost):
        batch = BatchHistories(*entry)
        if not field.is_spread:
            # Otherwise, the hosts would exchange the rows instead.
            batch = batch._replace(rows=_hosts.on_every_host(batch.rows))
        return SharedHistory(fields, batch, True)
    if not isinstance(entry, BatchHistories):
        key, value = field.feature.entries
        own = value.read(inputs) if value.is_in(inputs) else None
        entry = field.lists(key.read(inputs), own)
    elif _hosts.mesh() is not None:
        raise ValueError(
            "In distributed training, batches must not bring their histories along, "
            "because each process has different examples. Omit `histories` of "
            f"`ShuffledBatches`. Received: histories of {field.feature.name!r}."
        )
    return SharedHistory(fields, entry, False)
