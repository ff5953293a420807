"""The fields of a `FeatureEmbedding`, one class per kind of feature."""

from typing import TYPE_CHECKING, Any

from fmlayers.features import (
    Categorical,
    Feature,
    History,
    MultiCategorical,
    Numeric,
    Vector,
)
from fmlayers.layers._fields.categorical import CategoricalField
from fmlayers.layers._fields.field import Field
from fmlayers.layers._fields.history import HistoryField
from fmlayers.layers._fields.multi_categorical import MultiCategoricalField
from fmlayers.layers._fields.numeric import NumericField
from fmlayers.layers._fields.vector import VectorField

if TYPE_CHECKING:
    from fmlayers.layers.feature_embedding import FeatureEmbedding

FIELDS: dict[type[Feature], type[Field[Any]]] = {
    Categorical: CategoricalField,
    MultiCategorical: MultiCategoricalField,
    Numeric: NumericField,
    Vector: VectorField,
    History: HistoryField,
}


def field_of(feature: Feature, layer: "FeatureEmbedding", l2: float) -> Field[Any]:
    """Returns the field of a feature in a layer."""
    kind = next(kind for kind in type(feature).__mro__ if kind in FIELDS)
    return FIELDS[kind](feature, layer, l2)
