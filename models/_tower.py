from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras

from fmlayers._checks import integers, share
from fmlayers._types import Tensor
from fmlayers.models._fieldwise import Dense


def check_tower(
    hidden_units: Sequence[int], dropout: float
) -> tuple[tuple[int, ...], float]:
    """Returns the sizes of the hidden layers and the dropout as Python numbers."""
    rule = "a non-empty list of positive integers"
    return integers("hidden_units", hidden_units, rule), share("dropout", dropout)


class Tower(keras.layers.Layer):
    """Hidden layers, each of dense, batch normalization, activation and dropout.

    Args:
        units: Sizes of the hidden layers, as `check_tower` returns them.
        fields: Names of the fields whose concatenated vectors are the input.
        activation: Activation function of each hidden layer.
        dropout: Float, the dropout rate. Defaults to 0.
        batch_normalization: Boolean, whether to use batch normalization before the
            activation. Its shift then replaces the bias of the dense layer. Defaults
            to `False`.
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

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.hidden[-1].units)
