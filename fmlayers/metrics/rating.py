"""The error of predicted ratings.

These are for predictions that are there already, as in a table. Where Keras evaluates
a model, `keras.metrics.RootMeanSquaredError` and `keras.metrics.MeanAbsoluteError` in
`compile(metrics=...)` measure the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def rmse(ratings: npt.ArrayLike, predictions: npt.ArrayLike) -> float:
    """Root mean squared error of predicted ratings, in their own unit.

        RMSE = sqrt( 1/n sum_i (prediction_i - rating_i)^2 )

    All rows weigh the same, so users with many ratings weigh more than others. It says
    nothing of the order in which items are recommended: see `ranking_metrics`. For a
    Keras model's `compile`, take `keras.metrics.RootMeanSquaredError`.

    Args:
        ratings: the true ratings, finite numbers of any shape but an empty one.
        predictions: the predicted ones, of the same shape.

    Returns:
        The error, 0 or more, computed in float64.

    Raises:
        ValueError: if the shapes differ, there are no ratings, or a number isn't
            finite.

    Example:

    >>> fmlayers.metrics.rmse([4, 2, 5, 1], [4, 3, 4, 4])  # sqrt(11 / 4)
    1.6583123951777

    References:
        Herlocker, J. et al. (2004). Evaluating Collaborative Filtering Recommender
        Systems. ACM TOIS 22(1).
    """
    return float(np.sqrt(np.mean(np.square(_errors(ratings, predictions)))))


def mae(ratings: npt.ArrayLike, predictions: npt.ArrayLike) -> float:
    """Mean absolute error of predicted ratings, in their own unit.

        MAE = 1/n sum_i |prediction_i - rating_i|

    One large error weighs as much as several small ones of the same sum, where `rmse`
    gives it more. For a Keras model's `compile`, take
    `keras.metrics.MeanAbsoluteError`.

    Args:
        ratings: the true ratings, finite numbers of any shape but an empty one.
        predictions: the predicted ones, of the same shape.

    Returns:
        The error, 0 or more, computed in float64.

    Raises:
        ValueError: if the shapes differ, there are no ratings, or a number isn't
            finite.

    Example:

    >>> fmlayers.metrics.mae([4, 2, 5, 1], [4, 3, 4, 4])
    1.25

    References:
        Herlocker, J. et al. (2004). Evaluating Collaborative Filtering Recommender
        Systems. ACM TOIS 22(1).
    """
    return float(np.mean(np.abs(_errors(ratings, predictions))))


def _errors(
    ratings: npt.ArrayLike, predictions: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    true = np.asarray(ratings, dtype=np.float64)
    predicted = np.asarray(predictions, dtype=np.float64)
    # (n,) against a model's (n, 1) would broadcast to all n * n pairs.
    if true.shape != predicted.shape:
        raise ValueError(
            "`ratings` and `predictions` must have the same shape. "
            f"Received: {true.shape} and {predicted.shape}."
        )
    if not true.size:
        raise ValueError(
            f"`ratings` must have at least one rating. Received: shape {true.shape}."
        )
    for name, numbers in (("ratings", true), ("predictions", predicted)):
        bad = ~np.isfinite(numbers.ravel())
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(
                f"`{name}` must be finite numbers. "
                f"Received: {numbers.ravel()[row]} at position {row}."
            )
    return predicted - true
