from collections.abc import Iterator
from typing import Any, TypeVar

from keras import ops

from fmlayers._backend import raise_where
from fmlayers._names import safe_name
from fmlayers._row_gradients import look_up
from fmlayers._types import Tensor
from fmlayers.features import Categorical, History, MultiCategorical
from fmlayers.layers._fields.field import Field

F = TypeVar("F", bound=Categorical | MultiCategorical | History)


class TableField(Field[F]):
    """A field whose vectors are rows of a table. Fields may share the table."""

    @property
    def table(self) -> Any:
        """The weight `(rows, dim)`. The row of unknown ids, if any, is the last."""
        return self.layer.tables[self.feature.table_name]

    def build(self) -> None:
        name = self.feature.table_name
        if name not in self.layer.tables:
            self.layer.tables[name] = self._add_table()

    def weights(self) -> Iterator[tuple[tuple[str, str], Any]]:
        yield ("table", self.feature.table_name), self.table

    def look_up(self, ids: Tensor, mask_zero: bool) -> tuple[Tensor, Tensor | None]:
        """Returns the rows of ids, with zeros for missing values.

        Args:
            ids: Integers of any shape.
            mask_zero: Whether the id 0 marks a missing value.

        Returns:
            The rows `(..., dim)`, and Booleans of the shape of `ids` that are `False`
            for missing values, or `None` if no value can be missing.
        """
        size, policy = self.feature.vocabulary_size, self.layer.out_of_range
        inside = ops.logical_and(ids >= 0, ids < size)
        present = None
        if policy == "zero":
            present = inside
        elif policy == "error":
            message = (
                f"Feature {self.feature.name!r} has an id outside 0 ... {size - 1}. "
                'Correct the ids, or set `out_of_range` to "unknown" or "zero".'
            )
            ids = raise_where(ops.logical_not(inside), ids, message)
        if mask_zero:
            nonzero = ids != 0
            present = nonzero if present is None else ops.logical_and(present, nonzero)
        rows = ops.where(inside, ids, size if policy == "unknown" else 0)
        vectors = ops.cast(look_up(self.table, rows), self.dtype)
        if policy == "error":
            vectors = ops.where(ops.expand_dims(inside, -1), vectors, float("nan"))
        if present is not None:
            vectors = ops.where(ops.expand_dims(present, -1), vectors, 0.0)
        return vectors, present

    def _add_table(self) -> Any:
        initializer = self.fresh_initializer()
        has_unknown = self.layer.out_of_range == "unknown"

        def initialize(shape: tuple[int, int], dtype: str) -> Tensor:
            size, dim = shape
            if not has_unknown:
                return initializer(shape, dtype=dtype)
            rows = initializer((size - 1, dim), dtype=dtype)
            return ops.concatenate([rows, ops.zeros((1, dim), dtype=dtype)])

        return self.layer.add_weight(
            shape=(self.feature.vocabulary_size + has_unknown, self.layer.dim),
            initializer=initialize,
            autocast=False,
            name=f"{safe_name(self.feature.table_name)}_embeddings",
        )
