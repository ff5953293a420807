"""Metrics of predicted ratings.

Use them for predictions that you already have, such as a column of a table. To evaluate
a model with Keras, pass `keras.metrics.RootMeanSquaredError` or
`keras.metrics.MeanAbsoluteError` to `compile(metrics=...)`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def rmse(ratings: npt.ArrayLike, predictions: npt.ArrayLike) -> float:
    """Computes the root mean squared error of predicted ratings.

        RMSE = sqrt( 1/n sum_i (prediction_i - rating_i)^2 )

    All rows have the same weight, so users with many ratings have more influence. The
    RMSE does not measure the quality of recommendations: see `ranking_metrics`.

    Args:
        ratings: True ratings, finite numbers of any non-empty shape.
        predictions: Predicted ratings, finite numbers of the same shape.

    Returns:
        The error as a float, in the unit of the ratings, computed in float64.

    Raises:
        ValueError: If the shapes differ, there are no ratings, or a number is not
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
    """Computes the mean absolute error of predicted ratings.

        MAE = 1/n sum_i |prediction_i - rating_i|

    Unlike `rmse`, it gives large errors no extra weight.

    Args:
        ratings: True ratings, finite numbers of any non-empty shape.
        predictions: Predicted ratings, finite numbers of the same shape.

    Returns:
        The error as a float, in the unit of the ratings, computed in float64.

    Raises:
        ValueError: If the shapes differ, there are no ratings, or a number is not
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
    # (n,) and a model's (n, 1) would broadcast to (n, n).
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
                f"Received: {numbers.ravel()[row]} at index {row}."
            )
    return predicted - true
