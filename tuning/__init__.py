"""KerasTuner search spaces and searches over the models."""

from fmlayers.tuning.hyper_models import (
    HyperChoice,
    HyperDeepFM,
    HyperFactorizationMachine,
    HyperLibFM,
    HyperMatrixFactorization,
    HyperNeuralMatrixFactorization,
)
from fmlayers.tuning.spaces import (
    embedding_space,
    interaction_space,
    linear_space,
    optimizer_space,
    pooling_space,
    scaler_space,
    tower_space,
    training_space,
)

__all__ = [
    "HyperChoice",
    "HyperDeepFM",
    "HyperFactorizationMachine",
    "HyperLibFM",
    "HyperMatrixFactorization",
    "HyperNeuralMatrixFactorization",
    "embedding_space",
    "interaction_space",
    "linear_space",
    "optimizer_space",
    "pooling_space",
    "scaler_space",
    "tower_space",
    "training_space",
]
