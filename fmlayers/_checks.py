"""Arguments that are numbers: Python's or NumPy's come in, Python's come out.

A configuration is kept as JSON, which has no NumPy.
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
        value: What came: an integer, or an array of one without axes. Booleans are
            refused.
        rule: What must hold, for the message.
        least: The lowest that is allowed. Defaults to 1.
        most: The highest that is allowed.
        of: What to add to the message, such as whose argument it is.

    Raises:
        ValueError: If it is no integer, or outside the bounds.
    """
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    if (
        found is None
        or (least is not None and found < least)
        or (most is not None and found > most)
    ):
        raise _error(name, value, rule, of)
    return found


def integers(name: str, values: Any, rule: str) -> tuple[int, ...]:
    """Returns an argument of positive integers, a sequence or an array, at least one.

    Raises:
        ValueError: If it is no sequence, is empty, or has something else in it.
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
        value: What came: a finite number, or an array of one without axes. Booleans
            and texts are refused.
        rule: What must hold, for the message.
        holds: Whether it does.
        of: What to add to the message, such as whose argument it is.

    Raises:
        ValueError: If it is no finite number, or the rule does not hold.
    """
    if not is_number(value) or not holds(float(value)):
        raise _error(name, value, rule, of)
    return float(value)


def is_number(value: Any) -> bool:
    """Tells whether `value` is a finite number, in an array without axes, too."""
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


def boolean(name: str, value: Any) -> bool:
    """Returns an argument as a `bool`."""
    value = plain(value)
    if not isinstance(value, bool):
        raise _error(name, value, "True or False")
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
        of: Text to append to the message, such as whose argument it is.

    Raises:
        ValueError: If it is none of them.
    """
    value = plain(value)
    if not isinstance(value, str) or value not in choices:
        *quoted, last = (f'"{each}"' for each in choices)
        raise _error(name, value, f"{', '.join(quoted)} or {last}", of)
    return value


def plain(value: Any) -> Any:
    """Returns NumPy's numbers, and arrays without axes, as Python's; else `value`."""
    numpy = sys.modules.get("numpy")  # not there, nothing is of it
    if numpy and (
        isinstance(value, numpy.generic)
        or (isinstance(value, numpy.ndarray) and value.ndim == 0)
    ):
        return value.item()
    return value


def _error(name: str, value: Any, rule: str, of: str = "") -> ValueError:
    return ValueError(f"`{name}` must be {rule}. Received: {name}={value!r}{of}.")
