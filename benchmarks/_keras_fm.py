from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops


class PlainFM(keras.Model):
    """A biased factorization machine, built from the layers of Keras.

    Args:
        sizes: Dict from the name of an id column to its number of ids.
        dim: Embedding dimension.
        numbers: Names of the numeric columns.
    """

    def __init__(
        self, sizes: Mapping[str, int], dim: int, numbers: Sequence[str] = ()
    ) -> None:
        super().__init__()
        start = keras.initializers.RandomNormal(stddev=0.01)
        self.names = list(sizes)
        self.numbers = list(numbers)
        self.dim = dim
        self.vectors = [keras.layers.Embedding(n, dim, start) for n in sizes.values()]
        self.linear = [keras.layers.Embedding(n, 1, "zeros") for n in sizes.values()]

    def build(self, input_shape: Any = None) -> None:
        for table in (*self.vectors, *self.linear):
            table.build()
        self.bias = self.add_weight(shape=(1,), initializer="zeros")
        if self.numbers:
            fields = len(self.numbers)
            self.factors = self.add_weight(shape=(fields, self.dim))
            self.slopes = self.add_weight(shape=(fields, 1), initializer="zeros")

    def call(self, inputs: Mapping[str, Any]) -> Any:
        ids = [inputs[name] for name in self.names]
        v = ops.stack([t(x) for t, x in zip(self.vectors, ids, strict=True)], 1)
        first = sum(t(x) for t, x in zip(self.linear, ids, strict=True))
        if self.numbers:
            x = ops.stack([inputs[name] for name in self.numbers], axis=1)
            v = ops.concatenate([v, ops.expand_dims(x, -1) * self.factors], axis=1)
            first = first + ops.matmul(x, self.slopes)
        squares = ops.square(ops.sum(v, axis=1)) - ops.sum(ops.square(v), axis=1)
        return self.bias + first + 0.5 * ops.sum(squares, axis=1, keepdims=True)
