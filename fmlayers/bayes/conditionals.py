"""Draws of a table from its conditional distribution, given everything else.

Given the other tables, the score is linear in the table T of a field:

    score = c + <t, q>,  t = Z T,  q = (1, s - v)

where t = (w, v) is the row of the design times the table: the first-order weight and
the vector; and s is the sum of the vectors of all fields. So the rows of the table are
normally distributed with the precision matrix I x Lambda + alpha Z' diag(q q') Z. All
functions read the examples through their sums over each key, and may run in a graph.

References:
    Freudenthaler, C., Schmidt-Thieme, L. and Rendle, S. (2011). Bayesian Factorization
    Machines. NIPS workshop on sparse representation and low-rank approximation.
"""

from typing import NamedTuple

from keras import ops

from fmlayers._types import Tensor
from fmlayers.bayes.priors import Natural
from fmlayers.bayes.products import Products
from fmlayers.bayes.without_own import ProductsWithoutOwn

# Up to this many unknowns, a table whose rows occur together is drawn from one system.
MAX_DENSE = 700
# Of the conjugate gradients: the tolerance is the norm of the error relative to that of
# a draw. With 0.1, they take twice the steps.
MAX_STEPS, TOLERANCE = 100, 0.3


class Sums(NamedTuple):
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

    def times(self, fields: Tensor) -> Tensor:
        """Returns the sums of q q' times the field of each key."""
        return ops.squeeze(ops.matmul(self.squares, ops.expand_dims(fields, 2)), 2)

    @property
    def total(self) -> Tensor:
        """The sum of q q' over all examples."""
        return ops.sum(self.squares, axis=0)

    @property
    def counts(self) -> Tensor:
        """The weights of the examples, summed over each key, `(keys, 1)`."""
        return self.squares[:, :1, 0]

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


class Terms(NamedTuple):
    """The terms of `Sums` if each example is a separate key.

    Attributes:
        q: Tensor `(examples, dim + 1)`.
        weights: Tensor `(examples, 1)`.
        residuals: Tensor `(examples, 1)`.
        errors: Tensor `(examples, 1)`, standard normal noise.
    """

    q: Tensor
    weights: Tensor
    residuals: Tensor
    errors: Tensor

    def times(self, fields: Tensor) -> Tensor:
        """Returns q q' times the field of each example."""
        return self.weights * self.q * ops.sum(self.q * fields, axis=1, keepdims=True)

    @property
    def products(self) -> Tensor:
        return self.weights * self.residuals * self.q

    @property
    def noise(self) -> Tensor:
        return ops.sqrt(self.weights) * self.errors * self.q

    @property
    def total(self) -> Tensor:
        """The sum of q q'."""
        return ops.matmul(ops.transpose(self.weights * self.q), self.q)

    @property
    def counts(self) -> Tensor:
        return self.weights


