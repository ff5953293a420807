"""Optimizers whose step costs as much as the batch, not as the table, is long."""

from fmlayers.optimizers.adagrad import Adagrad
from fmlayers.optimizers.lazy_adam import LazyAdam

__all__ = ["Adagrad", "LazyAdam"]
