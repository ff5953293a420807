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
        self.ids = {
            column: {value: i for i, value in enumerate(values, start=1)}
            for column, values in content["vocabularies"].items()
        }

    def encode(self, rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
        """Returns one array per input; columns that a row lacks count as missing."""
        return {
            column: self._encode(column, kind, [row.get(column) for row in rows])
            for column, kind in self.kinds.items()
        }

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
        padded = np.zeros((len(lists), max(map(len, lists), default=0) or 1), "int64")
        for row, values in zip(padded, lists, strict=True):
            row[: len(values)] = values
        return padded

    def _split(self, cell: Any) -> list[str]:
        if cell is None:
            return []
        if isinstance(cell, str):
            return [value for value in cell.split(self.separator) if value]
        return [str(value) for value in cell]
