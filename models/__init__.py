"""Ready-made models: subclassed Keras models that are built from the layers."""

from typing import TYPE_CHECKING

from fmlayers import _lazy
from fmlayers.models.specs import CLASSES as _CLASSES
from fmlayers.models.specs import ModelSpec, register, registered

__all__ = [
    "DeepFM",
    "Ensemble",
    "FactorizationMachine",
    "LibFM",
    "MatrixFactorization",
    "ModelSpec",
    "NeuralMatrixFactorization",
    "register",
    "registered",
    "warm_start",
]

if TYPE_CHECKING:
    from fmlayers.models._warm_start import warm_start
    from fmlayers.models.deepfm import DeepFM
    from fmlayers.models.ensemble import Ensemble
    from fmlayers.models.factorization_machine import FactorizationMachine
    from fmlayers.models.libfm import LibFM
    from fmlayers.models.matrix_factorization import MatrixFactorization
    from fmlayers.models.neural_matrix_factorization import NeuralMatrixFactorization
else:
    __getattr__, __dir__ = _lazy.lazy_names(
        __name__, {**_CLASSES, "warm_start": "fmlayers.models._warm_start"}
    )
