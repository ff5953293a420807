"""Subclassed Keras models made of the layers, one a file."""

from fmlayers.models.factorization_machine import FactorizationMachine
from fmlayers.models.matrix_factorization import MatrixFactorization

__all__ = ["FactorizationMachine", "MatrixFactorization"]
