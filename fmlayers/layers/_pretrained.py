from typing import Any, Self

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._types import Tensor


@keras.saving.register_keras_serializable(package="fmlayers")
class Pretrained(keras.initializers.Initializer):
    """Initializer that returns the rows of an array.

    The array is not part of the config, which is stored as JSON: a file has the weights
    anyway. A layer that is constructed from a config contains NaN in their place until
    its weights are loaded.

    Args:
        values: Optional array of shape `(rows, dim)`. Defaults to `None` (NaN).
    """

    def __init__(self, values: npt.NDArray[Any] | None = None) -> None:
        self.values = values

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> Tensor:
        if self.values is None:
            return ops.full(shape, float("nan"), dtype=dtype)
        return ops.cast(ops.convert_to_tensor(np.reshape(self.values, shape)), dtype)

    def part(self, rows: int | slice) -> "Pretrained":
        """Returns the initializer of a weight that is a part of the array."""
        return self if self.values is None else Pretrained(self.values[rows])

    def clone(self) -> Self:
        return self  # a copy made from the config would have no values

    def get_config(self) -> dict[str, Any]:
        return {"values": None}
