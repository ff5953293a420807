import math
from typing import Any

import numpy as np
import pandas as pd

from fmlayers.data.cells import refuse
from fmlayers.data.exact_sums import Floats
from fmlayers.data.kinds.column import Array, ColumnEncoder, Options
from fmlayers.data.kinds.scale import checked_scale
from fmlayers.data.numbers import Moments, as_numbers
from fmlayers.features import Feature, Numeric


class NumericColumn(ColumnEncoder):
    """A number per row, standardized by the training rows."""

    is_scaled = True

    def __init__(self, name: str, options: Options, number: int | None = None) -> None:
        super().__init__(name, options, number)
        self._moments = Moments()
        self._scale: tuple[float, float] | None = None

    @property
    def records(self) -> tuple[str, ...]:
        return ("scales",)

    @property
    def is_fitted(self) -> bool:
        return self._scale is not None

    @property
    def scale(self) -> tuple[float, float] | None:
        return self._scale

    @property
    def feature(self) -> Feature:
        return Numeric(self.name)

    def learn(self, *cells: "pd.Series[Any]") -> None:
        self._moments.add(self.numbers(cells[0]))

    def sums(self) -> Any:
        return self._moments.record()

    def add_sums(self, sums: Any) -> None:
        self._moments.add_record(sums)

    def finish(self) -> None:
        self._scale = self._moments.scale()
        self._moments = Moments()

    def transform(self, *cells: "pd.Series[Any]") -> dict[str, Array]:
        assert self._scale is not None
        mean, deviation = self._scale
        with np.errstate(over="ignore"):
            scaled = (self.numbers(cells[0]) - mean) / deviation
            scaled = scaled.astype(np.float32)
        wrong = np.isinf(scaled)
        refuse(wrong, self.name, cells[0], "must be a number in float32's range")
        return {self.name: scaled}

    def numbers(self, cells: "pd.Series[Any]") -> Floats:
        """Returns the numbers to standardize."""
        return as_numbers(self.name, cells)

    def examples(self) -> list[Any]:
        assert self._scale is not None
        mean = round(self._scale[0])
        return [mean, mean + 1]

    def record(self) -> dict[str, Any]:
        return {} if self._scale is None else {"scales": list(self._scale)}

    def facts(self) -> dict[str, Any]:
        assert self._scale is not None
        mean, deviation = self._scale
        return {"mean": mean, "deviation": deviation}

    def restore(self, record: dict[str, Any]) -> None:
        self._scale = checked_scale(self.name, record["scales"])


class Log1pColumn(NumericColumn):
    """A number x per row: sign(x) log(1 + |x|), standardized by the training rows."""

    def numbers(self, cells: "pd.Series[Any]") -> Floats:
        x = as_numbers(self.name, cells)
        return np.sign(x) * np.log1p(np.abs(x))

    def examples(self) -> list[Any]:
        assert self._scale is not None
        mean = self._scale[0]
        middle = round(math.copysign(math.expm1(min(abs(mean), 80)), mean))
        return [middle, middle + 1]
