from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._types import Tensor
from fmlayers.layers._pretrained import Pretrained

# Their values depend on the number of rows.
_OF_WHOLE_TABLES = (
    keras.initializers.VarianceScaling,
    keras.initializers.Orthogonal,
    keras.initializers.Identity,
    keras.initializers.STFT,
)


@dataclass(frozen=True)
class InitialRows:
    """The initial values of a table.

    Attributes:
        initializer: The initializer of the rows of known ids.
        has_unknown: Boolean, whether the last row is that of unknown ids, zeros.
    """

    initializer: Any
    has_unknown: bool

    def __call__(self, shape: tuple[int, ...], dtype: Any) -> Tensor:
        size, dim = shape
        if not self.has_unknown:
            return self.initializer(shape, dtype=dtype)
        rows = self.initializer((size - 1, dim), dtype=dtype)
        return ops.concatenate([rows, ops.zeros((1, dim), dtype=dtype)])

    def every(
        self, step: int, first: int, shape: tuple[int, ...], dtype: Any
    ) -> npt.NDArray[Any]:
        """Returns the rows `first`, `first + step`, ... of the table alone.

        Rows that are drawn at random differ from those of a whole table: each `first`
        has a seed of its own.

        Args:
            step: Positive integer.
            first: Integer from 0 to `step - 1`.
            shape: `(rows, dim)` of the table.
            dtype: The dtype of the values.
        """
        size, dim = shape
        known = range(first, size - self.has_unknown, step)
        rows = self._every(step, first, (len(known), dim), dtype)
        if len(range(first, size, step)) > len(known):
            rows = np.concatenate([rows, np.zeros((1, dim), rows.dtype)])
        return rows

    def _every(
        self, step: int, first: int, shape: tuple[int, ...], dtype: Any
    ) -> npt.NDArray[Any]:
        initializer = self.initializer
        if isinstance(initializer, Pretrained) and initializer.values is not None:
            initializer = initializer.part(slice(first, None, step))
        if isinstance(initializer, _OF_WHOLE_TABLES):
            raise ValueError(
                "`embeddings_initializer` must not depend on the number of rows if a "
                "table is spread over hosts: use `RandomNormal` or `RandomUniform`. "
                f"Received: {type(initializer).__name__}."
            )
        seed = getattr(initializer, "seed", None)
        if seed is not None:
            initializer = type(initializer).from_config(
                {**initializer.get_config(), "seed": _seed_of(seed, first)}
            )
        values: npt.NDArray[Any] = ops.convert_to_numpy(initializer(shape, dtype=dtype))
        return values


def _seed_of(seed: Any, first: int) -> int:
    if not isinstance(seed, int):  # a generator of seeds
        seed = ops.convert_to_numpy(seed.next())
    entropy = [*map(int, np.ravel(seed)), first]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] % 2**31)
