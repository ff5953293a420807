from collections.abc import Mapping

from keras import ops

from fmlayers._backend import sum_spans
from fmlayers._names import safe_name
from fmlayers._types import Tensor
from fmlayers.features import History
from fmlayers.layers._fields.table import TableField
from fmlayers.layers._history_lists import BatchHistories, HistoryLists

# A combiner divides the sum of n vectors by n to this power.
_POWERS = {"sum": 0.0, "sqrtn": 0.5, "mean": 1.0}

# If the matrix of keys and values has at most this many cells, the sums of a batch are
# the product of a dense matrix of ones and the table. On MovieLens, where one cell in
# twenty is a pair, this is five times as fast as gathering rows.
MAX_DENSE_CELLS = 2**25


class HistoryField(TableField[History]):
    """The pooled table rows of the history of an id, without the example's own value.

    With an L2, the squared norms of the rows are an additional column that is pooled
    with the rows.
    """

    def build(self) -> None:
        name = self.feature.name
        if name not in self.layer.histories:
            histories = HistoryLists(self.feature, name=safe_name(name))
            self.layer.histories[name] = histories

    def embed(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        key, value = self.feature.entries
        own = value.read(inputs) if value.is_in(inputs) else None
        histories = self.layer.histories[self.feature.name](key.read(inputs), own)
        table = ops.convert_to_tensor(self.table)
        count = ops.shape(histories.lengths)[0]
        has_own = ops.expand_dims(histories.own > 0, -1)
        own_rows = ops.where(has_own, ops.take(table, histories.own, axis=0), 0.0)
        if self.feature.num_keys * self.feature.vocabulary_size <= MAX_DENSE_CELLS:
            sums = self._sums_by_product(table, histories, count)
        else:
            rows = self._with_squares(ops.take(table, histories.values, axis=0))
            sums = sum_spans(rows, histories.owners, count)

        total = ops.take(sums, histories.index, axis=0) - self._with_squares(own_rows)
        length = ops.expand_dims(ops.take(histories.lengths, histories.index), -1)
        length = ops.cast(length, total.dtype) - ops.cast(has_own, total.dtype)
        # The sum of an empty history is 0 only up to rounding, hence the `where`.
        divisor = ops.maximum(length, 1.0) ** _POWERS[self.feature.combiner]
        pooled = ops.where(length > 0.0, total / divisor, 0.0)
        return pooled[:, : self.layer.dim], pooled[:, -1]

    def _sums_by_product(
        self, table: Tensor, histories: BatchHistories, count: Tensor
    ) -> Tensor:
        """Returns the sums of `count` histories, as one product of matrices."""
        size = self.feature.vocabulary_size
        # A row that is not finite must reach only the histories that contain it.
        finite = ops.all(ops.isfinite(table[:size]), axis=-1, keepdims=True)
        rows = self._with_squares(ops.where(finite, table[:size], 0.0))
        broken = ops.cast(ops.logical_not(finite), rows.dtype)
        cells = histories.owners * size + histories.values
        ones = ops.ones_like(cells, dtype=rows.dtype)
        # One additional segment: Keras on PyTorch ignores `num_segments=0`.
        ones_of_pairs = ops.segment_sum(ones, cells, count * size + 1)[:-1]
        sums = ops.matmul(
            ops.reshape(ones_of_pairs, (count, size)),
            ops.concatenate([rows, broken], axis=-1),
        )
        return ops.where(sums[:, -1:] > 0.0, float("nan"), sums[:, :-1])

    def _with_squares(self, rows: Tensor) -> Tensor:
        rows = ops.cast(rows, self.dtype)
        if not self.l2:
            return rows
        squares = ops.sum(ops.square(rows), axis=-1, keepdims=True)
        return ops.concatenate([rows, squares], axis=-1)
