"""Metrics of predicted probabilities, for labels that are 0 or 1.

Use them for predictions that you already have, such as a column of a table. They are
exact, where `keras.metrics.AUC` is an approximation from a grid of thresholds, and take
a weight per row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fmlayers._checks import integer

_Floats = npt.NDArray[np.float64]
# A float32 probability of exactly 0 or 1 is off by at most this much.
_EPSILON = float(np.finfo(np.float32).eps)


class Curve(NamedTuple):
    """The points of a curve.

    Attributes:
        x: Float64 array `(points,)`.
        y: Float64 array `(points,)`.
    """

    x: _Floats
    y: _Floats


def log_loss(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
) -> float:
    """Computes the mean logarithmic loss of predicted probabilities.

        log loss = - 1/sum_i w_i  sum_i w_i (y_i log p_i + (1 - y_i) log(1 - p_i))

    Probabilities are clipped to [2^-23, 1 - 2^-23], the precision of float32.

    Args:
        labels: True labels, 0 or 1, of any non-empty shape.
        probabilities: Predicted probabilities of the label 1, of the same shape.
        weights: Optional non-negative weights of the same shape. Defaults to equal
            weights.

    Returns:
        The loss in nats, computed in float64.

    Raises:
        ValueError: If the shapes differ, there are no labels, a label is not 0 or 1, a
            probability is not between 0 and 1, or the weights are negative, not finite
            or all zero.

    Example:

    >>> loss = fmlayers.metrics.log_loss([1, 0], [0.9, 0.2])
    >>> round(loss, 6)  # -(log 0.9 + log 0.8) / 2
    0.164252
    """
    y, p, w = _checked(labels, probabilities, weights)
    p = np.clip(p, _EPSILON, 1.0 - _EPSILON)
    losses = -np.where(y == 1.0, np.log(p), np.log1p(-p))
    return float(np.average(losses, weights=w))


def auc(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
) -> float:
    """Computes the area under the ROC curve.

    The area is the probability that a random row of the label 1 has a higher prediction
    than a random row of the label 0. Equal predictions count half.

    Args:
        labels: See `log_loss`. Both labels must be present.
        probabilities: Predictions of any scale, such as probabilities or raw scores.
        weights: See `log_loss`.

    Returns:
        The area, between 0 and 1; 0.5 for predictions without information.

    Raises:
        ValueError: See `log_loss`; or if only one of the labels is present.

    Example:

    >>> fmlayers.metrics.auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75

    References:
        Fawcett, T. (2006). An introduction to ROC analysis. Pattern Recognition
        Letters 27(8), section 7.
    """
    x, y = roc_curve(labels, probabilities, weights)
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2.0)


def pr_auc(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
) -> float:
    """Computes the average precision, the area under the precision-recall curve.

        AP = sum_k (recall_k - recall_{k-1}) precision_k

    over the distinct predictions, from the highest to the lowest. Unlike `auc`, it
    shows how well a rare label 1 is found; predictions without information have the
    share of the label 1.

    Args:
        labels: See `auc`.
        probabilities: See `auc`.
        weights: See `log_loss`.

    Returns:
        The average precision, between 0 and 1.

    Raises:
        ValueError: See `auc`.

    Example:

    >>> area = fmlayers.metrics.pr_auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    >>> round(area, 6)  # 1/2 * 1 + 1/2 * 2/3
    0.833333

    References:
        Davis, J. and Goadrich, M. (2006). The Relationship Between Precision-Recall and
        ROC Curves. ICML, section 4 (why the points are not joined by lines).
    """
    recall, precision = precision_recall_curve(labels, probabilities, weights)
    return float(np.sum(np.diff(recall) * precision[1:]))


def calibration_error(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    bins: int = 15,
) -> float:
    """Computes the expected calibration error of predicted probabilities.

        ECE = sum_b  weight of bin b / total weight  |share of label 1 - mean p|

    Bins have equal weight rather than equal width: where the label 1 is rare, all
    predictions are small, and bins of equal width would put them into one.

    Args:
        labels: See `log_loss`.
        probabilities: See `log_loss`.
        weights: See `log_loss`.
        bins: Positive integer, the number of bins. Defaults to 15.

    Returns:
        The error, between 0 and 1.

    Raises:
        ValueError: See `log_loss`.

    Example:

    >>> labels, predictions = [1, 1, 0, 0], [0.9, 0.7, 0.2, 0.2]
    >>> error = fmlayers.metrics.calibration_error(labels, predictions, bins=2)
    >>> round(error, 6)
    0.2

    References:
        - Guo, C. et al. (2017). On Calibration of Modern Neural Networks. ICML,
          equation 3.
        - Roelofs, R. et al. (2022). Mitigating Bias in Calibration Error Estimation.
          AISTATS, section 4 (bins of equal weight have less bias).
    """
    y, p, w = _checked(labels, probabilities, weights)
    totals, predicted, shares = _binned(y, p, w, bins)
    return float(np.average(np.abs(shares - predicted), weights=totals))


def calibration_curve(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    bins: int = 15,
) -> Curve:
    """Computes the points of a reliability diagram.

    Args:
        labels: See `log_loss`.
        probabilities: See `log_loss`.
        weights: See `log_loss`.
        bins: See `calibration_error`.

    Returns:
        A `Curve`: the mean prediction of each bin that has rows, and the share of the
        label 1 in it. Calibrated predictions lie on the diagonal.

    Raises:
        ValueError: See `log_loss`.
    """
    y, p, w = _checked(labels, probabilities, weights)
    _, predicted, shares = _binned(y, p, w, bins)
    return Curve(predicted, shares)


def roc_curve(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
) -> Curve:
    """Computes the receiver operating characteristic.

    Args:
        labels: See `auc`.
        probabilities: See `auc`.
        weights: See `log_loss`.

    Returns:
        A `Curve` from (0, 0) to (1, 1): the share of the rows of the label 0, and of
        those of the label 1, whose prediction is at least each threshold.

    Raises:
        ValueError: See `auc`.
    """
    positive, negative = _cumulated(labels, probabilities, weights)
    return Curve(negative / negative[-1], positive / positive[-1])


def precision_recall_curve(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
) -> Curve:
    """Computes precision and recall at each threshold.

    Args:
        labels: See `auc`.
        probabilities: See `auc`.
        weights: See `log_loss`.

    Returns:
        A `Curve` of the recall (x) and the precision (y), from the highest threshold to
        the lowest. It begins at recall 0, with the precision of the first threshold.

    Raises:
        ValueError: See `auc`.
    """
    positive, negative = _cumulated(labels, probabilities, weights)
    all_rows = positive + negative
    precision = np.divide(
        positive, all_rows, out=np.zeros_like(positive), where=all_rows > 0.0
    )
    precision[0] = precision[1]
    return Curve(positive / positive[-1], precision)


def _cumulated(
    labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None
) -> tuple[_Floats, _Floats]:
    """Returns the weight of each label at or above each distinct score, from 0 on."""
    y, s, w = _checked(labels, scores, weights, any_scale=True)
    order = np.argsort(-s, kind="stable")
    y, s, w = y[order], s[order], w[order]
    last = np.flatnonzero(np.append(np.diff(s) != 0.0, True))
    positive = np.append(0.0, np.cumsum(w * y)[last])
    negative = np.append(0.0, np.cumsum(w * (1.0 - y))[last])
    if not positive[-1] or not negative[-1]:
        present = 1 if positive[-1] else 0
        raise ValueError(
            "`labels` must have rows of both labels with a positive weight. "
            f"Received: only the label {present}."
        )
    return positive, negative


def _binned(
    y: _Floats, p: _Floats, w: _Floats, bins: int
) -> tuple[_Floats, _Floats, _Floats]:
    """Returns the weight, mean prediction and share of the label 1 of each bin.

    Equal predictions are in the same bin.
    """
    bins = integer("bins", bins)
    _, inverse = np.unique(p, return_inverse=True)
    each = np.bincount(inverse, weights=w)
    # The middle of a value's weight decides on its bin.
    middle = (np.cumsum(each) - each / 2.0) / each.sum()
    bin_of = np.minimum((middle * bins).astype(np.int64), bins - 1)[inverse]
    sums = np.stack([np.bincount(bin_of, w * x, bins) for x in (1.0, p, y)])
    totals, predicted, shares = sums[:, sums[0] > 0.0]
    return totals, predicted / totals, shares / totals


def _checked(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    weights: npt.ArrayLike | None,
    *,
    any_scale: bool = False,
) -> tuple[_Floats, _Floats, _Floats]:
    y = np.asarray(labels, dtype=np.float64)
    p = np.asarray(probabilities, dtype=np.float64)
    w = np.ones(y.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    # (n,) and a model's (n, 1) would broadcast to (n, n).
    for name, array in (("probabilities", p), ("weights", w)):
        if array.shape != y.shape:
            raise ValueError(
                f"`labels` and `{name}` must have the same shape. "
                f"Received: {y.shape} and {array.shape}."
            )
    if not y.size:
        raise ValueError(
            f"`labels` must have at least one label. Received: shape {y.shape}."
        )
    y, p, w = y.ravel(), p.ravel(), w.ravel()
    _require("labels", y, (y == 0.0) | (y == 1.0), "0 or 1")
    if any_scale:
        _require("probabilities", p, np.isfinite(p), "finite numbers")
    else:
        _require("probabilities", p, (p >= 0.0) & (p <= 1.0), "between 0 and 1")
    _require("weights", w, np.isfinite(w) & (w >= 0.0), "finite and not negative")
    if not w.sum():
        raise ValueError("`weights` must not all be zero. Received: only zeros.")
    return y, p, w


def _require(
    name: str, values: _Floats, good: npt.NDArray[np.bool_], rule: str
) -> None:
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(
            f"`{name}` must be {rule}. Received: {values[row]:g} at index {row}."
        )
