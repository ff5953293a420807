"""One Markov chain over the weights of a factorization machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from keras import ops

from fmlayers._types import Tensor
from fmlayers.bayes.blocks import Block
from fmlayers.bayes.conditionals import (
    MAX_DENSE,
    Sums,
    draw_by_gradients,
    draw_dense,
    draw_rows,
    draw_system,
    sums_of_columns,
)
from fmlayers.bayes.designs import Design, Floats
from fmlayers.bayes.examples import Examples, Part
from fmlayers.bayes.priors import (
    Gaussian,
    Hyperprior,
    Matrix,
    draw_alpha,
    draw_bias,
    draw_normal_wishart,
)
from fmlayers.bayes.products import Products

INITIAL_STDDEV = 0.1
TOLERANCE = 0.3  # of the conjugate gradients; 0.1 takes twice the steps
REFRESH = 50  # sweeps after which the residuals are computed anew


@dataclass(frozen=True, eq=False)
class Sample:
    """A draw of all weights.

    Attributes:
        bias: Float.
        alpha: Float, the precision of the errors.
        tables: Dict from the name of a field to an array `(rows, dim + 1)`: the
            first-order weights and the vectors. Rows that no example reads are the
            mean of the prior.
    """

    bias: float
    alpha: float
    tables: Mapping[str, Floats]


class Chain:
    """Draws all weights in turn, each from its distribution given all others.

    Args:
        blocks: The blocks.
        targets: Floats `(examples,)`.
        weights: Floats `(examples,)`, the weights of the examples.
        dim: Integer, the embedding dimension.
        prior: The `Hyperprior`.
        warm_up: Number of first sweeps in which its scale is at least 1.
        rng: The generator.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        targets: Matrix,
        weights: Matrix,
        dim: int,
        *,
        prior: Hyperprior,
        warm_up: int,
        rng: np.random.Generator,
    ) -> None:
        self.blocks = blocks
        self.dim = dim
        self.prior, self.warm_up = prior, warm_up
        self.rng = rng
        self.sweeps = 0
        self.steps: dict[str, int] = {}  # of the conjugate gradients
        self._weights = np.append(weights, 0.0)
        self.count = len(weights)
        self._total = float(weights.sum())
        self.examples = Examples(blocks, weights)
        self._products = {
            name: Products(design)
            for block in blocks
            for name, design in block.designs.items()
        }
        self.bias = float(np.average(targets, weights=weights))
        self.alpha = 1.0
        self.tables: dict[str, Tensor] = {}
        self.priors: dict[str, Gaussian] = {}
        for block in blocks:
            for name, design in block.designs.items():
                table = np.zeros((design.num_columns, dim + 1), np.float32)
                shape = (design.num_columns, dim)
                table[:, 1:] = rng.normal(0.0, INITIAL_STDDEV, shape)
                self.tables[name] = ops.convert_to_tensor(table)
        self.set_targets(targets)

    def set_targets(self, targets: Matrix) -> None:
        """Replaces the targets `(examples,)`, and computes the residuals."""
        self._targets = ops.convert_to_tensor(np.append(targets, 0.0), "float32")
        self.refresh()

    def refresh(self) -> None:
        """Computes the residuals from the tables, without the errors of rounding."""
        self.parts = [self._part_of(block) for block in self.blocks]
        scores = self.examples.scores(self.parts) + self.bias
        self.residuals = self._targets - scores

    def sweep(self) -> None:
        """Draws the precision, the bias and all tables once."""
        if self.sweeps and self.sweeps % REFRESH == 0:
            self.refresh()
        self.sweeps += 1
        residuals = ops.convert_to_numpy(self.residuals).astype(np.float64)
        squares = float(self._weights @ residuals**2)
        self.alpha = draw_alpha(self.count, squares, self.prior, self.rng)
        without = float(self._weights @ residuals) + self._total * self.bias
        old, self.bias = (
            self.bias,
            draw_bias(self._total, without, self.alpha, self.prior, self.rng),
        )
        self.residuals = self.residuals - np.float32(self.bias - old)
        for i in range(len(self.blocks)):
            self._draw_block(i)

    def rmse(self) -> float:
        """Returns the RMSE of the current weights on the examples."""
        residuals = ops.convert_to_numpy(self.residuals)
        return float(np.sqrt(self._weights @ residuals**2 / self._total))

    def sample(self) -> Sample:
        tables = {}
        for block in self.blocks:
            for name, design in block.designs.items():
                table = np.array(ops.convert_to_numpy(self.tables[name]))
                unread = np.bincount(design.columns, minlength=len(table)) == 0
                table[unread] = self.priors[name].mean
                tables[name] = table
        return Sample(self.bias, self.alpha, tables)

    def _draw_block(self, i: int) -> None:
        block = self.blocks[i]
        if block.keys is None:
            self._draw_rows_of(i)
        else:
            self._draw_fields(i)
        new = self._part_of(block)
        self.residuals = self.examples.changed_residuals(
            i, self.parts, new, self.residuals
        )
        self.parts[i] = new

    def _draw_fields(self, i: int) -> None:
        designs = self.blocks[i].designs
        large = [name for name in designs if self._needs_gradients(designs[name])]
        shape = (len(large), len(self._weights) - 1)
        noise = list(self.rng.standard_normal(shape, np.float32))
        squares, products, noises = self.examples.key_sums(
            i, self.parts, self.residuals, noise
        )
        for name, design in designs.items():
            noise_of_field = noises[large.index(name)] if name in large else None
            sums = self.sums_given(
                self.blocks[i], name, Sums(squares, products, noise_of_field)
            )
            prior = self._draw_prior(name)
            drawn = self.rng.standard_normal(self.tables[name].shape, np.float32)
            z = self._products[name]
            if name in large:
                table, self.steps[name] = draw_by_gradients(
                    self.tables[name], sums, z, self.alpha, prior, drawn, TOLERANCE
                )
            elif design.is_one_hot:
                columns = sums_of_columns(sums, z)
                table, _ = draw_rows(columns, self.alpha, prior, drawn)
            else:
                table, _ = draw_dense(sums, design, self.alpha, prior, drawn)
            self.tables[name] = table

    def sums_given(self, block: Block, name: str, sums: Sums) -> Sums:
        """Returns the sums for a field, given the block's other fields."""
        rest = [self._field(other) for other in block.designs if other != name]
        return sums.given(*_combined(rest)) if rest else sums

    def _draw_rows_of(self, i: int) -> None:
        (name,) = self.blocks[i].designs
        squares, products = self.examples.row_sums(i, self.parts, self.residuals)
        prior = self._draw_prior(name)
        drawn = self.rng.standard_normal(self.tables[name].shape, np.float32)
        self.tables[name], _ = draw_system(squares, products, self.alpha, prior, drawn)

    def _draw_prior(self, name: str) -> Gaussian:
        prior = self.prior
        if self.sweeps <= self.warm_up:
            prior = replace(prior, scale=max(prior.scale, 1.0))
        table = ops.convert_to_numpy(self.tables[name])
        self.priors[name] = draw_normal_wishart(table, prior, self.rng)
        return self.priors[name]

    def _needs_gradients(self, design: Design) -> bool:
        size = design.num_columns * (self.dim + 1)
        return not design.is_one_hot and size > MAX_DENSE

    def _field(self, name: str) -> Tensor:
        """Returns the first-order weights and vectors of a field, `(keys, dim + 1)`."""
        return self._products[name].forth(self.tables[name])

    def _part_of(self, block: Block) -> Part:
        if block.keys is None:
            (name,) = block.designs
            table = self.tables[name]
            return table[:, :1], table[:, 1:]
        return _combined([self._field(name) for name in block.designs])


def _combined(fields: Sequence[Tensor]) -> Part:
    """Returns the part of some fields of a block together."""
    total = fields[0]
    for field in fields[1:]:
        total = total + field
    constants, vectors = total[:, :1], total[:, 1:]
    if len(fields) > 1:
        squares = sum(ops.sum(x[:, 1:] ** 2, axis=1, keepdims=True) for x in fields)
        pairs = ops.sum(vectors**2, axis=1, keepdims=True) - squares
        constants = constants + 0.5 * pairs
    return constants, vectors
