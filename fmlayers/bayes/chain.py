"""One Markov chain over the weights of a factorization machine."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from keras import ops

from fmlayers._types import Tensor
from fmlayers.bayes.blocks import Block
from fmlayers.bayes.conditionals import Sums
from fmlayers.bayes.designs import Floats
from fmlayers.bayes.draws import Draws
from fmlayers.bayes.examples import Examples, Part
from fmlayers.bayes.likelihoods import LIKELIHOODS, LikelihoodName
from fmlayers.bayes.priors import (
    Gaussian,
    Hyperprior,
    Matrix,
    draw_alpha,
    draw_bias,
    draw_normal_wishart,
)

INITIAL_STDDEV = 0.1
REFRESH = 50  # sweeps after which the residuals are recomputed


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
        examples: The `Examples`, shared by all chains.
        draws: The `Draws`, shared by all chains.
        targets: Floats `(examples,)`.
        prior: The `Hyperprior`.
        warm_up: Number of first sweeps in which the prior scale is at least 1.
        rng: The generator.
        likelihood: The distribution of the targets. For `"probit"`, they are labels.
    """

    def __init__(
        self,
        examples: Examples,
        draws: Draws,
        targets: Matrix,
        *,
        prior: Hyperprior,
        warm_up: int,
        rng: np.random.Generator,
        likelihood: LikelihoodName = "normal",
    ) -> None:
        self.likelihood = LIKELIHOODS[likelihood]
        self.examples, self.draws = examples, draws
        self.blocks = examples.blocks
        self.prior, self.warm_up = prior, warm_up
        self.rng = rng
        self.sweeps = 0
        weights = examples.weights
        self._weights = np.append(weights, 0.0)
        self._total = float(weights.sum())
        self.bias = float(np.average(targets, weights=weights))
        if self.likelihood.draw_latents is not None:
            self.bias = NormalDist().inv_cdf(self.bias)
        self.alpha = 1.0
        self.tables: dict[str, Tensor] = {}
        self.priors: dict[str, Gaussian] = {}
        for name, design in draws.designs.items():
            table = np.zeros((design.num_columns, draws.dim + 1), np.float32)
            shape = (design.num_columns, draws.dim)
            table[:, 1:] = rng.normal(0.0, INITIAL_STDDEV, shape)
            self.tables[name] = ops.convert_to_tensor(table)
        self.set_targets(targets)

    def set_targets(self, targets: Matrix) -> None:
        """Replaces the targets `(examples,)`, and computes the residuals."""
        self._data = np.asarray(targets, np.float64)
        self._targets = _padded(targets)
        self.refresh()

    def refresh(self) -> None:
        """Recomputes the residuals, without accumulated rounding errors."""
        self._fields = self.draws.fields(self.tables)
        self.parts = [self._part_of(block) for block in self.blocks]
        scores = self.examples.scores(self.parts) + self.bias
        self.residuals = self._targets - scores

    def sweep(self) -> None:
        """Draws the precision or the latent targets, the bias and all tables once."""
        if self.sweeps and self.sweeps % REFRESH == 0:
            self.refresh()
        self.sweeps += 1
        if self.likelihood.draw_latents is None:
            squares = float(self._weights @ self._residuals() ** 2)
            self.alpha = draw_alpha(self.examples.count, squares, self.prior, self.rng)
        else:
            scores = self.scores().astype(np.float64)
            latents = self.likelihood.draw_latents(self._data, scores, self.rng)
            self._targets = _padded(latents)
            self.residuals = _padded(latents - scores)
        sum_of_residuals = float(self._weights @ self._residuals())
        without = sum_of_residuals + self._total * self.bias
        old, self.bias = (
            self.bias,
            draw_bias(self._total, without, self.alpha, self.prior, self.rng),
        )
        self.residuals = self.residuals - np.float32(self.bias - old)
        for i in range(len(self.blocks)):
            self._draw_block(i)

    def scores(self) -> Floats:
        """Returns the current scores of the examples."""
        scores = ops.convert_to_numpy(self._targets - self.residuals)[:-1]
        return np.asarray(scores, np.float32)

    def sample(self) -> Sample:
        """Returns the current weights."""
        tables = {}
        for name, design in self.draws.designs.items():
            table = np.array(ops.convert_to_numpy(self.tables[name]))
            table[design.unread] = self.priors[name].mean
            tables[name] = table
        return Sample(self.bias, self.alpha, tables)

    def state(self) -> dict[str, Any]:
        """Returns everything that further sweeps depend on."""
        names = [n for b in self.blocks if b.keys is not None for n in b.designs]
        return {
            "sweeps": self.sweeps,
            "rng": self.rng.bit_generator.state,
            "bias": self.bias,
            "alpha": self.alpha,
            "tables": {n: ops.convert_to_numpy(x) for n, x in self.tables.items()},
            "fields": {n: ops.convert_to_numpy(self._fields[n]) for n in names},
            "targets": ops.convert_to_numpy(self._targets),
            "residuals": ops.convert_to_numpy(self.residuals),
            "priors": {
                n: {"mean": prior.mean, "precision": prior.precision}
                for n, prior in self.priors.items()
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Resumes from a state, with the same draws as without an interruption."""
        self.sweeps = state["sweeps"]
        self.bias, self.alpha = state["bias"], state["alpha"]
        kind = getattr(np.random, state["rng"]["bit_generator"])
        self.rng = np.random.Generator(kind())
        self.rng.bit_generator.state = state["rng"]
        self.tables = _tensors(state["tables"])
        self._fields = _tensors(state["fields"])
        self._targets = ops.convert_to_tensor(state["targets"])
        self.residuals = ops.convert_to_tensor(state["residuals"])
        self.priors = {n: Gaussian(**prior) for n, prior in state["priors"].items()}
        self.parts = [self._part_of(block) for block in self.blocks]

    def _residuals(self) -> Matrix:
        return np.asarray(ops.convert_to_numpy(self.residuals), np.float64)

    def _draw_block(self, i: int) -> None:
        block = self.blocks[i]
        if block.keys is None:
            self._draw_table(i)
        elif block.by_example:
            self._draw_by_example(i)
        else:
            self._draw_fields(i)
        new = self._part_of(block)
        self.residuals = self.examples.changed_residuals(
            i, self.parts, new, self.residuals
        )
        self.parts[i] = new

    def _draw_fields(self, i: int) -> None:
        names = list(self.blocks[i].designs)
        large = [name for name in names if name in self.draws.by_gradients]
        shape = (len(large), self.examples.count)
        noise = list(self.rng.standard_normal(shape, np.float32))
        squares, products, noises = self.examples.key_sums(
            i, self.parts, self.residuals, noise
        )
        for name in names:
            noise_of_field = noises[large.index(name)] if name in large else None
            self.tables[name], self._fields[name] = self.draws.draw(
                name,
                self.tables[name],
                Sums(squares, products, noise_of_field),
                [self._fields[other] for other in names if other != name],
                self.alpha,
                self._draw_prior(name),
                self._noise(name),
            )

    def _draw_by_example(self, i: int) -> None:
        (name,) = self.blocks[i].designs
        noise = self.rng.standard_normal(self.examples.count, np.float32)
        self.tables[name], self._fields[name] = self.draws.draw(
            name,
            self.tables[name],
            self.examples.terms(i, self.parts, self.residuals, noise),
            [],
            self.alpha,
            self._draw_prior(name),
            self._noise(name),
        )

    def _draw_table(self, i: int) -> None:
        (name,) = self.blocks[i].designs
        squares, products = self.examples.row_sums(i, self.parts, self.residuals)
        prior = self._draw_prior(name)
        self.tables[name] = self.draws.draw_system(
            name, squares, products, self.alpha, prior, self._noise(name)
        )

    def _noise(self, name: str) -> Floats:
        shape = tuple(self.tables[name].shape)
        return self.rng.standard_normal(shape, np.float32)

    def _draw_prior(self, name: str) -> Gaussian:
        prior = self.prior
        if self.sweeps <= self.warm_up:
            prior = replace(prior, scale=max(prior.scale, 1.0))
        table = ops.convert_to_numpy(self.tables[name])
        self.priors[name] = draw_normal_wishart(table, prior, self.rng)
        return self.priors[name]

    def _part_of(self, block: Block) -> Part:
        if block.keys is None:
            (name,) = block.designs
            table = self.tables[name]
            return table[:, :1], table[:, 1:]
        return self.draws.part_of({name: self._fields[name] for name in block.designs})


def _padded(x: Matrix) -> Tensor:
    return ops.convert_to_tensor(np.append(x, 0.0), "float32")


def _tensors(arrays: Mapping[str, Floats]) -> dict[str, Tensor]:
    return {name: ops.convert_to_tensor(x) for name, x in arrays.items()}
