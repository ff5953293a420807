import numpy as np
import numpy.typing as npt

BANDWIDTH = 0.15  # of a kernel, on an axis from 0 to 1
FEWEST = 5  # trials to say anything by


def importance(
    values: npt.ArrayLike, scores: npt.ArrayLike, *, ordered: bool = True
) -> float:
    """Returns which share of how trials rank a hyperparameter alone tells.

        1 - sum_i (r_i - f(x_i))^2 / sum_i (r_i - m_i)^2

    where r_i is the rank of trial i, f(x_i) what the other trials with values near x_i
    lead to expect, and m_i the mean of the others; 0 where that would be negative. So
    a hyperparameter that says nothing gets about 0, not the share that noise fits, and
    one that works only together with another gets little.

    Args:
        values: `(trials,)`, from 0 to 1 along the axis that it is drawn on.
        scores: `(trials,)`, the objective.
        ordered: Whether near values are alike; of a choice only equal ones are.
            Defaults to `True`.

    References:
        Nadaraya, E. (1964). On Estimating Regression. Theory of Probability and Its
        Applications 9(1) (f).
    """
    x, y = np.asarray(values, np.float64), np.asarray(scores, np.float64)
    if len(x) < FEWEST or len(np.unique(x)) < 2:
        return 0.0
    _, inverse, counts = np.unique(y, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # of equals, their mean
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
