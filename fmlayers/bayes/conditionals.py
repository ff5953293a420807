"""Draws of a table from its conditional distribution, given everything else.

Given the other tables, the score is linear in the table T of a field:

    score = c + <t, q>,  t = Z T,  q = (1, s - v)

where t = (w, v) is the row of the design times the table: the first-order weight and
the vector; and s is the sum of the vectors of all fields. So the rows of the table are
normally distributed with the precision matrix I x Lambda + alpha Z' diag(q q') Z. All
functions read the examples through their sums over each key.

References:
    Freudenthaler, C., Schmidt-Thieme, L. and Rendle, S. (2011). Bayesian Factorization
    Machines. NIPS workshop on sparse representation and low-rank approximation.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from fmlayers._types import Tensor
from fmlayers.bayes.designs import Design, Floats
from fmlayers.bayes.priors import Gaussian
from fmlayers.bayes.products import Products

# Up to this many unknowns, a table whose rows occur together is drawn from one system.
MAX_DENSE = 700
MAX_STEPS = 100  # of the conjugate gradients


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over the examples of each key.

    Attributes:
        squares: Tensor `(keys, dim + 1, dim + 1)`, the sums of q q'.
        products: Tensor `(keys, dim + 1)`, the sums of q times the residual.
        noise: Optional tensor `(keys, dim + 1)`, the sums of q times standard normal
            noise.
    """

    squares: Tensor
    products: Tensor
    noise: Tensor | None = None

    def given(self, constant: Tensor, vector: Tensor) -> "Sums":
        """Returns the sums for a field, given the block's other fields.

        These sums are over q = (1, o), where o is the sum of the vectors of the other
        blocks. With the sum p of the vectors of the other fields of the block, it is
        (1, o + p), and c + <p, o> is subtracted from the residual, where c is their
        contribution that does not depend on other blocks.

        Args:
            constant: Tensor `(keys, 1)`, c.
            vector: Tensor `(keys, dim)`, p.
        """
        n = self.squares[:, :1, 0]
        a, outer = self.squares[:, 1:, 0], self.squares[:, 1:, 1:]
        shifted = a + n * vector
        corner = (
            outer
            + ops.expand_dims(vector, 2) * ops.expand_dims(shifted, 1)
            + ops.expand_dims(a, 2) * ops.expand_dims(vector, 1)
        )
        top = ops.concatenate([n, shifted], axis=1)
        below = ops.concatenate([ops.expand_dims(shifted, 2), corner], axis=2)
        squares = ops.concatenate([ops.expand_dims(top, 1), below], axis=1)
        first = (
            self.products[:, :1]
            - constant * n
            - ops.sum(vector * a, axis=1, keepdims=True)
        )
        others = (
            self.products[:, 1:]
            - constant * a
            - ops.squeeze(ops.matmul(outer, ops.expand_dims(vector, 2)), 2)
            + vector * first
        )
        noise = self.noise
        if noise is not None:
            noise = ops.concatenate(
                [noise[:, :1], noise[:, 1:] + vector * noise[:, :1]], axis=1
            )
        return Sums(squares, ops.concatenate([first, others], axis=1), noise)


def draw_rows(
    sums: Sums, alpha: float, prior: Gaussian, noise: Floats
) -> tuple[Tensor, Tensor]:
    """Draws rows that occur in no example together: one small system each.

    Args:
        sums: The sums over the examples of each row.
        alpha: Float, the precision of the errors.
        prior: The prior of the rows.
        noise: Standard normal noise of the shape of the table.

    Returns:
        The drawn table, and its conditional mean.
    """
    precision = alpha * sums.squares + _tensor(prior.precision)
    shift = alpha * sums.products + _tensor(prior.precision @ prior.mean)
    return _draw(precision, shift, _tensor(noise))


def draw_dense(
    sums: Sums, design: Design, alpha: float, prior: Gaussian, noise: Floats
) -> tuple[Tensor, Tensor]:
    """Draws all rows of a small table together, from one system.

    Args:
        sums: The sums over the examples of each row of the design.
        design: The design over the keys.
        alpha: Float, the precision of the errors.
        prior: The prior of the rows.
        noise: Standard normal noise of the shape of the table.

    Returns:
        The drawn table, and its conditional mean.
    """
    size, width = design.num_columns, sums.products.shape[1]
    z = _tensor(design.dense())
    pairs = ops.expand_dims(z, 2) * ops.expand_dims(z, 1)
    squares = ops.matmul(
        ops.transpose(ops.reshape(pairs, (-1, size * size))),
        ops.reshape(sums.squares, (-1, width * width)),
    )
    squares = ops.reshape(squares, (size, size, width, width))
    squares = ops.reshape(ops.transpose(squares, (0, 2, 1, 3)), (size * width, -1))
    products = ops.reshape(ops.matmul(ops.transpose(z), sums.products), (-1,))
    return draw_system(squares, products, alpha, prior, noise)


