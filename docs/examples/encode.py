"""Encodes raw values as the inputs of an export.

The result is the same as that of `fmlayers.data.Encoder`, with NumPy and the standard
library alone.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

MISSING, UNKNOWN = 0, -1

# A decimal number between blanks. (`float` also accepts "1_000" and "nan".)
NUMBER = re.compile(
    r"[ \t\n\v\f\r]*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?[ \t\n\v\f\r]*",
    re.ASCII | re.IGNORECASE,
)
NUMBERS = (bool, int, float, Decimal, np.bool_, np.integer, np.floating)
LISTS = (list, tuple, np.ndarray)
MAX_WEIGHT = float(np.finfo("float32").max)


class Vocabularies:
    """Encodes rows of raw values as ids, standardized numbers and scaled vectors.

    The ids are those of a vocabulary, of bins of numbers or of hashes.

    Args:
        path: The `encoder.json` of an export.
    """

    def __init__(self, path: str | Path) -> None:
        content = json.loads(Path(path).read_text("utf-8"))
        self.kinds: dict[str, str] = content["columns"]
        self.separator: str = content["separator"]
        self.scales: dict[str, tuple[float, float]] = content["scales"]
        self.sizes: dict[str, int] = content.get("sizes", {})
        self.edges: dict[str, list[float]] = content.get("edges", {})
        self.weights: dict[str, str] = content.get("weights", {})
        self.ids = {
            column: {value: i for i, value in enumerate(values, start=1)}
            for column, values in content["vocabularies"].items()
        }

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Returns one array per column. Columns that a row lacks count as missing.

        A weighted column has a second array with its weights.

        Raises:
            ValueError: If a cell is of the wrong kind, with its column and row.
        """
        arrays = {}
        for column, kind in self.kinds.items():
            cells = [row.get(column) for row in rows]
            if kind.startswith("weighted"):
                name = self.weights.get(column)
                weights = None if name is None else [row.get(name) for row in rows]
                ids, numbers = self._encode_weighted(column, cells, weights)
                arrays |= {column: ids, name or f"{column}_weights": numbers}
            elif kind == "vector":
                arrays[column] = self._encode_vectors(column, cells)
            else:
                arrays[column] = self._encode(column, kind, cells)
        return arrays

    def _encode_weighted(
        self, column: str, cells: list[Any], weights: list[Any] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids and the weights of a column."""
        read, wanted = self._pairs, "values, each with a finite weight"
        if weights is not None:
            read, wanted = self._joined, "values with one finite weight each"
            cells = list(zip(cells, weights, strict=True))
        pairs = list(_each(read, column, cells, wanted))
        ids = self._ids(column, [[text for text, _ in row] for row in pairs])
        numbers = np.zeros(ids.shape, "float32")
        for row, weighted in zip(numbers, pairs, strict=True):
            row[: len(weighted)] = [weight for _, weight in weighted]
        return ids, numbers

    def _encode_vectors(self, column: str, cells: list[Any]) -> np.ndarray:
        size, (_, scale) = self.sizes[column], self.scales[column]

        def read(cell: Any) -> np.ndarray:
            numbers = self._numbers(cell)
            if numbers is None:
                return np.full(size, math.nan, "float32")
            vector = np.array(numbers).astype("float32")
            if vector.shape != (size,) or np.isinf(vector).any():
                raise ValueError("not a vector of this length")
            return vector

        wanted = f"a vector of {size} finite numbers or missing"
        with np.errstate(over="ignore"):
            vectors = list(_each(read, column, cells, wanted))
            x = np.array(vectors, "float64").reshape(-1, size) / scale
            scaled = x.astype("float32")
        for row in np.flatnonzero(np.isinf(scaled).any(axis=1)):
            wanted = "a vector of numbers in float32's range"
            raise _error(column, row, cells[row], wanted)
        return scaled

    def _encode(self, column: str, kind: str, cells: list[Any]) -> np.ndarray:
        if column in self.scales or column in self.edges:
            wanted = "a finite number or missing"
            x = np.array(list(_each(_number, column, cells, wanted)), "float64")
            if column in self.edges:
                ids = np.searchsorted(self.edges[column], x) + 1
                return np.where(np.isnan(x), MISSING, ids)
            if kind == "log1p":
                x = np.sign(x) * np.log1p(np.abs(x))
            mean, deviation = self.scales[column]
            with np.errstate(over="ignore"):
                scaled = ((x - mean) / deviation).astype("float32")
            for row in np.flatnonzero(np.isinf(scaled)):
                raise _error(column, row, cells[row], "a number in float32's range")
            return scaled
        is_single = kind == "categorical" or kind.startswith("hash=")
        if is_single:
            lists = list(_each(_value, column, cells, "a single value"))
        else:
            lists = list(
                _each(self._list, column, cells, "a value or a list of values")
            )
        ids = self._ids(column, lists)
        return ids[:, 0] if is_single else ids

    def _ids(self, column: str, lists: list[list[str]]) -> np.ndarray:
        width = max(map(len, lists), default=0) or 1
        padded = np.full((len(lists), width), MISSING, "int64")
        for row, values in zip(padded, lists, strict=True):
            row[: len(values)] = [self._id(column, value) for value in values]
        return padded

    def _id(self, column: str, value: str) -> int:
        if column in self.ids:
            return self.ids[column].get(value, UNKNOWN)
        buckets = int(self.kinds[column].partition("=")[2])
        return (
            1 + siphash(value.encode("utf-8", "surrogatepass")) % buckets
            if value
            else MISSING
        )

    def _list(self, cell: Any) -> list[str]:
        """Returns the texts of a multi-categorical cell."""
        if isinstance(cell, str):
            return [value for value in cell.split(self.separator) if value]
        if isinstance(cell, LISTS):
            return [text for value in cell for text in _value(value)]
        return _value(cell)

    def _pairs(self, cell: Any) -> list[tuple[str, float]]:
        """Returns the values and the weights of a cell such as "A:0.7|B:0.3"."""
        pairs: list[Any] = []
        is_valid = True
        if isinstance(cell, str):
            parts = [part for part in cell.split(self.separator) if part]
            pairs = [part.rpartition(":")[::2] for part in parts]
            is_valid = all(value for value, _ in pairs)
        elif isinstance(cell, Mapping):
            pairs = list(cell.items())
        elif isinstance(cell, LISTS):
            pairs = list(cell)
            is_valid = all(isinstance(x, LISTS) and len(x) == 2 for x in pairs)
        else:
            is_valid = _is_missing(cell)
        if not is_valid:
            raise ValueError("not values with weights")
        return _weighted([value for value, _ in pairs], [weight for _, weight in pairs])

    def _joined(self, cell: tuple[Any, Any]) -> list[tuple[str, float]]:
        """Returns the values and the weights of two cells."""
        values, weights = map(self._several, cell)
        return _weighted(values, weights)

    def _numbers(self, cell: Any) -> list[float] | None:
        """Returns the numbers of a vector, or `None` for a missing vector."""
        if isinstance(cell, str):
            cell = cell.split(self.separator) if cell else []
        if not isinstance(cell, LISTS) and math.isnan(_number(cell)):
            return None
        is_flat = isinstance(cell, LISTS) and getattr(cell, "ndim", 1) == 1
        if not is_flat or any(isinstance(value, LISTS) for value in cell):
            raise ValueError("not a vector")
        return [_number(value) for value in cell] or None

    def _several(self, cell: Any) -> list[Any]:
        if isinstance(cell, str):
            return [x or None for x in cell.split(self.separator)] if cell else []
        if isinstance(cell, LISTS):
            return list(cell)
        return [] if _is_missing(cell) else [cell]


def siphash(data: bytes) -> int:
    """Returns the SipHash-2-4 of a text's UTF-8, with a key of zeros."""
    v = [
        int.from_bytes(x) for x in (b"somepseu", b"dorandom", b"lygenera", b"tedbytes")
    ]
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) % 256])
    for start in range(0, len(padded), 8):
        word = int.from_bytes(padded[start : start + 8], "little")
        v[3] ^= word
        _sip_rounds(v, 2)
        v[0] ^= word
    v[2] ^= 0xFF
    _sip_rounds(v, 4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def _sip_rounds(v: list[int], count: int) -> None:
    for _ in range(count):
        for a, b, left, right in ((0, 1, 13, 16), (2, 1, 17, 21)):
            c = 2 - a
            v[a], v[c] = (v[a] + v[b]) % 2**64, (v[c] + v[3]) % 2**64
            v[b], v[3] = _rotated(v[b], left) ^ v[a], _rotated(v[3], right) ^ v[c]
            v[a] = _rotated(v[a], 32)


def _rotated(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) % 2**64


def read_card(path: str | Path) -> dict[str, Any]:
    """Returns the model card of an export, after checking the files of the export.

    A file that is damaged or part of another export would give wrong scores.

    Args:
        path: The `.onnx` or `.tflite` file.

    Raises:
        ValueError: If a file differs from the digest in the card.
    """
    card: dict[str, Any] = json.loads(Path(f"{path}.json").read_text("utf-8"))
    for name, digest in card["files"].items():
        file = Path(path).parent / name
        if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            raise ValueError(f"{file} is damaged or part of another export.")
    return card


def model_inputs(
    card: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns encoded columns under the names and dtypes of the model's inputs.

    Args:
        card: The model card of the export, from its JSON file.
        arrays: The arrays that `Vocabularies.encode` returns.
    """
    return {
        entry["name"]: arrays[entry["feature"]].astype(entry["dtype"])
        for entry in card["signatures"]["serving_default"]["inputs"]
    }


def _each(
    convert: Callable[[Any], Any], column: str, cells: list[Any], allowed: str
) -> Iterator[Any]:
    for row, cell in enumerate(cells):
        try:
            yield convert(cell)
        except (OverflowError, TypeError, ValueError):
            raise _error(column, row, cell, allowed) from None


def _error(column: str, row: int, cell: Any, allowed: str) -> ValueError:
    return ValueError(
        f"Column {column!r}, row {row}: must be {allowed}. "
        f"Received: a value of type {type(cell).__name__}."
    )


def _value(value: Any) -> list[str]:
    """Returns the text of a value in a list, which is empty for a missing value."""
    hash(value)  # lists, dicts and arrays are no values: they have no hash
    if _is_missing(value):
        return []
    if isinstance(value, np.floating):
        value = float(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 7.0 is the same value as 7
    return [str(value)]


def _weighted(values: list[Any], weights: list[Any]) -> list[tuple[str, float]]:
    """Returns the texts of values with their weights, without missing values."""
    return [
        (text, _weight(weight))
        for value, weight in zip(values, weights, strict=True)
        for text in _value(value)
    ]


def _weight(cell: Any) -> float:
    number = math.nan if isinstance(cell, (bool, np.bool_)) else _number(cell)
    if not abs(number) <= MAX_WEIGHT:
        raise ValueError("not a weight")
    return number


def _number(cell: Any) -> float:
    """Returns a finite number, or NaN for a missing value."""
    if isinstance(cell, (str, bytes)):
        text = cell if isinstance(cell, str) else cell.decode("latin-1")
        number = float(text) if NUMBER.fullmatch(text) else math.inf
    elif isinstance(cell, NUMBERS) and not isinstance(cell, np.timedelta64):
        number = float(cell)
    else:
        number = math.nan if _is_missing(cell) else math.inf
    if math.isinf(number):
        raise ValueError("not a finite number")
    return number


def _is_missing(value: Any) -> bool:
    try:
        return value is None or bool(value != value)
    except TypeError:
        return True  # pandas.NA
