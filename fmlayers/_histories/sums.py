"""The pooled histories of a batch, summed once for all layers that share them."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from keras import ops

from fmlayers._backend import sum_rows
from fmlayers._histories.index import BatchHistories
from fmlayers._types import Tensor
from fmlayers.features import History

# The divisor of each combiner for a sum of n vectors. A power would take longer than
# the sum, because XLA computes it for each column.
_DIVISORS = {"sum": ops.ones_like, "sqrtn": ops.sqrt, "mean": lambda n: n}


class HistorySums(NamedTuple):
    """The sums of the table rows in the histories of a batch, one per example.

    Attributes:
        own: `(batch,)`, the example's own value if its history contains it, else 0.
        length: `(batch,)`, the number of ids in the history.
        total: `(batch, columns)`, the sums of `HistoryField.rows`.
    """

    own: Tensor
    length: Tensor
    total: Tensor

    def pooled(self, fields: list["HistoryField"]) -> tuple[Tensor, Tensor]:
        """Returns the pooled rows without the examples' own values, and the divisors.

        Returns:
            A tuple of floats `(batch, columns)` and `(batch, 1)`.
        """
        dtype = self.total.dtype
        has_own = ops.expand_dims(self.own > 0, -1)
        length = ops.cast(ops.expand_dims(self.length, -1), dtype)
        length = length - ops.cast(has_own, dtype)
        divisor = _DIVISORS[fields[0].feature.combiner](ops.maximum(length, 1.0))
        own = ops.where(has_own, rows(fields, self.own), 0.0)
        # The sum of an empty history is 0 only up to rounding.
        pooled = ops.where(length > 0.0, (self.total - own) * (1.0 / divisor), 0.0)
        return pooled, divisor


class HistoryField(Protocol):
    """A field of a `FeatureEmbedding` that pools histories."""

    feature: History
    layer: Any
    dtype: str

    @property
    def num_columns(self) -> int:
        """The number of columns of `rows`."""

    @property
    def lists(self) -> Any:
        """The layer that looks up the histories of keys."""

    def rows(self, ids: Tensor) -> Tensor:
        """Returns the table rows of ids, `(ids, num_columns)`."""


class SharedHistory(NamedTuple):
    """The histories of a batch, and the fields of all layers that sum them.

    Attributes:
        fields: The fields.
        batch: The histories.
    """

    fields: list[HistoryField]
    batch: BatchHistories

    def sums(self, rows: Tensor) -> HistorySums:
        """Returns the sums of the rows in each example's history."""
        batch = self.batch
        totals = sum_rows(
            rows,
            batch.values,
            batch.owners,
            ops.shape(batch.lengths)[0],
            sorted_indices=batch.sorted_values,
            sorted_owners=batch.sorted_owners,
        )
        return HistorySums(
            batch.own,
            ops.take(batch.lengths, batch.index),
            ops.take(totals, batch.index, axis=0),
        )


def with_history_sums(
    fields: Iterable[HistoryField], inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the inputs with the pooled histories of some fields.

    The entry with the name of the feature contains them, by layer. Previously, this
    entry may contain the `BatchHistories` of the batch.
    """
    inputs = dict(inputs)
    for shared in shared_histories(fields, inputs):
        found = rows(shared.fields, shared.batch.rows)
        inputs = with_sums(inputs, shared.fields, shared.sums(found))
    return inputs


def rows(fields: list[HistoryField], ids: Tensor) -> Tensor:
    """Returns the table rows of all fields that share a history, `(ids, columns)`."""
    dtype = "float64" if "float64" in [field.dtype for field in fields] else "float32"
    each = [ops.cast(field.rows(ids), dtype) for field in fields]
    return ops.concatenate(each, axis=-1)


def with_sums(
    inputs: Mapping[str, Any], fields: list[HistoryField], sums: HistorySums
) -> dict[str, Any]:
    """Returns the inputs with the pooled rows of fields that share a history."""
    name = fields[0].feature.name
    pooled, divisor = sums.pooled(fields)
    entry = inputs.get(name)
    by_layer = dict(entry) if isinstance(entry, dict) else {}
    start = 0
    for field in fields:
        end = start + field.num_columns
        each = pooled[:, start:end], divisor
        by_layer[field.layer.pooling_key] = [ops.cast(x, field.dtype) for x in each]
        start = end
    return {**inputs, name: by_layer}


def shared_histories(
    fields: Iterable[HistoryField], inputs: Mapping[str, Any]
) -> list[SharedHistory]:
    """Returns the histories of a batch that are not yet summed."""
    sharing: dict[Any, list[HistoryField]] = {}
    for field in fields:
        entry = inputs.get(field.feature.name)
        if not (isinstance(entry, dict) and field.layer.pooling_key in entry):
            is_prepared = isinstance(entry, BatchHistories)
            source = field.feature.name if is_prepared else id(field.lists)
            key = source, field.feature.combiner
            sharing.setdefault(key, []).append(field)
    return [SharedHistory(each, _batch(each[0], inputs)) for each in sharing.values()]


def _batch(field: HistoryField, inputs: Mapping[str, Any]) -> BatchHistories:
    entry = inputs.get(field.feature.name)
    if isinstance(entry, BatchHistories):
        return entry
    key, value = field.feature.entries
    own = value.read(inputs) if value.is_in(inputs) else None
    batch: BatchHistories = field.lists(key.read(inputs), own)
    return batch
