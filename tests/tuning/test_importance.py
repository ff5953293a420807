import numpy as np
import pytest

from fmlayers.tuning.importance import BANDWIDTH, importance


def by_loops(values, scores, ordered):
    """Compute the formula of the docstring, trial by trial."""
    order = sorted(scores)
    ranks = [
        np.mean([place for place, other in enumerate(order, 1) if other == score])
        for score in scores
    ]
    wrong = spread = 0.0
    for i, rank in enumerate(ranks):
        others = [r for j, r in enumerate(ranks) if j != i]
        weights = []
        for j in range(len(ranks)):
            if j == i:
                continue
            gap = values[i] - values[j]
            weights.append(
                np.exp(-0.5 * (gap / BANDWIDTH) ** 2) if ordered else float(gap == 0)
            )
        expected = np.mean(others)
        if sum(weights) > 1e-9:
            expected = np.dot(weights, others) / sum(weights)
        wrong += (rank - expected) ** 2
        spread += (rank - np.mean(others)) ** 2
    return max(0.0, 1.0 - wrong / spread)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_against_loops(ordered, noise, rng):
    values = rng.choice([0.1, 0.3, 0.5, 0.9], 25)
    scores = (values - 0.4) ** 2 + noise * rng.random(25)
    scores[:4] = scores[4]  # ties
    actual = importance(values, scores, ordered=ordered)
    np.testing.assert_allclose(actual, by_loops(values, scores, ordered), rtol=1e-10)
    assert actual > 0.0


def test_a_decisive_and_an_irrelevant_hyperparameter(rng):
    values, other = rng.random(200), rng.random(200)
    scores = np.abs(values - 0.5)
    assert importance(values, scores) > 0.8
    assert importance(other, scores) < 0.05
    # Ranks are robust to outliers.
    assert importance(values, np.where(scores > 0.49, 1e9, scores)) > 0.8


@pytest.mark.parametrize(
    ("values", "scores"),
    [([0.1, 0.5], [1.0, 2.0]), ([0.5] * 9, range(9)), (np.arange(9) / 9, [1.0] * 9)],
)
def test_too_little_data(values, scores):
    assert importance(values, scores) == 0.0