def draw_system(
    squares: Tensor, products: Tensor, alpha: float, prior: Gaussian, noise: Floats
) -> tuple[Tensor, Tensor]:
    """Draws all rows of a small table together, from one system.

    Args:
        squares: Tensor `(rows * (dim + 1), rows * (dim + 1))`, the sums of h h', where
            h is the Kronecker product of the row of the design and q.
        products: Tensor `(rows * (dim + 1),)`, the sums of h times the residual.
        alpha: Float, the precision of the errors.
        prior: The prior of the rows.
        noise: Standard normal noise of the shape of the table.

    Returns:
        The drawn table, and its conditional mean.
    """
    size, _ = noise.shape
    precision = alpha * squares + _tensor(np.kron(np.eye(size), prior.precision))
    mean = np.tile(prior.precision @ prior.mean, size)
    shift = alpha * products + _tensor(mean)
    drawn, mean = _draw(precision, shift, _tensor(noise.ravel()))
    return ops.reshape(drawn, noise.shape), ops.reshape(mean, noise.shape)


def _draw(precision: Tensor, shift: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a draw from N(precision^-1 shift, precision^-1), and the mean."""
    root = ops.cholesky(precision)
    half = ops.solve_triangular(root, ops.expand_dims(shift, -1), lower=True)
    both = ops.concatenate([half, half + ops.expand_dims(noise, -1)], axis=-1)
    solved = ops.solve_triangular(ops.swapaxes(root, -1, -2), both, lower=False)
    return solved[..., 1], solved[..., 0]


def sums_of_columns(sums: Sums, z: Products) -> Sums:
    """Returns the sums over the examples of each column of a one-hot design."""
    width = sums.products.shape[1]
    squares = z.squared.back(ops.reshape(sums.squares, (-1, width * width)))
    return Sums(ops.reshape(squares, (-1, width, width)), z.back(sums.products))


def draw_by_gradients(
    start: Tensor,
    sums: Sums,
    z: Products,
    alpha: float,
    prior: Gaussian,
    noise: Floats,
    tolerance: float,
) -> tuple[Tensor, int]:
    """Draws a large table whose rows occur together, by perturbation and optimization.

    The solution of A x = b, where b is perturbed by noise of the covariance matrix A,
    is a draw from N(A^-1 E[b], A^-1). Conjugate gradients solve the system up to an
    error that is small compared with the standard deviations of the draw.

    Args:
        start: Tensor, the table to start from.
        sums: The sums over the examples of each key, with noise.
        z: The design over the keys.
        alpha: Float, the precision of the errors.
        prior: The prior of the rows.
        noise: Standard normal noise of the shape of the table.
        tolerance: Float, the norm of the error relative to that of a draw.

    Returns:
        The drawn table, and the number of steps.

    References:
        Papandreou, G. and Yuille, A. (2010). Gaussian Sampling by Local Perturbations.
        NIPS, section 2.
    """
    root = prior.root
    precision = _tensor(prior.precision)
    shift = z.back(alpha * sums.products + alpha**0.5 * sums.noise)
    shift = shift + _tensor(prior.precision @ prior.mean + noise @ root.T)
    squares = alpha * sums.squares

    def times(x: Tensor) -> Tensor:
        y = ops.squeeze(ops.matmul(squares, ops.expand_dims(z.forth(x), 2)), 2)
        return z.back(y) + ops.matmul(x, precision)

    # The preconditioner of row j is (Lambda + c_j M)^-1, in the basis R in which Lambda
    # and the mean M of the squares are both diagonal.
    counts = squares[:, :1, 0]
    total = ops.sum(squares, axis=0)
    mean = ops.convert_to_numpy(total / total[0, 0]).astype(np.float64)
    inverse = np.linalg.inv(root)
    sizes, basis = np.linalg.eigh(inverse @ mean @ inverse.T)
    basis = _tensor(inverse.T @ basis)
    shares = z.squared.back(counts)
    scale = 1.0 / (1.0 + shares * _tensor(np.maximum(sizes, 0.0)))

    def preconditioned(x: Tensor) -> Tensor:
        return ops.matmul(ops.matmul(x, basis) * scale, ops.transpose(basis))

    x = start
    residual = shift - times(x)
    direction = solved = preconditioned(residual)
    error = float(ops.sum(residual * solved))
    # A draw differs from the mean by an error of the size of the table, on average.
    enough, steps = tolerance**2 * noise.size, 0
    while error > enough and steps < MAX_STEPS:
        image = times(direction)
        length = error / float(ops.sum(direction * image))
        x = x + length * direction
        residual = residual - length * image
        solved = preconditioned(residual)
        error, last = float(ops.sum(residual * solved)), error
        direction = solved + error / last * direction
        steps += 1
    return x, steps


def _tensor(x: Any) -> Tensor:
    return ops.convert_to_tensor(x, "float32")
