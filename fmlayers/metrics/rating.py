"""Metrics of predicted ratings.

Use them for predictions that you already have, such as a column of a table. To evaluate
a model with Keras, pass `keras.metrics.RootMeanSquaredError` or
`keras.metrics.MeanAbsoluteError` to `compile(metrics=...)`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def rmse(
    ratings: npt.ArrayLike,
    predictions: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
) -> float:
    """Computes the root mean squared error of predicted ratings.

        RMSE = sqrt( 1/sum_i w_i  sum_i w_i (prediction_i - rating_i)^2 )

    With equal weights, users with many ratings have more influence. The RMSE does not
    measure the quality of recommendations: see `ranking_metrics`.

    Args:
        ratings: True ratings, finite numbers of any non-empty shape.
        predictions: Predicted ratings, finite numbers of the same shape.
        weights: Optional non-negative weights of the same shape. Defaults to equal
            weights.

    Returns:
        The error as a float, in the unit of the ratings, computed in float64.

    Raises:
        ValueError: If the shapes differ, there are no ratings, a number is not finite,
            or the weights are negative or all zero.

    Example:

    >>> fmlayers.metrics.rmse([4, 2, 5, 1], [4, 3, 4, 4])  # sqrt(11 / 4)
    1.6583123951777

    References:
        Herlocker, J. et al. (2004). Evaluating Collaborative Filtering Recommender
        Systems. ACM TOIS 22(1).
    """
    errors = _errors(ratings, predictions)
    return float(np.sqrt(_mean(np.square(errors), weights)))


def rmsle(
    targets: npt.ArrayLike,
    predictions: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
) -> float:
    """Computes the root mean squared logarithmic error of predicted counts or prices.

        RMSLE = sqrt( 1/sum_i w_i  sum_i w_i (ln(1 + p_i) - ln(1 + y_i))^2 )

    for predictions p and targets y.

    For large targets, it measures relative errors: an RMSLE of 0.1 is an error of about
    10 %.

    Args:
        targets: True targets, finite numbers greater than -1 of any non-empty shape.
        predictions: Predictions, finite numbers greater than -1 of the same shape.
        weights: See `rmse`.

    Returns:
        The error as a float, computed in float64.

    Raises:
        ValueError: See `rmse`; or if a number is -1 or less.

    Example:

    >>> error = fmlayers.metrics.rmsle([0, 9], [0, 99])  # ln(10) / sqrt(2)
    >>> round(error, 6)
    1.628174
    """
    _errors(targets, predictions)
    y, p = np.asarray(targets, np.float64), np.asarray(predictions, np.float64)
    least = min(y.min(), p.min())
    if least <= -1.0:
        raise ValueError(
            f"`targets` and `predictions` must be greater than -1. Received: {least:g}."
        )
    return float(np.sqrt(_mean(np.square(np.log1p(p) - np.log1p(y)), weights)))


def mae(
    ratings: npt.ArrayLike,
    predictions: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
) -> float:
    """Computes the mean absolute error of predicted ratings.

        MAE = 1/sum_i w_i  sum_i w_i |prediction_i - rating_i|

    Unlike `rmse`, it gives large errors no extra weight.

    Args:
        ratings: True ratings, finite numbers of any non-empty shape.
        predictions: Predicted ratings, finite numbers of the same shape.
        weights: See `rmse`.

    Returns:
        The error as a float, in the unit of the ratings, computed in float64.

    Raises:
        ValueError: See `rmse`.

    Example:

    >>> fmlayers.metrics.mae([4, 2, 5, 1], [4, 3, 4, 4])
    1.25

    References:
        Herlocker, J. et al. (2004). Evaluating Collaborative Filtering Recommender
        Systems. ACM TOIS 22(1).
    """
    return float(_mean(np.abs(_errors(ratings, predictions)), weights))


def _mean(values: npt.NDArray[np.float64], weights: npt.ArrayLike | None) -> float:
    if weights is None:
        return float(np.mean(values))
    w = np.asarray(weights, np.float64)
    if w.shape != values.shape:
        raise ValueError(
            "`ratings` and `weights` must have the same shape. "
            f"Received: {values.shape} and {w.shape}."
        )
    if not np.isfinite(w).all() or (w < 0.0).any() or not w.any():
        raise ValueError(
            "`weights` must be finite, not negative, and not all zero. Received: "
            f"weights from {w.min():g} to {w.max():g}."
        )
    return float(np.average(values, weights=w / w.max()))  # their sum may overflow


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
