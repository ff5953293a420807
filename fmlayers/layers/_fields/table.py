from collections.abc import Callable, Container, Hashable, Iterator
from typing import Any, TypeVar

import numpy as np
from keras import ops

from fmlayers._backend import is_portable, raise_where
from fmlayers._names import safe_name
from fmlayers._spread.rows import is_spread
from fmlayers._training.row_gradients import look_up
from fmlayers._types import OutOfRange, Tensor
from fmlayers.features import Categorical, History, MultiCategorical
from fmlayers.layers._fields.field import Field, Key
from fmlayers.layers._fields.initial_rows import InitialRows
from fmlayers.layers._fields.weights import Weight
from fmlayers.layers._rows_view import RowsView

F = TypeVar("F", bound=Categorical | MultiCategorical | History)


class TableField(Field[F]):
    """A field whose vectors are rows of a table. Fields may share the table."""

    @property
    def table(self) -> Any:
        """The weight `(rows, dim)`. The row of unknown ids, if any, is the last.

        It is a `keras.Variable`, or a `RowsView` if its variable has other tables.
        """
        return self.layer.tables[self.feature.table_name]

    @property
    def is_spread(self) -> bool:
        """Whether the rows of the table are spread over hosts."""
        table = self.table
        return isinstance(table, RowsView) and is_spread(table.variable)

    @property
    def source(self) -> Hashable:
        table = self.table
        if not isinstance(table, RowsView):
            return None
        return id(table.variable), table.trainable

    def declare(self, declared: Container[Key]) -> Iterator[tuple[Key, Weight]]:
        name, layer = self.feature.table_name, self.layer
        if ("table", name) in declared:
            return
        size = self.feature.vocabulary_size + (layer.out_of_range == "unknown")
        # Frozen tables are apart, so that an optimizer has no slots for them. A table
        # of a history is alone, since a step reads all of its rows.
        group: tuple[str, ...] = ("embeddings",)
        if name in layer.history_tables:
            group = ("history", name)
        elif not self.is_trainable:
            group = ("embeddings", "frozen")
        weight_name = f"{safe_name(name)}_embeddings"
        initial = InitialRows(self.fresh_initializer(), layer.out_of_range == "unknown")
        yield ("table", name), Weight(weight_name, (size, layer.dim), initial, group)

    def weights(self) -> Iterator[tuple[Key, Any]]:
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
        if self.layer.out_of_range == "error":
            ids = self.checked(ids)
        return look_up_known(
            ids,
            self.feature.vocabulary_size,
            mask_zero,
            self.layer.out_of_range,
            lambda rows: ops.cast(rows_of(self.table, rows), self.dtype),
        )

    def checked(self, ids: Tensor) -> Tensor:
        """Returns `ids`, or raises an error if one is outside the vocabulary."""
        size = self.feature.vocabulary_size
        message = (
            f"Feature {self.feature.name!r} has an id outside 0 ... {size - 1}. "
            'Correct the ids, or set `out_of_range` to "unknown" or "zero".'
        )
        return raise_where(ops.logical_or(ids < 0, ids >= size), ids, message)


def look_up_known(
    ids: Tensor,
    sizes: Any,
    mask_zero: Any,
    policy: OutOfRange,
    take: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor | None]:
    """Returns the rows of ids by the policy for ids outside the vocabulary.

    Args:
        ids: Integers of any shape.
        sizes: The vocabulary size, or one for each of the last axis of `ids`.
        mask_zero: Whether the id 0 marks a missing value, or an array of Booleans as
            for `sizes`.
        policy: The policy.
        take: Function from positions in the tables, of the shape of `ids`, to rows.

    Returns:
        As `TableField.look_up`.
    """
    inside = ops.logical_and(ids >= 0, ids < sizes)
    present = inside if policy == "zero" else None
    if np.any(mask_zero):
        known = ids != 0
        if not np.all(mask_zero):
            known = ops.logical_or(known, np.logical_not(mask_zero))
        present = known if present is None else ops.logical_and(present, known)
    vectors = take(ops.where(inside, ids, sizes if policy == "unknown" else 0))
    if policy == "error":
        vectors = ops.where(ops.expand_dims(inside, -1), vectors, float("nan"))
    if present is not None:
        vectors = ops.where(ops.expand_dims(present, -1), vectors, 0.0)
    return vectors, present


def rows_of(table: Any, rows: Tensor, by_host: bool = False) -> Tensor:
    """Returns rows of a table, without a gradient if it is frozen.

    Args:
        table: A `keras.Variable` or a `RowsView`.
        rows: Integers of any shape.
        by_host: Whether each host looks up its part of the rows; see `take_rows`. The
            table must then be the first of its variable. Defaults to `False`.
    """
    if not isinstance(table, RowsView):
        return look_up(table, rows, table.trainable)
    if is_portable():
        # As a constant of its own, which is quantized by its own range.
        return ops.take(table.constant(), rows, axis=0)
    return look_up(table.variable, rows + table.start, table.trainable, by_host)
