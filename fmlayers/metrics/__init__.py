"""Metrics of predicted ratings and of top-N recommendations."""

from fmlayers.metrics.ranking import ranking_metrics, ranking_metrics_by_user
from fmlayers.metrics.rating import mae, rmse
from fmlayers.metrics.relevance import (
    Relevance,
    relevant_by_quantile,
    relevant_by_threshold,
)

__all__ = [
    "Relevance",
    "mae",
    "ranking_metrics",
    "ranking_metrics_by_user",
    "relevant_by_quantile",
    "relevant_by_threshold",
    "rmse",
]
