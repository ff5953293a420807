from collections.abc import Container, Hashable, Iterator, Mapping, Sequence
from typing import Any, Self

from keras import ops

from fmlayers._names import safe_name
from fmlayers._types import Tensor
from fmlayers.features import Numeric
from fmlayers.layers._fields.field import Field, Key, over_batch
from fmlayers.layers._fields.weights import Weight
from fmlayers.layers._rows_view import RowsView


class NumericField(Field[Numeric]):
    """A number times a vector, plus an optional bias vector."""

    def declare(self, declared: Container[Key]) -> Iterator[tuple[Key, Weight]]:
        name = self.feature.name
        yield ("vector", name), self._weight("vector", row=0)
        if self.feature.use_bias:
            yield ("bias", name), self._weight("bias", row=1)

    def weights(self) -> Iterator[tuple[Key, Any]]:
        name = self.feature.name
        yield ("vector", name), self.layer.vectors[name]
        if self.feature.use_bias:
            yield ("bias", name), self.layer.biases[name]

    @property
    def source(self) -> Hashable:
        return "numeric"

    @classmethod
    def embed_all(
        cls, fields: Sequence[Self], inputs: Mapping[str, Tensor], with_norms: bool
    ) -> tuple[Tensor, list[Any]]:
        layer, dtype = fields[0].layer, fields[0].dtype
        values = [
            entry.read(inputs) for field in fields for entry in field.feature.entries
        ]
        values = ops.stack([ops.cast(x, dtype) for x in values], axis=1)
        present = ops.logical_not(ops.isnan(values))
        values = ops.expand_dims(ops.where(present, values, 0.0), -1)
        names = [field.feature.name for field in fields]
        rows = _Rows(dtype)
        vectors = ops.stack([rows.of(layer.vectors[name]) for name in names])
        embedded = values * vectors  # (batch, fields, dim)
        squares = ops.square(vectors)
        if any(field.feature.use_bias for field in fields):
            zeros = ops.zeros((layer.dim,), dtype=dtype)
            biases = ops.stack(
                [
                    rows.of(layer.biases[name]) if name in layer.biases else zeros
                    for name in names
                ]
            )
            embedded = embedded + biases
            squares = squares + ops.square(biases)
        embedded = ops.where(ops.expand_dims(present, -1), embedded, 0.0)
        if not with_norms or not any(field.l2 for field in fields):
            return embedded, [None] * len(fields)
        norms = ops.where(present, ops.sum(squares, axis=-1), 0.0)
        return embedded, list(ops.unstack(over_batch(ops.sum(norms, axis=0), norms)))

    def _weight(self, role: str, row: int) -> Weight:
        return Weight(
            f"{safe_name(self.feature.name)}_{role}",
            (self.layer.dim,),
            self.fresh_initializer(row),
            group=("vectors",) if self.is_trainable else ("vectors", "frozen"),
        )


class _Rows:
    """Reads single rows of variables, each variable once."""

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self._rows: dict[int, list[Tensor]] = {}

    def of(self, weight: Any) -> Tensor:
        """Returns the row of a weight, without a gradient if only a view is frozen."""
        if not isinstance(weight, RowsView):
            return ops.cast(weight, self._dtype)
        key = id(weight.variable)
        if key not in self._rows:
            rows = ops.unstack(ops.cast(weight.variable, self._dtype))
            self._rows[key] = list(rows)
        row = self._rows[key][weight.start]
        return row if weight.trainable else ops.stop_gradient(row)
