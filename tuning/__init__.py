"""KerasTuner search spaces and searches over the models."""

from fmlayers.tuning.hyper_models import (
    HyperChoice,
    HyperDeepFM,
    HyperFactorizationMachine,
    HyperLibFM,
    HyperMatrixFactorization,
    HyperNeuralMatrixFactorization,
    HyperRegistered,
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
from fmlayers.tuning.study import Study, StudyError
from fmlayers.tuning.study_search import searched, tune
from fmlayers.tuning.tuning_config import TuningConfig

__all__ = [
    "HyperChoice",
    "HyperDeepFM",
    "HyperFactorizationMachine",
    "HyperLibFM",
    "HyperMatrixFactorization",
    "HyperNeuralMatrixFactorization",
    "HyperRegistered",
    "Study",
    "StudyError",
    "TuningConfig",
    "embedding_space",
    "interaction_space",
    "linear_space",
    "optimizer_space",
    "pooling_space",
    "scaler_space",
    "searched",
    "tower_space",
    "training_space",
    "tune",
]
