from collections.abc import Container, Iterator, Mapping
from typing import Any

from keras import ops

from fmlayers._names import safe_name
from fmlayers._types import Tensor
from fmlayers.features import Vector
from fmlayers.layers._fields.field import Field, Key
from fmlayers.layers._fields.weights import Weight


class VectorField(Field[Vector]):
    """A vector times a matrix, plus an optional bias vector."""

    def declare(self, declared: Container[Key]) -> Iterator[tuple[Key, Weight]]:
        name, size, dim = self.feature.name, self.feature.size, self.layer.dim
        yield ("vector", name), self._weight("matrix", (size, dim), slice(0, size))
        if self.feature.use_bias:
            yield ("bias", name), self._weight("bias", (dim,), size)

    def weights(self) -> Iterator[tuple[Key, Any]]:
        name = self.feature.name
        yield ("vector", name), self.layer.vectors[name]
        if self.feature.use_bias:
            yield ("bias", name), self.layer.biases[name]

    def embed(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        (entry,) = self.feature.entries
        x = ops.cast(entry.read(inputs), self.dtype)
        present = ops.logical_not(ops.any(ops.isnan(x), axis=-1))
        is_present = ops.expand_dims(present, -1)
        matrix = ops.cast(self.layer.vectors[self.feature.name], self.dtype)
        vectors = ops.matmul(ops.where(is_present, x, 0.0), matrix)  # (batch, dim)
        norm = ops.sum(ops.square(matrix))
        if self.feature.use_bias:
            bias = ops.cast(self.layer.biases[self.feature.name], self.dtype)
            vectors = vectors + bias
            norm = norm + ops.sum(ops.square(bias))
        vectors = ops.where(is_present, vectors, 0.0)
        return vectors, ops.where(present, norm, 0.0)

    def _weight(self, role: str, shape: tuple[int, ...], rows: int | slice) -> Weight:
        name = f"{safe_name(self.feature.name)}_{role}"
        return Weight(name, shape, self.fresh_initializer(rows), group=(name,))
