"""Factorization machines as Keras 3 layers."""

from typing import TYPE_CHECKING

from fmlayers import _lazy, _registry

__version__ = "0.1.0"

__all__ = [
    "Categorical",
    "FMInteraction",
    "FeatureEmbedding",
    "History",
    "MaskedMeanPooling",
    "MultiCategorical",
    "Numeric",
    "RatingScaler",
    "ScoringModel",
    "Vector",
    "fit",
    "select_inputs",
]

if TYPE_CHECKING:
    from fmlayers import bayes as bayes
    from fmlayers import cli as cli
    from fmlayers import data as data
    from fmlayers import distributed as distributed
    from fmlayers import explain as explain
    from fmlayers import export as export
    from fmlayers import features as features
    from fmlayers import layers as layers
    from fmlayers import losses as losses
    from fmlayers import metrics as metrics
    from fmlayers import models as models
    from fmlayers import optimizers as optimizers
    from fmlayers import plots as plots
    from fmlayers import retrieval as retrieval
    from fmlayers import runs as runs
    from fmlayers import scoring_model as scoring_model
    from fmlayers import tuning as tuning
    from fmlayers._inputs import select_inputs
    from fmlayers._training.array_fit import fit
    from fmlayers.features import (
        Categorical,
        History,
        MultiCategorical,
        Numeric,
        Vector,
    )
    from fmlayers.layers import (
        FeatureEmbedding,
        FMInteraction,
        MaskedMeanPooling,
        RatingScaler,
    )
    from fmlayers.scoring_model import ScoringModel
else:
    _UNREGISTERED = {
        "ScoringModel": "fmlayers.scoring_model",
        "fit": "fmlayers._training.array_fit",
        "select_inputs": "fmlayers._inputs",
    }
    _SUBPACKAGES = (
        "bayes",
        "cli",
        "data",
        "distributed",
        "explain",
        "export",
        "features",
        "layers",
        "losses",
        "metrics",
        "models",
        "optimizers",
        "plots",
        "retrieval",
        "scoring_model",
        "runs",
        "tuning",
    )

    __getattr__, _ = _lazy.lazy_names(
        __name__, _registry.MODULES | _UNREGISTERED, _SUBPACKAGES
    )

    def __dir__() -> list[str]:
        return sorted([*__all__, *_SUBPACKAGES, "__version__"])


_registry.register()
