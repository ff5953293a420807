"""The kinds of columns: how each becomes an input of a model."""

import re
from typing import NamedTuple

from fmlayers.data.kinds.categorical import CategoricalColumn
from fmlayers.data.kinds.column import MISSING, UNKNOWN, ColumnEncoder, Options
from fmlayers.data.kinds.multi_categorical import MultiCategoricalColumn
from fmlayers.data.kinds.numeric import Log1pColumn, NumericColumn
from fmlayers.data.kinds.quantiles import QuantilesColumn
from fmlayers.data.kinds.vector import VectorColumn
from fmlayers.data.kinds.weighted import WeightedColumn

__all__ = [
    "KINDS",
    "MISSING",
    "UNKNOWN",
    "ColumnEncoder",
    "Kind",
    "Options",
    "column_encoder",
    "is_kind",
    "kind_class",
]

# The text of a kind, such as "numeric" or "quantiles=20".
Kind = str


class _Row(NamedTuple):
    """A kind of column.

    Attributes:
        encoder: The class of its encoders.
        least: The least N of a kind such as `"hash=N"`, or `None` without a number.
    """

    encoder: type[ColumnEncoder]
    least: int | None = None


_ROWS = {
    "categorical": _Row(CategoricalColumn),
    "multi_categorical": _Row(MultiCategoricalColumn),
    "weighted": _Row(WeightedColumn),
    "numeric": _Row(NumericColumn),
    "vector": _Row(VectorColumn),
    "log1p": _Row(Log1pColumn),
    "quantiles": _Row(QuantilesColumn, 2),
    "hash": _Row(CategoricalColumn, 1),
    "multi_hash": _Row(MultiCategoricalColumn, 1),
    "weighted_hash": _Row(WeightedColumn, 1),
}
MAX_NUMBER = 2**31 - 2  # ids are int32
# The kinds as they are written.
KINDS = tuple(name if row.least is None else f"{name}=N" for name, row in _ROWS.items())


def kind_class(kind: Kind) -> type[ColumnEncoder]:
    """Returns the class of the encoders of a kind.

    Raises:
        ValueError: If there is no such kind. The message is the end of "must be ...".
    """
    return _parsed(kind)[0]


def is_kind(kind: object) -> bool:
    """Returns whether a value is the text of a kind."""
    try:
        return isinstance(kind, str) and bool(kind_class(kind))
    except ValueError:
        return False


def column_encoder(name: str, kind: Kind, options: Options) -> ColumnEncoder:
    """Returns the encoder of a column.

    Raises:
        ValueError: See `kind_class`.
    """
    encoder, number = _parsed(kind)
    return encoder(name, options, number)


def _parsed(kind: Kind) -> tuple[type[ColumnEncoder], int | None]:
    """Returns the class of a kind and its number."""
    name, equals, number = kind.partition("=") if isinstance(kind, str) else ("",) * 3
    row = _ROWS.get(name)
    if row is None or bool(equals) != (row.least is not None):
        raise ValueError(f"of the kinds {KINDS}")
    if row.least is None:
        return row.encoder, None
    if not re.fullmatch(r"[1-9][0-9]*", number) or not (
        row.least <= int(number) <= MAX_NUMBER
    ):
        raise ValueError(
            f"of the kinds {name}=N with an integer N from {row.least} to "
            f"{MAX_NUMBER:,}"
        )
    return row.encoder, int(number)
