"""The distributions of a target, given its score."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers.bayes.designs import Floats
from fmlayers.bayes.priors import Matrix
from fmlayers.metrics import log_loss, rmse

LikelihoodName = Literal["normal", "probit"]
# sigmoid(LOGITS_PER_PROBIT x) differs from Phi(x) by less than 0.0095 for all x.
LOGITS_PER_PROBIT = 1.702


class Likelihood(NamedTuple):
    """A distribution of targets, given their scores.

    Attributes:
        metric: String, the name of the loss.
        loss: Function that returns the loss, from targets, their expected values and
            optional weights.
        expected: Function from scores to the expected values of the targets.
        draw_latents: `None` if the targets are normally distributed around the scores.
            Otherwise, a function from targets, scores and a generator to latent targets
            with this distribution.
    """

    metric: str
    loss: Callable[..., float]
    expected: Callable[[Floats], Floats]
    draw_latents: Callable[[Matrix, Matrix, np.random.Generator], Matrix] | None


def _identity(scores: Floats) -> Floats:
    return scores


def normal_cdf(x: Floats) -> Floats:
    """Returns the normal distribution function Phi(x), accurate in both tails."""
    scaled = ops.convert_to_tensor(-x * np.float32(0.5**0.5), "float32")
    halves: Floats = np.float32(0.5) * ops.convert_to_numpy(ops.erfc(scaled))
    return halves


def draw_latents(labels: Matrix, scores: Matrix, rng: np.random.Generator) -> Matrix:
    """Draws from N(score, 1), given that the sign is that of the label.

    Args:
        labels: Array `(examples,)`, 0 or 1.
        scores: Array `(examples,)`.
        rng: The generator.

    References:
        - Albert, J. and Chib, S. (1993). Bayesian Analysis of Binary and Polychotomous
          Response Data. JASA 88(422), section 3.
        - Robert, C. (1995). Simulation of Truncated Normal Variables. Statistics and
          Computing 5(2), proposition 2.3.
    """
    signs = np.where(labels > 0, 1.0, -1.0)
    least = -signs * scores  # of the errors, in the direction of the label
    errors = np.empty_like(least)
    tail = least > 0
    errors[~tail] = _draw_above(least[~tail], _normal_proposal, rng)
    errors[tail] = _draw_above(least[tail], _exponential_proposal, rng)
    return scores + signs * errors


def _draw_above(
    least: Matrix,
    proposal: Callable[
        [Matrix, np.random.Generator], tuple[Matrix, npt.NDArray[np.bool]]
    ],
    rng: np.random.Generator,
) -> Matrix:
    """Draws standard normal numbers, given that each is above its bound."""
    drawn = np.empty_like(least)
    left = np.arange(len(least))
    while len(left):
        x, accepted = proposal(least[left], rng)
        drawn[left] = x
        left = left[~accepted]
    return drawn


def _normal_proposal(
    least: Matrix, rng: np.random.Generator
) -> tuple[Matrix, npt.NDArray[np.bool]]:
    x = rng.standard_normal(len(least))
    return x, x > least


def _exponential_proposal(
    least: Matrix, rng: np.random.Generator
) -> tuple[Matrix, npt.NDArray[np.bool]]:
    rate = 0.5 * (least + np.sqrt(least**2 + 4.0))
    x = least + rng.exponential(size=len(least)) / rate
    return x, rng.random(len(least)) <= np.exp(-0.5 * (x - rate) ** 2)


LIKELIHOODS = {
    "normal": Likelihood("rmse", rmse, _identity, None),
    "probit": Likelihood("log_loss", log_loss, normal_cdf, draw_latents),
}
