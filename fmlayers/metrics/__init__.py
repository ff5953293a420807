"""Metrics of predicted ratings, of probabilities and of top-N recommendations."""

from fmlayers.metrics.classification import (
    Curve,
    auc,
    calibration_curve,
    calibration_error,
    log_loss,
    pr_auc,
    precision_recall_curve,
    roc_curve,
)
from fmlayers.metrics.ranking import ranking_metrics, ranking_metrics_by_user
from fmlayers.metrics.rating import mae, rmse, rmsle
from fmlayers.metrics.relevance import (
    Relevance,
    relevant_by_quantile,
    relevant_by_threshold,
)

__all__ = [
    "Curve",
    "Relevance",
    "auc",
    "calibration_curve",
    "calibration_error",
    "log_loss",
    "mae",
    "pr_auc",
    "precision_recall_curve",
    "ranking_metrics",
    "ranking_metrics_by_user",
    "relevant_by_quantile",
    "relevant_by_threshold",
    "rmse",
    "rmsle",
    "roc_curve",
]
