from collections.abc import Mapping

from keras import ops

from fmlayers._names import safe_name
from fmlayers._types import Tensor
from fmlayers.features import History
from fmlayers.layers._fields.table import TableField, rows_of
from fmlayers.layers._history_lists import HistoryLists


class HistoryField(TableField[History]):
    """The pooled table rows of the history of an id, without the example's own value.

    With an L2, the squared norms of the rows are an additional column that is pooled
    with the rows.
    """

    @property
    def lists(self) -> HistoryLists:
        """The histories, which fields of other layers may share."""
        return self.layer.histories[self.feature.name]

    @property
    def num_columns(self) -> int:
        """The number of columns of `rows`."""
        return self.layer.dim + (self.l2 > 0)

    def build(self) -> None:
        name = self.feature.name
        if name not in self.layer.histories:
            histories = HistoryLists(self.feature, name=safe_name(name))
            self.layer.histories[name] = histories

    def embed(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        pooled, divisor = inputs[self.feature.name][self.layer.pooling_key]
        dim = self.layer.dim
        return pooled[:, :dim], pooled[:, dim] if self.l2 else divisor

    def rows(self, ids: Tensor) -> Tensor:
        """Returns the rows of ids, with their squared norms if there is an L2."""
        rows = ops.cast(rows_of(self.table, ids), self.dtype)
        if not self.l2:
            return rows
        # If a row in no history is not finite, its gradient of 0 must not become NaN.
        finite = ops.all(ops.isfinite(rows), axis=-1, keepdims=True)
        squares = ops.square(ops.where(finite, rows, 0.0))
        squares = ops.sum(squares, axis=-1, keepdims=True)
        squares = ops.where(finite, squares, float("nan"))
        return ops.concatenate([rows, squares], axis=-1)
