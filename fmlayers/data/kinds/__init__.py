"""The kinds of columns: how each becomes an input of a model."""

from fmlayers.data.kind_names import Kind, parsed
from fmlayers.data.kinds.categorical import CategoricalColumn
from fmlayers.data.kinds.column import MISSING, UNKNOWN, ColumnEncoder, Options
from fmlayers.data.kinds.multi_categorical import MultiCategoricalColumn
from fmlayers.data.kinds.numeric import Log1pColumn, NumericColumn
from fmlayers.data.kinds.quantiles import QuantilesColumn
from fmlayers.data.kinds.vector import VectorColumn
from fmlayers.data.kinds.weighted import WeightedColumn

__all__ = [
    "MISSING",
    "UNKNOWN",
    "ColumnEncoder",
    "Options",
    "column_encoder",
    "kind_class",
]

_ENCODERS: dict[str, type[ColumnEncoder]] = {
    "categorical": CategoricalColumn,
    "multi_categorical": MultiCategoricalColumn,
    "weighted": WeightedColumn,
    "numeric": NumericColumn,
    "vector": VectorColumn,
    "log1p": Log1pColumn,
    "quantiles": QuantilesColumn,
    "hash": CategoricalColumn,
    "multi_hash": MultiCategoricalColumn,
    "weighted_hash": WeightedColumn,
}


def kind_class(kind: Kind) -> type[ColumnEncoder]:
    """Returns the class of the encoders of a kind.

    Raises:
        ValueError: See `parsed`.
    """
    return _ENCODERS[parsed(kind)[0]]


def column_encoder(name: str, kind: Kind, options: Options) -> ColumnEncoder:
    """Returns the encoder of a column.

    Raises:
        ValueError: See `parsed`.
    """
    return kind_class(kind)(name, options, parsed(kind)[1])
