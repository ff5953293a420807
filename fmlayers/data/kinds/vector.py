from typing import Any

import pandas as pd

from fmlayers._checks import integer
from fmlayers.data.errors import DataError
from fmlayers.data.exact_sums import ExactSums
from fmlayers.data.kinds.column import Array, ColumnEncoder, Options
from fmlayers.data.kinds.scale import checked_scale
from fmlayers.data.vectors import Norms, as_vectors
from fmlayers.features import Feature, Vector


class VectorColumn(ColumnEncoder):
    """A vector of n numbers per row, divided by one scale for all rows."""

    is_scaled = True

    def __init__(self, name: str, options: Options, number: int | None = None) -> None:
        super().__init__(name, options, number)
        self._norms = Norms()
        self._scale: tuple[float, float] | None = None
        self._size = 0

    @property
    def records(self) -> tuple[str, ...]:
        return "scales", "sizes"

    @property
    def is_fitted(self) -> bool:
        return self._scale is not None

    @property
    def scale(self) -> tuple[float, float] | None:
        return self._scale

    @property
    def size(self) -> int | None:
        return self._size

    @property
    def feature(self) -> Feature:
        return Vector(self.name, self._size)

    def learn(self, *cells: "pd.Series[Any]") -> None:
        separator, size = self.options.separator, self._norms.size
        self._norms.add(as_vectors(self.name, cells[0], separator, size))

    def sums(self) -> Any:
        norms = self._norms
        return None if norms.size is None else [norms.size, norms.sums.record()]

    def add_sums(self, sums: Any) -> None:
        size, record = sums
        if self._norms.size not in (None, size):
            raise DataError(
                f"Column {self.name!r} must have vectors of one length. Received: "
                f"{self._norms.size} numbers in some files and {size} in others."
            )
        self._norms.size = size
        self._norms.sums.merge(ExactSums.restored(record))

    def finish(self) -> None:
        if self._norms.size is None:
            raise DataError(f"Column {self.name!r} has no vector in the training rows.")
        self._scale, self._size = (0.0, self._norms.scale()), self._norms.size
        self._norms = Norms()

    def transform(self, *cells: "pd.Series[Any]") -> dict[str, Array]:
        assert self._scale is not None
        separator, (_, scale) = self.options.separator, self._scale
        return {
            self.name: as_vectors(self.name, cells[0], separator, self._size, scale)
        }

    def record(self) -> dict[str, Any]:
        if self._scale is None:
            return {}
        return {"scales": list(self._scale), "sizes": self._size}

    def facts(self) -> dict[str, Any]:
        assert self._scale is not None
        return {"size": self._size, "scale": self._scale[1]}

    def restore(self, record: dict[str, Any]) -> None:
        of = f" for column {self.name!r}"
        self._size = integer("sizes", record["sizes"], of=of)
        self._scale = checked_scale(self.name, record["scales"])
