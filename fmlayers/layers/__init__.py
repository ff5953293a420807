"""The layers, which are ordinary Keras layers."""

from fmlayers.layers.feature_embedding import FeatureEmbedding
from fmlayers.layers.fm_interaction import FMInteraction
from fmlayers.layers.masked_mean_pooling import MaskedMeanPooling
from fmlayers.layers.rating_scaler import RatingScaler

__all__ = ["FMInteraction", "FeatureEmbedding", "MaskedMeanPooling", "RatingScaler"]
