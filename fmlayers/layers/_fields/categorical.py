from collections.abc import Mapping

from keras import ops

from fmlayers._types import Tensor
from fmlayers.features import Categorical
from fmlayers.layers._fields.table import TableField


class CategoricalField(TableField[Categorical]):
    """The table row of an id."""

    def embed(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        (entry,) = self.feature.entries
        vectors, _ = self.look_up(entry.read(inputs), self.feature.mask_zero)
        return vectors, ops.sum(ops.square(vectors), axis=-1)
