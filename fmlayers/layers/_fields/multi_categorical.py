from collections.abc import Mapping
from typing import TYPE_CHECKING

from keras import ops

from fmlayers._types import Tensor
from fmlayers.features import MultiCategorical
from fmlayers.layers._fields.table import TableField
from fmlayers.layers.masked_mean_pooling import MaskedMeanPooling

if TYPE_CHECKING:
    from fmlayers.layers.feature_embedding import FeatureEmbedding


class MultiCategoricalField(TableField[MultiCategorical]):
    """The pooled table rows of any number of ids."""

    def __init__(
        self, feature: MultiCategorical, layer: "FeatureEmbedding", l2: float
    ) -> None:
        super().__init__(feature, layer, l2)
        self._pool = MaskedMeanPooling(combiner=feature.combiner, dtype=self.dtype)

    def embed(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        entry, *others = self.feature.entries
        ids, row_splits = entry.read(inputs)
        # `look_up` sets missing values to zero: a NaN that only the pooling masks would
        # reach the gradient.
        vectors, present = self.look_up(ids, mask_zero=True)
        squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
        rows = {"mask": present, "row_splits": row_splits}
        if not others:
            return self._pool(vectors, **rows), self._pool(squares, **rows)
        weights = ops.cast(others[0].read(inputs), self.dtype)
        # As if an id occurred as often as the size of its weight says. The slope of
        # `ops.abs` at 0 differs between the backends.
        sizes = weights * ops.sign(weights)
        squares = self._pool(squares, weights=sizes, **rows)
        return self._pool(vectors, weights=weights, **rows), squares
