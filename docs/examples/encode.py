"""Encodes raw values as ids, with the vocabularies of an export.

It does the same as `fmlayers.data.Encoder`, with NumPy and the standard library alone.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

MISSING, UNKNOWN = 0, -1


class Vocabularies:
    """Encodes rows as the inputs of an export.

    Args:
        path: The `encoder.json` of an export.
    """

    def __init__(self, path: str | Path) -> None:
        content = json.loads(Path(path).read_text("utf-8"))
        self.kinds: dict[str, str] = content["columns"]
        self.separator: str = content["separator"]
        self.scales: dict[str, tuple[float, float]] = content["scales"]
        self.sizes: dict[str, int] = content.get("sizes", {})
        self.weights: dict[str, str] = content.get("weights", {})
        self.ids = {
            column: {value: i for i, value in enumerate(values, start=1)}
            for column, values in content["vocabularies"].items()
        }

    def encode(self, rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
        """Returns one array per input; columns that a row lacks count as missing."""
        inputs = {}
        for column, kind in self.kinds.items():
            cells = [row.get(column) for row in rows]
            if kind == "weighted":
                weights = self.weights.get(column)
                others = (
                    cells if weights is None else [row.get(weights) for row in rows]
                )
                values, numbers = self._weighted(column, cells, others)
                inputs[column] = values
                inputs[weights or f"{column}_weights"] = numbers
            elif kind == "vector":
                inputs[column] = self._vectors(column, cells)
            else:
                inputs[column] = self._encode(column, kind, cells)
        return inputs

    def _encode(self, column: str, kind: str, cells: list[Any]) -> np.ndarray:
        if kind == "numeric":
            mean, deviation = self.scales[column]
            numbers = [math.nan if cell is None else float(cell) for cell in cells]
            return ((np.array(numbers) - mean) / deviation).astype("float32")
        ids = self.ids[column]
        if kind == "categorical":
            found = [
                MISSING if cell is None else ids.get(str(cell), UNKNOWN)
                for cell in cells
            ]
            return np.array(found, "int64")
        lists = [[ids.get(value, UNKNOWN) for value in self._split(c)] for c in cells]
        return _padded(lists, "int64")

    def _weighted(
        self, column: str, cells: list[Any], others: list[Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids and weights; the weights are in `cells` or in `others`."""
        if column in self.weights:
            both = zip(map(self._split, cells), map(self._split, others), strict=True)
            pairs = [list(zip(*lists, strict=True)) for lists in both]
        else:
            pairs = [self._pairs(cell) for cell in cells]
        ids = self.ids[column]
        values = [[ids.get(str(value), UNKNOWN) for value, _ in row] for row in pairs]
        weights = [[float(weight) for _, weight in row] for row in pairs]
        return _padded(values, "int64"), _padded(weights, "float32")

    def _pairs(self, cell: Any) -> list[tuple[Any, Any]]:
        if isinstance(cell, dict):
            return list(cell.items())
        if isinstance(cell, str):
            return [part.rpartition(":")[::2] for part in self._split(cell)]
        return list(cell or [])

    def _vectors(self, column: str, cells: list[Any]) -> np.ndarray:
        vectors = np.full((len(cells), self.sizes[column]), np.nan, "float32")
        for row, cell in zip(vectors, cells, strict=True):
            if cell is not None and len(cell):
                numbers = cell.split(self.separator) if isinstance(cell, str) else cell
                row[:] = [math.nan if x is None else float(x) for x in numbers]
        return vectors / np.float32(self.scales[column][1])

    def _split(self, cell: Any) -> list[str]:
        if cell is None:
            return []
        if isinstance(cell, str):
            return [value for value in cell.split(self.separator) if value]
        return [str(value) for value in cell]


def _padded(lists: list[list[Any]], dtype: str) -> np.ndarray:
    padded = np.zeros((len(lists), max(map(len, lists), default=0) or 1), dtype)
    for row, values in zip(padded, lists, strict=True):
        row[: len(values)] = values
    return padded
