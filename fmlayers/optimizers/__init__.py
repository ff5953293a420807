"""Optimizers whose step costs as much as the batch, not as the table, is long."""

from fmlayers.optimizers.adagrad import Adagrad

__all__ = ["Adagrad"]
