from collections.abc import Iterator, Mapping
from typing import Any

from keras import ops

from fmlayers._names import safe_name
from fmlayers._types import Tensor
from fmlayers.features import Numeric
from fmlayers.layers._fields.field import Field


class NumericField(Field[Numeric]):
    """A number times a vector, plus an optional bias vector."""

    def build(self) -> None:
        name = self.feature.name
        self.layer.vectors[name] = self._add_vector("vector", row=0)
        if self.feature.use_bias:
            self.layer.biases[name] = self._add_vector("bias", row=1)

    def weights(self) -> Iterator[tuple[tuple[str, str], Any]]:
        name = self.feature.name
        yield ("vector", name), self.layer.vectors[name]
        if self.feature.use_bias:
            yield ("bias", name), self.layer.biases[name]

    def embed(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        (entry,) = self.feature.entries
        value = ops.cast(entry.read(inputs), self.dtype)
        present = ops.logical_not(ops.isnan(value))
        value = ops.expand_dims(ops.where(present, value, 0.0), -1)
        vector = ops.cast(self.layer.vectors[self.feature.name], self.dtype)
        vectors = value * vector  # (batch, dim)
        norm = ops.sum(ops.square(vector))
        if self.feature.use_bias:
            bias = ops.cast(self.layer.biases[self.feature.name], self.dtype)
            vectors = vectors + bias
            norm = norm + ops.sum(ops.square(bias))
        vectors = ops.where(ops.expand_dims(present, -1), vectors, 0.0)
        return vectors, ops.where(present, norm, 0.0)

    def _add_vector(self, role: str, row: int) -> Any:
        return self.layer.add_weight(
            shape=(self.layer.dim,),
            initializer=self.fresh_initializer(row),
            autocast=False,
            name=f"{safe_name(self.feature.name)}_{role}",
        )
