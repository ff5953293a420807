"""Optimizers for large embedding tables: the cost of a step depends on the batch."""

from fmlayers.optimizers.adagrad import Adagrad
from fmlayers.optimizers.lazy_adam import LazyAdam

__all__ = ["Adagrad", "LazyAdam"]
