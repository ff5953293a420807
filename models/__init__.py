"""Subclassed Keras models made of the layers, one a file."""

from fmlayers.models.deepfm import DeepFM
from fmlayers.models.ensemble import Ensemble
from fmlayers.models.factorization_machine import FactorizationMachine
from fmlayers.models.libfm import LibFM
from fmlayers.models.matrix_factorization import MatrixFactorization
from fmlayers.models.neural_matrix_factorization import NeuralMatrixFactorization
from fmlayers.models.warm_start import warm_start

__all__ = [
    "DeepFM",
    "Ensemble",
    "FactorizationMachine",
    "LibFM",
    "MatrixFactorization",
    "NeuralMatrixFactorization",
    "warm_start",
]
