"""The posterior mean of the scores, which is a factorization machine, too.

The mean over S samples of their scores has the mean of their biases and first-order
weights. Its vectors are those of all samples, concatenated and divided by sqrt(S):

    sum_{f<g} <V_f, V_g> = 1/S sum_s sum_{f<g} <v_f^s, v_g^s>

Their dimension grows with the samples. It is reduced by a rotation of the dimensions,
which changes no product, and by dropping those that contribute least to the products
over the examples. In a block of several fields, such as those of a user, the sum p of
the vectors of a key is all that the other blocks read, and the products of its fields
with each other,

    1/2 (|p|^2 - sum_f |v_f|^2),

are a constant of the key. So the dimensions are chosen by p alone, in which vectors
that cancel each other have no effect. The constants of the dropped dimensions are added
to the first-order weights of the keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers.bayes.blocks import Block
from fmlayers.bayes.chain import Sample
from fmlayers.bayes.designs import Design, Floats
from fmlayers.bayes.draws import part_of
from fmlayers.bayes.priors import Matrix
from fmlayers.bayes.products import Products

Tables = dict[str, Floats]
SLICE = 32  # dimensions, of which the products are computed at once


@dataclass(frozen=True, eq=False)
class MeanScore:
    """A factorization machine.

    Attributes:
        bias: Float.
        linear: Dict from the name of a field to its first-order weights `(rows,)`.
        vectors: Dict from the name of a field to its vectors `(rows, dim)`.
    """

    bias: float
    linear: Tables
    vectors: Tables

    @property
    def dim(self) -> int:
        return int(next(iter(self.vectors.values())).shape[1])

    @property
    def tables(self) -> Tables:
        """The first-order weights and the vectors of each field, `(rows, dim + 1)`."""
        return {
            name: np.concatenate([self.linear[name][:, np.newaxis], vectors], axis=1)
            for name, vectors in self.vectors.items()
        }


@dataclass(eq=False)
class KeySums:
    """The sums over the samples of the contributions of the keys of a block.

    Attributes:
        names: List of the names of the fields of the block.
        roots: Floats `(keys,)`, the roots of the numbers of examples.
        constants: Floats `(keys,)`: the first-order weights, and the products of the
            fields with each other.
        vectors: Floats `(keys, dim)`, the sums over the fields of their vectors.
    """

    names: list[str]
    roots: Floats
    constants: Matrix
    vectors: Floats

    def extend(self, constants: npt.NDArray[Any], vectors: Floats) -> None:
        self.constants = self.constants + constants.astype(np.float64)
        self.vectors = np.concatenate([self.vectors, vectors], axis=1)


class PosteriorMean:
    """Accumulates samples in the factorization machine of their mean score.

    Args:
        blocks: The blocks.
        max_dim: Integer. A larger dimension is reduced to half of it.
    """

    def __init__(self, blocks: Sequence[Block], max_dim: int) -> None:
        self._roots = {
            name: _roots(block, design)
            for block in blocks
            for name, design in block.designs.items()
        }
        self._keys = {
            block.root: KeySums(
                list(block.designs),
                np.sqrt(block.counts, dtype=np.float32),
                np.zeros(block.num_keys),
                np.zeros((block.num_keys, 0), np.float32),
            )
            for block in blocks
            if len(block.designs) > 1
        }
        self._max_dim = max_dim
        self.samples = 0
        self._bias = 0.0
        self._linear: dict[str, Matrix] = {}
        self._vectors: Tables = {}

    def add(self, sample: Sample, parts: Mapping[str, tuple[Floats, Floats]]) -> None:
        """Adds a sample.

        Args:
            sample: The `Sample`.
            parts: Dict from the root of each block of several fields to the constants
                `(keys, 1)` and the vectors `(keys, dim)` of its keys.
        """
        self._extend(
            1,
            sample.bias,
            {name: table[:, 0] for name, table in sample.tables.items()},
            {name: table[:, 1:] for name, table in sample.tables.items()},
        )
        for root, keys in self._keys.items():
            constants, vectors = parts[root]
            keys.extend(constants[:, 0], vectors)
        if self._dim > self._max_dim:
            self._reduce(max(self._max_dim // 2, 1))

    def merge(self, other: "PosteriorMean") -> None:
        """Adds the samples of another posterior mean of the same fields."""
        self._extend(other.samples, other._bias, other._linear, other._vectors)
        for root, keys in self._keys.items():
            keys.extend(other._keys[root].constants, other._keys[root].vectors)
        if self._dim > self._max_dim:
            self._reduce(self._max_dim)

    def state(self) -> dict[str, Any]:
        """Returns everything that is needed to compute the mean or add samples."""
        return {
            "samples": self.samples,
            "max_dim": self._max_dim,
            "bias": self._bias,
            "linear": self._linear,
            "vectors": self._vectors,
            "roots": self._roots,
            "keys": {root: dict(vars(keys)) for root, keys in self._keys.items()},
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Self:
        """Returns the posterior mean of a state."""
        mean = cls([], state["max_dim"])
        mean.samples, mean._bias = state["samples"], state["bias"]
        mean._linear, mean._vectors = dict(state["linear"]), dict(state["vectors"])
        mean._roots = dict(state["roots"])
        keys = state.get("keys", {})  # missing in the first files
        mean._keys = {root: KeySums(**each) for root, each in keys.items()}
        return mean

    def mean(self, blocks: Sequence[Block], dim: int | None = None) -> MeanScore:
        """Returns the mean score, with vectors of at most `dim`.

        Args:
            blocks: The blocks.
            dim: Optional integer.
        """
        vectors = self._vectors
        if dim is not None and dim < self._dim:
            vectors, _ = self._rotated(dim)
        divisor = np.float32(np.sqrt(self.samples))
        vectors = {name: x / divisor for name, x in vectors.items()}
        linear = {name: x / self.samples for name, x in self._linear.items()}
        for block in blocks:
            if block.root in self._keys:
                keys, first = self._keys[block.root], linear[block.root]
                left = keys.constants / self.samples
                left -= _constants(block, linear, vectors)
                row = first + np.average(left, weights=keys.roots**2)
                row[block.ids_of_keys] = first[block.ids_of_keys] + left
                linear[block.root] = row
        return MeanScore(
            self._bias / self.samples,
            {name: x.astype(np.float32) for name, x in linear.items()},
            vectors,
        )

    def reduced(self, score: MeanScore, dim: int) -> MeanScore:
        """Returns a score with one field per block, with vectors of at most `dim`."""
        if score.dim <= dim:
            return score
        return replace(score, vectors=self._reduced(score.vectors, dim))

    @property
    def _dim(self) -> int:
        return int(next(iter(self._vectors.values())).shape[1])

    def _extend(
        self,
        samples: int,
        bias: float,
        linear: Mapping[str, npt.NDArray[Any]],
        vectors: Tables,
    ) -> None:
        self.samples += samples
        self._bias += bias
        for name, x in vectors.items():
            weights = linear[name].astype(np.float64)
            self._linear[name] = self._linear.get(name, 0.0) + weights
            former = [self._vectors[name]] if name in self._vectors else []
            self._vectors[name] = np.concatenate([*former, x], axis=1)

    def _reduce(self, dim: int) -> None:
        self._vectors, vectors = self._rotated(dim)
        for root, keys in self._keys.items():
            keys.vectors = vectors[root]

    def _rotated(self, dim: int) -> tuple[Tables, Tables]:
        """Returns the vectors of the fields and of the keys with dimension `dim`."""
        if not self._keys:
            return self._reduced(self._vectors, dim), {}
        names = {name for keys in self._keys.values() for name in keys.names}
        alone = {n: x for n, x in self._vectors.items() if n not in names}
        weighted = list(self._weighted(alone).values())
        weighted += [
            keys.roots[:, np.newaxis] * keys.vectors for keys in self._keys.values()
        ]
        basis = _basis(weighted, dim)
        return (
            {name: x @ basis for name, x in self._vectors.items()},
            {root: keys.vectors @ basis for root, keys in self._keys.items()},
        )

    def _weighted(self, vectors: Tables) -> Tables:
        return {n: self._roots[n][:, np.newaxis] * x for n, x in vectors.items()}

    def _reduced(self, vectors: Tables, dim: int) -> Tables:
        weighted = self._weighted(vectors)
        if len(weighted) != 2:
            basis = _basis(list(weighted.values()), dim)
            return {name: x @ basis for name, x in vectors.items()}
        one, other = weighted.values()
        both = _best_of_two(one, other, dim)
        return {
            name: x / self._roots[name][:, np.newaxis]
            for name, x in zip(weighted, both, strict=True)
        }


def _roots(block: Block, design: Design) -> Floats:
    """Returns the roots of the weights of the columns of a design.

    The weight of a column is the sum of its squared entries over the examples, or the
    smallest one for a column without entries.
    """
    squares = block.counts[design.owners] * design.values.astype(np.float64) ** 2
    weights = np.bincount(design.columns, squares, design.num_columns)
    least = weights[weights > 0].min(initial=1.0)
    roots: Floats = np.sqrt(np.maximum(weights, least), dtype=np.float32)
    return roots


def _constants(
    block: Block, linear: Mapping[str, Matrix], vectors: Tables
) -> npt.NDArray[np.float64]:
    """Returns the first-order weights and the products of the fields of each key."""
    products = {name: Products.of(design) for name, design in block.designs.items()}
    dim = next(iter(vectors.values())).shape[1]
    total = np.zeros(block.num_keys)
    for start in range(0, dim, SLICE):
        fields = []
        for name, product in products.items():
            first = linear[name] if start == 0 else np.zeros(len(linear[name]))
            x = vectors[name][:, start : start + SLICE]
            table = np.concatenate([first[:, np.newaxis], x], axis=1, dtype=np.float32)
            fields.append(product.forth(ops.convert_to_tensor(table), block.num_keys))
        total += ops.convert_to_numpy(part_of(fields)[0])[:, 0]
    return total


def _basis(weighted: Sequence[Floats], dim: int) -> Floats:
    """Returns the `dim` dimensions with the largest sum of squares, `(all, dim)`."""
    gram = np.sum([x.T @ x for x in weighted], axis=0)
    basis: Floats = np.linalg.eigh(gram)[1][:, ::-1][:, :dim]
    return basis


def _best_of_two(one: Floats, other: Floats, dim: int) -> list[Floats]:
    """Returns the factors of the best approximation of one @ other.T of a rank.

    References:
        Eckart, C. and Young, G. (1936). The Approximation of One Matrix by Another of
        Lower Rank. Psychometrika 1(3).
    """
    (q, r), (p, t) = np.linalg.qr(one), np.linalg.qr(other)
    left, sizes, right = np.linalg.svd(r @ t.T, full_matrices=False)
    roots = np.sqrt(sizes[:dim])
    return [q @ left[:, :dim] * roots, p @ right[:dim].T * roots]
