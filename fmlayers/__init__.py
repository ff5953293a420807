"""Factorization machines as Keras 3 layers."""

from fmlayers._registry import register as _register
from fmlayers.features import Categorical, MultiCategorical, Numeric
from fmlayers.layers import (
    FeatureEmbedding,
    FMInteraction,
    MaskedMeanPooling,
    RatingScaler,
)

_register()

__version__ = "0.1.0"

__all__ = [
    "Categorical",
    "FMInteraction",
    "FeatureEmbedding",
    "MaskedMeanPooling",
    "MultiCategorical",
    "Numeric",
    "RatingScaler",
]
