"""Draws from the conditional distributions of the hyperparameters.

They are small, so NumPy draws them in float64, with the generator of the chain.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Hyperprior:
    """The prior distributions of everything but the rows of the tables.

        precision of a table's rows ~ Wishart(dim + degrees, I / scale)
        mean of a table's rows | precision ~ N(0, 1 / precision)
        alpha ~ Gamma(shape, rate)
        bias ~ N(0, 1 / bias_precision)

    Attributes:
        scale: Positive float. With smaller values, the rows are closer to their mean.
        degrees: Nonnegative float.
        shape: Positive float.
        rate: Positive float.
        bias_precision: Nonnegative float. With 0, all biases are equally likely.
    """

    scale: float = 1.0
    degrees: float = 0.0
    shape: float = 0.5
    rate: float = 0.5
    bias_precision: float = 0.0


class Natural(NamedTuple):
    """The parameters of a normal distribution that the draws of a table need.

    Attributes:
        precision: Array `(dim, dim)`, the inverse of the covariance matrix.
        root: Array `(dim, dim)`, the lower triangular L with L L' = precision.
        shift: Array `(dim,)`, the precision times the mean.
    """

    precision: npt.NDArray[np.float32]
    root: npt.NDArray[np.float32]
    shift: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Gaussian:
    """The prior of the rows of a table.

    Attributes:
        mean: Array `(dim,)`.
        precision: Array `(dim, dim)`, the inverse of the covariance matrix.
    """

    mean: Matrix
    precision: Matrix

    @property
    def root(self) -> Matrix:
        """The lower triangular matrix L with L L' = precision."""
        return np.asarray(np.linalg.cholesky(self.precision), np.float64)

    @property
    def natural(self) -> Natural:
        """The natural parameters, in float32."""
        arrays = self.precision, self.root, self.precision @ self.mean
        return Natural(*(x.astype(np.float32) for x in arrays))


def draw_normal_wishart(
    table: npt.NDArray[np.floating], prior: Hyperprior, rng: np.random.Generator
) -> Gaussian:
    """Draws the prior of the rows of a table, given the table.

    With n rows x of mean m and W = (scale I + S + n / (n + 1) m m')^-1, where S is the
    scatter matrix of the rows, the conditional distribution is

        precision ~ Wishart(dim + degrees + n, W)
        mean | precision ~ N(n m / (n + 1), 1 / ((n + 1) precision))

    Args:
        table: Array `(rows, dim)`. Without rows, the draw is one of the hyperprior.
        prior: The `Hyperprior`.
        rng: The generator.

    References:
        Salakhutdinov, R. and Mnih, A. (2008). Bayesian Probabilistic Matrix
        Factorization using Markov Chain Monte Carlo. ICML, equation 14.
    """
    x = np.asarray(table, np.float64)
    rows, dim = x.shape
    mean = x.mean(axis=0) if rows else np.zeros(dim)
    deviations = x - mean
    inverse = prior.scale * np.eye(dim) + deviations.T @ deviations
    inverse += rows / (rows + 1.0) * np.outer(mean, mean)
    precision = draw_wishart(dim + prior.degrees + rows, inverse, rng)
    noise = np.linalg.solve(
        np.linalg.cholesky(precision).T, rng.standard_normal(dim)
    ) / np.sqrt(rows + 1.0)
    return Gaussian(rows * mean / (rows + 1.0) + noise, precision)


def draw_wishart(
    degrees: float, inverse_scale: Matrix, rng: np.random.Generator
) -> Matrix:
    """Draws from the Wishart distribution, by Bartlett's decomposition.

    Args:
        degrees: Float, the degrees of freedom, at least the dimension.
        inverse_scale: Array `(dim, dim)`, the inverse of the scale matrix.
        rng: The generator.

    Returns:
        Array `(dim, dim)`. Its mean is `degrees` times the scale matrix.
    """
    dim = len(inverse_scale)
    bartlett = np.tril(rng.standard_normal((dim, dim)), -1)
    bartlett[np.diag_indices(dim)] = np.sqrt(rng.chisquare(degrees - np.arange(dim)))
    # If inverse_scale = L L', then L'^-1 is a root of the scale matrix.
    root = np.linalg.solve(np.linalg.cholesky(inverse_scale).T, bartlett)
    return root @ root.T


def draw_alpha(
    count: float, sum_of_squares: float, prior: Hyperprior, rng: np.random.Generator
) -> float:
    """Draws the precision of the errors, given their number and sum of squares."""
    shape, rate = prior.shape + count / 2.0, prior.rate + sum_of_squares / 2.0
    return float(rng.gamma(shape) / rate)


def draw_bias(
    total_weight: float,
    sum_of_residuals: float,
    alpha: float,
    prior: Hyperprior,
    rng: np.random.Generator,
) -> float:
    """Draws the bias, given the weighted sum of the residuals without it."""
    precision = alpha * total_weight + prior.bias_precision
    mean = alpha * sum_of_residuals / precision
    return float(mean + rng.standard_normal() / np.sqrt(precision))
