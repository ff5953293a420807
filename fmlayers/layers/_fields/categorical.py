from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from keras import ops

from fmlayers._backend import is_portable
from fmlayers._training.row_gradients import look_up
from fmlayers._types import Tensor
from fmlayers.features import Categorical
from fmlayers.layers._fields.field import over_batch
from fmlayers.layers._fields.table import TableField


class CategoricalField(TableField[Categorical]):
    """The table row of an id."""

    def embed(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        (entry,) = self.feature.entries
        vectors, _ = self.look_up(entry.read(inputs), self.feature.mask_zero)
        return vectors, ops.sum(ops.square(vectors), axis=-1)

    @classmethod
    def embed_all(
        cls, fields: Sequence[Self], inputs: Mapping[str, Tensor], with_norms: bool
    ) -> tuple[Tensor, list[Any]]:
        if len(fields) == 1 or is_portable():
            return super().embed_all(fields, inputs, with_norms)
        policy = fields[0].layer.out_of_range
        ids = ops.stack([field._ids(inputs) for field in fields], axis=1)
        sizes, starts = (
            ops.cast(np.array(numbers), ids.dtype)
            for numbers in (
                [field.feature.vocabulary_size for field in fields],
                [field.table.start for field in fields],
            )
        )
        inside = ops.logical_and(ids >= 0, ids < sizes)
        present = inside if policy == "zero" else None
        mask_zero = np.array([field.feature.mask_zero for field in fields])
        if mask_zero.any():
            known = ops.logical_or(ids != 0, np.logical_not(mask_zero))
            present = known if present is None else ops.logical_and(present, known)
        rows = ops.where(inside, ids, sizes if policy == "unknown" else 0) + starts
        table = fields[0].table
        vectors = look_up(table.variable, rows, table.trainable)
        vectors = ops.cast(vectors, fields[0].dtype)
        if policy == "error":
            vectors = ops.where(ops.expand_dims(inside, -1), vectors, float("nan"))
        if present is not None:
            vectors = ops.where(ops.expand_dims(present, -1), vectors, 0.0)
        if not with_norms or not any(field.l2 for field in fields):
            return vectors, [None] * len(fields)
        norms = ops.sum(ops.square(vectors), axis=(0, 2))
        return vectors, list(ops.unstack(over_batch(norms, vectors)))

    def _ids(self, inputs: Mapping[str, Tensor]) -> Tensor:
        (entry,) = self.feature.entries
        ids = entry.read(inputs)
        return self.checked(ids) if self.layer.out_of_range == "error" else ids
