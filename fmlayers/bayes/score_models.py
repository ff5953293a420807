"""Factorization machines with the weights of a score, as Keras models."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fmlayers import _registry
from fmlayers.bayes.designs import Floats, Pairs
from fmlayers.bayes.posterior import MeanScore
from fmlayers.features import Feature
from fmlayers.layers import FeatureEmbedding

if TYPE_CHECKING:
    from fmlayers.data import Encoder
    from fmlayers.models import FactorizationMachine


def new_model(
    features: Sequence[Feature],
    dim: int,
    histories: Mapping[str, Pairs],
    **options: Any,
) -> "FactorizationMachine":
    """Returns a model with initial weights.

    Args:
        features: List of features.
        dim: Integer, the embedding dimension.
        histories: Dict from the name of a `History` to its distinct keys and values.
            Those that are not among the features have no effect.
        **options: Arguments of the model.
    """
    model: FactorizationMachine = _registry.load("FactorizationMachine")(
        features, dim, l2=0.0, linear_l2=0.0, **options
    )
    names = {feature.name for feature in features}
    for name, (keys, values) in histories.items():
        if name in names:
            model.factors.set_history(name, keys, values)
    return model


def assign_score(model: "FactorizationMachine", score: MeanScore) -> None:
    """Assigns the weights of a score to a model of the same features."""
    for feature in model.features:
        name = feature.name
        _assign(model.factors, feature, score.vectors[name])
        _assign(model.linear, feature, score.linear[name][:, np.newaxis])
    model.bias.assign([score.bias])


def selected(encoder: "Encoder", features: Sequence[Feature]) -> "Encoder":
    """Returns the encoder of the columns that the features read."""
    read = {entry.name for feature in features for entry in feature.entries}
    columns = [
        name for name in encoder.columns if read & set(encoder.column(name).inputs)
    ]
    return encoder.select(columns)


def _assign(layer: FeatureEmbedding, feature: Feature, rows: Floats) -> None:
    """Assigns the rows of a field's table, or of its vectors and then its bias."""
    weights = layer.named_weights()
    name = feature.table_name or feature.name
    if ("bias", name) in weights:
        rows, bias = rows[:-1], rows[-1]
        weights["bias", name].assign(bias)
    weight = weights["vector" if feature.table_name is None else "table", name]
    weight.assign(rows.reshape(weight.shape))
