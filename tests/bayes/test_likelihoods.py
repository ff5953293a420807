import math

import numpy as np

from fmlayers.bayes.likelihoods import draw_latents, normal_cdf


def upper_tail(x):
    return 0.5 * math.erfc(x / math.sqrt(2.0))


def test_distribution_function():
    x = np.linspace(-12.0, 12.0, 97).astype("float32")
    expected = [upper_tail(-each) for each in x.astype("float64")]
    np.testing.assert_allclose(normal_cdf(x), expected, rtol=2e-5)


def test_latents_are_truncated_normal_numbers():
    """Their mean and their variance are the exact ones, in both tails."""
    rng = np.random.default_rng(0)
    count = 40_000
    for score in (-30.0, -6.0, -1.0, 0.0, 0.3, 2.0, 6.0):
        for label, sign in ((1.0, 1.0), (0.0, -1.0)):
            drawn = draw_latents(np.full(count, label), np.full(count, score), rng)
            assert (sign * drawn > 0).all()
            least = -sign * score
            density = math.exp(-0.5 * least**2) / math.sqrt(2.0 * math.pi)
            ratio = density / upper_tail(least)
            mean, variance = score + sign * ratio, 1.0 + least * ratio - ratio**2
            error = 4.0 * math.sqrt(variance / count)
            assert abs(drawn.mean() - mean) < error, (score, label)
            np.testing.assert_allclose(drawn.var(), variance, rtol=0.05)


def test_draws_depend_on_the_generator_alone():
    labels, scores = np.array([0.0, 1.0, 1.0]), np.array([2.0, -3.0, 0.5])
    one, same, other = (
        draw_latents(labels, scores, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).all()
