from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral
from typing import Any

import keras

from fmlayers._types import Tensor
from fmlayers.models._by_field import Dense


def check_tower(hidden_units: Sequence[int], dropout: float) -> tuple[int, ...]:
    """Returns the sizes of the hidden layers; raises for what cannot be built."""
    sizes = list(hidden_units) if isinstance(hidden_units, Sequence) else []
    if not sizes or not all(_is_size(size) for size in sizes):
        raise ValueError(
            "`hidden_units` must be a non-empty list of positive integers. "
            f"Received: hidden_units={hidden_units!r}."
        )
    if not 0.0 <= dropout < 1.0:
        raise ValueError(
            "`dropout` must be at least 0 and less than 1. "
            f"Received: dropout={dropout}."
        )
    return tuple(int(size) for size in sizes)  # NumPy's, too


def _is_size(size: Any) -> bool:
    if isinstance(size, bool) or not isinstance(size, Integral):
        return False
    return int(size) > 0


class Tower(keras.layers.Layer):
    """Hidden layers: each Dense, batch normalization, activation, dropout.

    Args:
        units: Sizes of the hidden layers, as `check_tower` returns them.
        fields: Names of the fields whose vectors are the input, side by side.
        activation: Function of each hidden layer.
        dropout: Share of a hidden layer's outputs that training drops.
        batch_normalization: Whether to normalize before the activation; the
            shift of the normalization is then the layer's bias.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    built: bool

    def __init__(
        self,
        units: Sequence[int],
        fields: Sequence[str],
        activation: Callable[[Tensor], Tensor],
        dropout: float = 0.0,
        batch_normalization: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.activation = activation
        first = partial(Dense, fields=fields)
        self.hidden = [
            make(
                size,
                use_bias=not batch_normalization,
                dtype=self.dtype_policy,
                name=f"hidden_{i}",
            )
            for i, (size, make) in enumerate(
                zip(
                    units,
                    [first, *[keras.layers.Dense] * (len(units) - 1)],
                    strict=True,
                )
            )
        ]
        self.normalizations = [
            keras.layers.BatchNormalization(
                dtype=self.dtype_policy, name=f"normalization_{i}"
            )
            for i in range(len(units) if batch_normalization else 0)
        ]
        self.dropout = keras.layers.Dropout(
            dropout, dtype=self.dtype_policy, name="dropout"
        )

    def build(self, input_shape: Any) -> None:
        if self.built:
            return
        shape = tuple(input_shape)
        for i, dense in enumerate(self.hidden):
            dense.build(shape)
            shape = (*shape[:-1], dense.units)
            if self.normalizations:
                self.normalizations[i].build(shape)
        self.dropout.build(shape)
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        x = inputs
        for i, dense in enumerate(self.hidden):
            x = dense(x)
            if self.normalizations:
                x = self.normalizations[i](x, training=training)
            x = self.dropout(self.activation(x), training=training)
        return x
