"""KerasTuner search spaces and searches over the models."""

from typing import TYPE_CHECKING

from fmlayers import _lazy

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

if TYPE_CHECKING:
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
    from fmlayers.tuning.study import Study
    from fmlayers.tuning.study_folder import StudyError
    from fmlayers.tuning.study_search import searched, tune
    from fmlayers.tuning.tuning_config import TuningConfig
else:
    __getattr__, __dir__ = _lazy.lazy_names(
        __name__,
        {
            "HyperChoice": "fmlayers.tuning.hyper_models",
            "HyperDeepFM": "fmlayers.tuning.hyper_models",
            "HyperFactorizationMachine": "fmlayers.tuning.hyper_models",
            "HyperLibFM": "fmlayers.tuning.hyper_models",
            "HyperMatrixFactorization": "fmlayers.tuning.hyper_models",
            "HyperNeuralMatrixFactorization": "fmlayers.tuning.hyper_models",
            "HyperRegistered": "fmlayers.tuning.hyper_models",
            "Study": "fmlayers.tuning.study",
            "StudyError": "fmlayers.tuning.study_folder",
            "TuningConfig": "fmlayers.tuning.tuning_config",
            "embedding_space": "fmlayers.tuning.spaces",
            "interaction_space": "fmlayers.tuning.spaces",
            "linear_space": "fmlayers.tuning.spaces",
            "optimizer_space": "fmlayers.tuning.spaces",
            "pooling_space": "fmlayers.tuning.spaces",
            "scaler_space": "fmlayers.tuning.spaces",
            "searched": "fmlayers.tuning.study_search",
            "tower_space": "fmlayers.tuning.spaces",
            "training_space": "fmlayers.tuning.spaces",
            "tune": "fmlayers.tuning.study_search",
        },
    )
