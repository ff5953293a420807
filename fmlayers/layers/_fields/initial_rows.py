from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._types import Tensor
from fmlayers.layers._pretrained import Pretrained

PIECE = 65_536  # rows initialized at once
# Initializers whose values depend on the number of rows.
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
        has_unknown: Boolean, whether the last row is that of unknown ids, with zeros.
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
    ) -> Iterator[npt.NDArray[Any]]:
        """Yields the rows `first`, `first + step`, ... of the table, in pieces.

        Random rows differ from those of a whole table, because each piece has a
        different seed.

        Args:
            step: Positive integer, the distance between rows.
            first: Integer from 0 to `step - 1`, the first row.
            shape: `(rows, dim)` of the table.
            dtype: The dtype of the values.

        Raises:
            ValueError: If the values of the initializer depend on the number of rows.
        """
        if isinstance(self.initializer, _OF_WHOLE_TABLES):
            raise ValueError(
                "`embeddings_initializer` must not depend on the number of rows if a "
                "table is spread over hosts. Use `RandomNormal` or `RandomUniform`. "
                f"Received: {type(self.initializer).__name__}."
            )
        size, dim = shape
        known = range(first, size - self.has_unknown, step)
        seed = _numbers(getattr(self.initializer, "seed", None))
        for start in range(0, len(known), PIECE):
            rows = known[start : start + PIECE]
            initializer = self._of_piece(rows, [*seed, first, start])
            yield ops.convert_to_numpy(initializer((len(rows), dim), dtype=dtype))
        if len(range(first, size, step)) > len(known):
            yield np.zeros((1, dim), "float32")

    def _of_piece(self, rows: range, entropy: list[int]) -> Any:
        initializer = self.initializer
        if isinstance(initializer, Pretrained):
            return initializer.part(slice(rows.start, rows.stop, rows.step))
        if not hasattr(initializer, "seed"):
            return initializer
        seed = np.random.SeedSequence(entropy).generate_state(1)[0] % 2**31
        config = {**initializer.get_config(), "seed": int(seed)}
        return type(initializer).from_config(config)


def _numbers(seed: Any) -> list[int]:
    """Returns a seed, or the next seed of a generator, as a list of integers."""
    if seed is None or isinstance(seed, int):
        return [seed or 0]
    return [int(x) for x in np.ravel(ops.convert_to_numpy(seed.next()))]
