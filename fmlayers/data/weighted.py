"""Cells of values with weights, such as "Action:0.7|Comedy:0.3"."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fmlayers._checks import is_number
from fmlayers.data.cells import LISTS, as_number, is_missing, shown, text_of

SEPARATOR = ":"  # the last one in a text separates the value from its weight
MAX_WEIGHT = float(np.finfo(np.float32).max)

Pairs = list[tuple[str, float]]


def parse_pairs(cell: Any, separator: str) -> Pairs:
    """Returns the values of a cell with their weights, without missing values.

    Args:
        cell: A text, a dict from value to weight, or a list of pairs of a value and a
            weight.
        separator: String between the values of a text.

    Raises:
        ValueError: If the cell does not have values with finite weights.
    """
    try:
        pairs = _split(cell, separator)
        texts = [text_of(value) for value, _ in pairs]
    except (TypeError, ValueError):
        example = f"A{SEPARATOR}0.7{separator}B{SEPARATOR}0.3"
        raise ValueError(
            f'must contain values with weights: a text such as "{example}", or pairs '
            f"of a value and a weight. Received: {shown(cell)}."
        ) from None
    return _weighted(texts, [weight for _, weight in pairs])


def join_pairs(values: Any, weights: Any, separator: str) -> Pairs:
    """Returns the values of a cell with the weights of another cell.

    Args:
        values: A text, a list of values, or one value.
        weights: A text, a list of numbers, or one number.
        separator: String that separates the values and the weights of a text.

    Raises:
        ValueError: If there is not one finite weight per value.
    """
    try:
        texts = [text_of(value) for value in _several(values, separator)]
        numbers = _several(weights, separator)
    except (TypeError, ValueError):
        raise ValueError(
            "must be a value or a list of values, with one weight per value. "
            f"Received: {shown(values)} with the weights {shown(weights)}."
        ) from None
    if len(texts) != len(numbers):
        raise ValueError(
            f"must have one weight per value. Received: {len(texts)} values and "
            f"{len(numbers)} weights."
        )
    return _weighted(texts, numbers)


def is_pair(value: Any) -> bool:
    """Returns whether a value of a list is a pair of a value and a weight."""
    return isinstance(value, tuple) and len(value) == 2 and is_number(value[1])


def _split(cell: Any, separator: str) -> Sequence[Any]:
    """Returns pairs of a value and a weight, or raises an error."""
    if isinstance(cell, str):
        parts = [part for part in cell.split(separator) if part]
        pairs: list[Any] = [part.rpartition(SEPARATOR)[::2] for part in parts]
        is_valid = all(value for value, _ in pairs)
    elif isinstance(cell, Mapping):
        return list(cell.items())
    elif isinstance(cell, LISTS):
        pairs = list(cell)
        is_valid = all(isinstance(x, LISTS) and len(x) == 2 for x in pairs)
    else:
        pairs, is_valid = [], is_missing(cell)
    if not is_valid:
        raise ValueError
    return pairs


def _several(cell: Any, separator: str) -> Sequence[Any]:
    if isinstance(cell, str):
        return [part or None for part in cell.split(separator)] if cell else []
    if isinstance(cell, LISTS):
        return list(cell)
    return [] if is_missing(cell) else [cell]


def _weighted(texts: Sequence[tuple[str, ...] | None], weights: Iterable[Any]) -> Pairs:
    return [
        (text, _weight(weight, text))
        for value, weight in zip(texts, weights, strict=True)
        for text in value or ()
    ]


def _weight(weight: Any, value: str) -> float:
    number = math.nan if isinstance(weight, bool | np.bool_) else as_number(weight)
    if math.isfinite(number) and abs(number) <= MAX_WEIGHT:
        return number
    needed = "number in float32's range" if math.isfinite(number) else "finite number"
    raise ValueError(
        f"the weight of {value!r} must be a {needed}. Received: {shown(weight)}."
    )
