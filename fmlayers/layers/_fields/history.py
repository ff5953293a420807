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

# Up to so many cells of keys times values, a batch's lists are summed as a product
# of a dense matrix of ones with the table: five times as fast as by gathering rows
# on MovieLens, where one cell in twenty is a pair.
MAX_DENSE_CELLS = 2**25


class HistoryField(TableField[History]):
    """The rows of the ids that go with another id, pooled, without the example's own.

    Where an L2 is asked for, the rows carry their squared norm, which is pooled as they
    are, as one more column.
    """

    def build(self) -> None:
        super().build()
        name = self.feature.name
        if name not in self.layer.histories:
            lists = HistoryLists(self.feature, name=safe_name(name))
            self.layer.histories[name] = lists

    def embed(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        key, value = self.feature.entries
        own = value.read(inputs) if value.is_in(inputs) else None
        lists = self.layer.histories[self.feature.name](key.read(inputs), own)
        table = ops.convert_to_tensor(self.table)
        count = ops.shape(lists.lengths)[0]
        has_own = ops.expand_dims(lists.own > 0, -1)
        own_rows = ops.where(has_own, ops.take(table, lists.own, axis=0), 0.0)
        if self.feature.num_keys * self.feature.vocabulary_size <= MAX_DENSE_CELLS:
            sums = self._sums_by_product(table, lists, count)
        else:
            rows = self._with_squares(ops.take(table, lists.values, axis=0))
            sums = sum_spans(rows, lists.owners, count)

        total = ops.take(sums, lists.index, axis=0) - self._with_squares(own_rows)
        length = ops.expand_dims(ops.take(lists.lengths, lists.index), -1)
        length = ops.cast(length, total.dtype) - ops.cast(has_own, total.dtype)
        # What is left of a sum when all of it has been taken away is rounding.
        divisor = ops.maximum(length, 1.0) ** _POWERS[self.feature.combiner]
        pooled = ops.where(length > 0.0, total / divisor, 0.0)
        return pooled[:, : self.layer.dim], pooled[:, -1]

    def _sums_by_product(
        self, table: Tensor, lists: BatchHistories, count: Tensor
    ) -> Tensor:
        """Returns the sums of `count` lists, as one product of matrices."""
        size = self.feature.vocabulary_size
        # A row that is not finite is to reach the lists that have it, no others.
        finite = ops.all(ops.isfinite(table[:size]), axis=-1, keepdims=True)
        rows = self._with_squares(ops.where(finite, table[:size], 0.0))
        broken = ops.cast(ops.logical_not(finite), rows.dtype)
        cells = lists.owners * size + lists.values
        ones = ops.ones_like(cells, dtype=rows.dtype)
        # One more than there are: Keras on PyTorch takes 0 for "not given".
        listed = ops.segment_sum(ones, cells, count * size + 1)[:-1]
        sums = ops.matmul(
            ops.reshape(listed, (count, size)),
            ops.concatenate([rows, broken], axis=-1),
        )
        return ops.where(sums[:, -1:] > 0.0, float("nan"), sums[:, :-1])

    def _with_squares(self, rows: Tensor) -> Tensor:
        rows = ops.cast(rows, self.dtype)
        if not self.l2:
            return rows
        squares = ops.sum(ops.square(rows), axis=-1, keepdims=True)
        return ops.concatenate([rows, squares], axis=-1)
