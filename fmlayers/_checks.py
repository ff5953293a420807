"""Checks of arguments. NumPy's numbers and strings are returned as Python's.

Configurations are saved as JSON, which has no NumPy types.
"""

import math
import operator
import sys
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any


def integer(
    name: str,
    value: Any,
    rule: str = "a positive integer",
    *,
    least: int | None = 1,
    most: int | None = None,
    of: str = "",
) -> int:
    """Returns an argument as an `int`.

    Args:
        name: The argument's name.
        value: The argument: an integer, or an array without axes that holds one.
            Booleans are not integers here.
        rule: The rule that the message states.
        least: The lowest allowed value. Defaults to 1.
        most: The highest allowed value. Defaults to `None` (no bound).
        of: Text to append to the message, such as the owner of the argument.

    Raises:
        ValueError: If the argument is not an integer, or is outside the bounds.
    """
    try:
        index = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        index = None
    if (
        index is None
        or (least is not None and index < least)
        or (most is not None and index > most)
    ):
        raise _error(name, value, rule, of)
    return index


def integers(name: str, values: Any, rule: str) -> tuple[int, ...]:
    """Returns a non-empty sequence or array of positive integers as a tuple.

    Raises:
        ValueError: If the argument is not a sequence, is empty, or contains anything
            but positive integers.
    """
    sized = isinstance(values, Sequence) or len(getattr(values, "shape", ())) == 1
    if isinstance(values, str) or not sized or not len(values):
        raise _error(name, values, rule)
    try:
        return tuple(integer(name, value) for value in values)
    except ValueError:
        raise _error(name, values, rule) from None


def number(
    name: str,
    value: Any,
    rule: str = "a finite number",
    holds: Callable[[float], bool] = lambda x: True,
    *,
    of: str = "",
) -> float:
    """Returns an argument as a `float`.

    Args:
        name: The argument's name.
        value: The argument: a finite number, or an array without axes that holds one.
            Booleans and strings are not numbers here.
        rule: The rule that the message states.
        holds: Function that returns whether the rule holds.
        of: Text to append to the message, such as the owner of the argument.

    Raises:
        ValueError: If the argument is not a finite number, or the rule does not hold.
    """
    if not is_number(value) or not holds(float(value)):
        raise _error(name, value, rule, of)
    return float(value)


def is_number(value: Any) -> bool:
    """Returns whether `value` is a finite number or an array without axes of one."""
    value = plain(value)
    real = isinstance(value, Real) and not isinstance(value, bool)
    return real and math.isfinite(value)


def share(name: str, value: Any) -> float:
    """Returns an argument that is at least 0 and less than 1."""
    rule = "at least 0 and less than 1"
    return number(name, value, rule, lambda x: 0.0 <= x < 1.0)


def coefficient(name: str, value: Any, *, of: str = "") -> float:
    """Returns an argument that is finite and at least 0."""
    return number(name, value, "finite and at least 0", lambda x: x >= 0.0, of=of)


def boolean(name: str, value: Any, *, of: str = "") -> bool:
    """Returns an argument as a `bool`."""
    value = plain(value)
    if not isinstance(value, bool):
        raise _error(name, value, "True or False", of)
    return value


def positive(name: str, value: Any) -> float:
    """Returns an argument that is finite and greater than 0."""
    return number(name, value, "positive", lambda x: x > 0.0)


def choice(name: str, value: Any, choices: Sequence[str], *, of: str = "") -> Any:
    """Returns an argument that is one of some strings.

    Args:
        name: The argument's name.
        value: The argument.
        choices: At least two strings, such as those of a `Literal`.
        of: Text to append to the message, such as the owner of the argument.

    Raises:
        ValueError: If the argument is none of them.
    """
    value = plain(value)
    if not isinstance(value, str) or value not in choices:
        *quoted, last = (f'"{each}"' for each in choices)
        raise _error(name, value, f"{', '.join(quoted)} or {last}", of)
    return value


def plain(value: Any) -> Any:
    """Returns NumPy scalars and arrays without axes as Python's; others unchanged."""
    numpy = sys.modules.get("numpy")  # if not imported, no value is NumPy's
    if numpy and (
        isinstance(value, numpy.generic)
        or (isinstance(value, numpy.ndarray) and value.ndim == 0)
    ):
        return value.item()
    return value


def _error(name: str, value: Any, rule: str, of: str = "") -> ValueError:
    return ValueError(f"`{name}` must be {rule}. Received: {name}={value!r}{of}.")
