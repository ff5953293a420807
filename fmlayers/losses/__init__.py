"""Losses for ranking, rare labels and long tails, and the mean loss as a metric."""

from fmlayers.losses.balanced_crossentropy import BalancedCrossentropy
from fmlayers.losses.bpr import BPR
from fmlayers.losses.mean_loss import MeanLoss
from fmlayers.losses.squared_log_error import SquaredLogError

__all__ = ["BPR", "BalancedCrossentropy", "MeanLoss", "SquaredLogError"]
