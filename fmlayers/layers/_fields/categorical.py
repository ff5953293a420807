from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from keras import ops

from fmlayers._backend import is_portable
from fmlayers._training.row_gradients import look_up
from fmlayers._types import Tensor
from fmlayers.features import Categorical
from fmlayers.layers._fields.field import over_batch
from fmlayers.layers._fields.table import TableField, look_up_known


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
        layer, dtype, table = fields[0].layer, fields[0].dtype, fields[0].table
        ids = ops.stack([field._ids(inputs) for field in fields], axis=1)
        sizes, starts = (
            ops.cast(np.array(numbers), ids.dtype)
            for numbers in (
                [field.feature.vocabulary_size for field in fields],
                [field.table.start for field in fields],
            )
        )

        def take(rows: Tensor) -> Tensor:
            vectors = look_up(table.variable, rows + starts, table.trainable)
            return ops.cast(vectors, dtype)

        mask_zero = np.array([field.feature.mask_zero for field in fields])
        vectors, _ = look_up_known(ids, sizes, mask_zero, layer.out_of_range, take)
        if not with_norms or not any(field.l2 for field in fields):
            return vectors, [None] * len(fields)
        norms = ops.sum(ops.square(vectors), axis=(0, 2))
        return vectors, list(ops.unstack(over_batch(norms, vectors)))

    def _ids(self, inputs: Mapping[str, Tensor]) -> Tensor:
        (entry,) = self.feature.entries
        ids = entry.read(inputs)
        return self.checked(ids) if self.layer.out_of_range == "error" else ids
