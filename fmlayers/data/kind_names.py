"""The names of the kinds of columns."""

import re

# The text of a kind, such as "numeric" or "quantiles=20".
Kind = str
# The least number N of a kind such as "hash=N", `None` for a kind without a number.
LEAST: dict[str, int | None] = {
    "categorical": None,
    "multi_categorical": None,
    "weighted": None,
    "numeric": None,
    "vector": None,
    "log1p": None,
    "quantiles": 2,
    "hash": 1,
    "multi_hash": 1,
    "weighted_hash": 1,
}
MAX_NUMBER = 2**31 - 2  # ids are int32
# The kinds as they are written.
KINDS = tuple(name if least is None else f"{name}=N" for name, least in LEAST.items())
_OF_NUMBERS = ("numeric", "log1p", "quantiles")


def parsed(kind: Kind) -> tuple[str, int | None]:
    """Returns the name of a kind and its number N, if it has one.

    Raises:
        ValueError: If there is no such kind. The message is the end of "must be ...".
    """
    name, equals, number = kind.partition("=") if isinstance(kind, str) else ("",) * 3
    least = LEAST.get(name)
    if name not in LEAST or bool(equals) != (least is not None):
        raise ValueError(f"of the kinds {KINDS}")
    if least is None:
        return name, None
    is_integer = re.fullmatch(r"[1-9][0-9]*", number)
    if not is_integer or not least <= int(number) <= MAX_NUMBER:
        raise ValueError(
            f"of the kinds {name}=N with an integer N from {least} to {MAX_NUMBER:,}"
        )
    return name, int(number)


def is_kind(kind: object) -> bool:
    """Returns whether a value is the text of a kind."""
    try:
        return isinstance(kind, str) and bool(parsed(kind))
    except ValueError:
        return False


def reads_numbers(kind: Kind) -> bool:
    """Returns whether each cell of a column of this kind is a number."""
    return parsed(kind)[0] in _OF_NUMBERS


def is_weighted(kind: Kind) -> bool:
    """Returns whether the values of a column of this kind have weights."""
    return parsed(kind)[0] in ("weighted", "weighted_hash")
