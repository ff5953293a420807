import numpy as np
import numpy.typing as npt

BANDWIDTH = 0.15  # of the kernel, on an axis from 0 to 1
MIN_TRIALS = 5


def importance(
    values: npt.ArrayLike, scores: npt.ArrayLike, *, ordered: bool = True
) -> float:
    """Returns the share of the trials' ranking that one hyperparameter explains.

    A kernel regression predicts the rank of each trial from the other trials:

        1 - sum_i (r_i - f(x_i))^2 / sum_i (r_i - m_i)^2

    where r_i is the rank of trial i, f(x_i) its prediction from the trials with values
    near x_i, and m_i the mean rank of the other trials. A negative value is returned as
    0. Since no trial predicts itself, an irrelevant hyperparameter has a share of about
    0. A hyperparameter that matters only in combination with another has a low share.

    Args:
        values: `(trials,)`, positions between 0 and 1 on the axis of the
            hyperparameter.
        scores: `(trials,)`, values of the objective.
        ordered: Boolean, whether nearby values are similar. If `False`, only equal
            values are. Defaults to `True`.

    Returns:
        The share, between 0 and 1. It is 0 for fewer than 5 trials or a single value.

    References:
        Nadaraya, E. (1964). On Estimating Regression. Theory of Probability and Its
        Applications 9(1) (the regression f).
    """
    x, y = np.asarray(values, np.float64), np.asarray(scores, np.float64)
    if len(x) < MIN_TRIALS or len(np.unique(x)) < 2:
        return 0.0
    _, inverse, counts = np.unique(y, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # ties share a rank
    gaps = x[:, None] - x
    weights = np.exp(-0.5 * (gaps / BANDWIDTH) ** 2) if ordered else gaps == 0.0
    weights = weights.astype(np.float64)
    np.fill_diagonal(weights, 0.0)
    others = (ranks.sum() - ranks) / (len(ranks) - 1)
    total = weights.sum(axis=1)
    near = np.divide(weights @ ranks, total, out=others.copy(), where=total > 1e-9)
    spread = np.square(ranks - others).sum()
    if not spread:
        return 0.0
    return float(max(0.0, 1.0 - np.square(ranks - near).sum() / spread))