def draw_rows(
    sums: Sums, alpha: Tensor, prior: Natural, noise: Tensor
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
    precision = alpha * sums.squares + prior.precision
    shift = alpha * sums.products + prior.shift
    return _draw(precision, shift, noise)


def draw_dense(
    sums: Sums, z: Tensor, alpha: Tensor, prior: Natural, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Draws all rows of a small table together, from one system.

    Args:
        sums: The sums over the examples of each row of the design.
        z: Tensor `(keys, rows)`, the design.
        alpha: Float, the precision of the errors.
        prior: The prior of the rows.
        noise: Standard normal noise of the shape of the table.

    Returns:
        The drawn table, and its conditional mean.
    """
    size, width = noise.shape
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
    squares: Tensor, products: Tensor, alpha: Tensor, prior: Natural, noise: Tensor
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
    size, width = noise.shape
    unit = ops.reshape(ops.eye(size), (size, 1, size, 1))
    blocks = unit * ops.reshape(prior.precision, (1, width, 1, width))
    precision = alpha * squares + ops.reshape(blocks, (size * width, -1))
    shift = alpha * products + ops.tile(prior.shift, size)
    drawn, mean = _draw(precision, shift, ops.reshape(noise, (-1,)))
    return ops.reshape(drawn, (size, width)), ops.reshape(mean, (size, width))


def _draw(precision: Tensor, shift: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a draw from N(precision^-1 shift, precision^-1), and the mean."""
    root = ops.cholesky(precision)
    half = ops.solve_triangular(root, ops.expand_dims(shift, -1), lower=True)
    both = ops.concatenate([half, half + ops.expand_dims(noise, -1)], axis=-1)
    solved = ops.solve_triangular(ops.swapaxes(root, -1, -2), both, lower=False)
    return solved[..., 1], solved[..., 0]


def sums_of_columns(sums: Sums, z: Products, columns: int) -> Sums:
    """Returns the sums over the examples of each column of a one-hot design."""
    width = sums.products.shape[1]
    squares = z.back_squared(ops.reshape(sums.squares, (-1, width * width)), columns)
    return Sums(
        ops.reshape(squares, (-1, width, width)), z.back(sums.products, columns)
    )


def draw_by_gradients(
    start: Tensor,
    sums: Sums | Terms,
    z: Products | ProductsWithoutOwn,
    alpha: Tensor,
    prior: Natural,
    noise: Tensor,
) -> tuple[Tensor, Tensor]:
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

    Returns:
        The drawn table, and the number of steps.

    References:
        Papandreou, G. and Yuille, A. (2010). Gaussian Sampling by Local Perturbations.
        NIPS, section 2.
    """
    products, columns = sums.products, start.shape[0]
    keys = products.shape[0]
    shift = z.back(alpha * products + ops.sqrt(alpha) * sums.noise, columns)
    shift = shift + prior.shift + ops.matmul(noise, ops.transpose(prior.root))

    def times(x: Tensor) -> Tensor:
        y = z.back(alpha * sums.times(z.forth(x, keys)), columns)
        return y + ops.matmul(x, prior.precision)

    # The preconditioner of row j is (Lambda + c_j M)^-1, in the basis R in which Lambda
    # and the mean M of the squares are both diagonal.
    mean = sums.total / ops.sum(sums.counts)
    half = ops.solve_triangular(prior.root, mean, lower=True)
    whole = ops.solve_triangular(prior.root, ops.transpose(half), lower=True)
    sizes, basis = ops.linalg.eigh(0.5 * (whole + ops.transpose(whole)))
    basis = ops.solve_triangular(ops.transpose(prior.root), basis, lower=False)
    shares = z.back_squared(alpha * sums.counts, columns)
    scale = 1.0 / (1.0 + shares * ops.maximum(sizes, 0.0))

    def preconditioned(x: Tensor) -> Tensor:
        return ops.matmul(ops.matmul(x, basis) * scale, ops.transpose(basis))

    # A draw differs from the mean by an error of the size of the table, on average.
    enough = TOLERANCE**2 * noise.shape[0] * noise.shape[1]

    def continues(step: Tensor, error: Tensor, *_: Tensor) -> Tensor:
        return ops.logical_and(error > enough, step < MAX_STEPS)

    def step_of(
        step: Tensor, error: Tensor, x: Tensor, residual: Tensor, direction: Tensor
    ) -> tuple[Tensor, ...]:
        image = times(direction)
        length = error / ops.sum(direction * image)
        x, residual = x + length * direction, residual - length * image
        solved = preconditioned(residual)
        last, error = error, ops.sum(residual * solved)
        return step + 1, error, x, residual, solved + error / last * direction

    residual = shift - times(start)
    solved = preconditioned(residual)
    step, error = ops.zeros((), "int32"), ops.sum(residual * solved)
    state = step, error, start, residual, solved
    steps, _, x, *_ = ops.while_loop(continues, step_of, state)
    return x, steps
