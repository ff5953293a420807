"""Cells of values with weights, such as "Action:0.7|Comedy:0.3"."""

import math
from collections.abc import Callable, Sequence
from typing import Any

SEPARATOR = ":"  # the last one in a text separates the value from its weight

Pairs = list[tuple[str, float]]
AsText = Callable[[Any], str | None]


def parse_pairs(cell: Any, separator: str, as_text: AsText) -> Pairs:
    """Returns the values of a cell with their weights.

    Args:
        cell: A text, or a tuple of pairs of a value and a weight.
        separator: String between the values of a text.
        as_text: Function that returns the text of a value, `None` if it is missing.

    Raises:
        ValueError: If the cell does not have values with finite weights.
    """
    if isinstance(cell, str):
        parts = [part for part in cell.split(separator) if part]
        pairs: Sequence[Any] = [part.rpartition(SEPARATOR)[::2] for part in parts]
        is_valid = all(value for value, _ in pairs)
    else:
        pairs = cell
        is_valid = isinstance(cell, tuple) and all(
            isinstance(pair, tuple) and len(pair) == 2 for pair in cell
        )
    if not is_valid:
        example = f"A{SEPARATOR}0.7{separator}B{SEPARATOR}0.3"
        raise ValueError(
            f'must contain values with weights: a text such as "{example}", or pairs '
            f"of a value and a weight. Received: {cell!r}."
        )
    return _weighted(pairs, as_text)


def join_pairs(values: Any, weights: Any, separator: str, as_text: AsText) -> Pairs:
    """Returns the values of a cell with the weights of another cell.

    Args:
        values: A text, a tuple of values, or one value.
        weights: A text, a tuple of numbers, or one number.
        separator: String that separates the values and the weights of a text.
        as_text: Function that returns the text of a value, `None` if it is missing.

    Raises:
        ValueError: If there is not one finite weight per value.
    """
    several = (
        _several(values, separator, as_text),
        _several(weights, separator, as_text),
    )
    if len(several[0]) != len(several[1]):
        raise ValueError(
            f"must have one weight per value. Received: {len(several[0])} values and "
            f"{len(several[1])} weights."
        )
    return _weighted(list(zip(*several, strict=True)), as_text)


def _several(cell: Any, separator: str, as_text: AsText) -> Sequence[Any]:
    if isinstance(cell, tuple):
        return cell
    if isinstance(cell, str):
        return [part or None for part in cell.split(separator)] if cell else []
    return [] if as_text(cell) is None else [cell]


def _weighted(pairs: Sequence[Any], as_text: AsText) -> Pairs:
    texts = [(as_text(value), weight) for value, weight in pairs]
    return [(text, _weight(weight, text)) for text, weight in texts if text is not None]


def _weight(weight: Any, value: str) -> float:
    try:
        number = math.nan if isinstance(weight, bool) else float(weight)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"the weight of {value!r} must be a finite number. Received: {weight!r}."
        )
    return number
