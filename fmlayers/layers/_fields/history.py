from collections.abc import Mapping

from keras import ops

from fmlayers._names import safe_name
from fmlayers._types import Tensor
from fmlayers.features import History
from fmlayers.layers._fields.table import TableField, rows_of
from fmlayers.layers._history_lists import HistoryLists


class HistoryField(TableField[History]):
    """The pooled table rows of the history of an id, without the example's own value.

    With an L2, the squared norms of the rows are pooled with the rows.
    """

    @property
    def lists(self) -> HistoryLists:
        """The histories, which fields of other layers may share."""
        return self.layer.histories[self.feature.name]

    def build(self) -> None:
        name = self.feature.name
        if name not in self.layer.histories:
            histories = HistoryLists(self.feature, name=safe_name(name))
            self.layer.histories[name] = histories

    def embed(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        vectors, norms = inputs[self.feature.name][self.layer.pooling_key]
        return vectors, norms

    def rows(self, ids: Tensor, by_host: bool = False) -> Tensor:
        """Returns the rows of ids.

        Args:
            ids: Integers `(ids,)`.
            by_host: Whether each host looks up its part of the ids; see `rows_of`.
                Defaults to `False`.
        """
        return ops.cast(rows_of(self.table, ids, by_host), self.dtype)
