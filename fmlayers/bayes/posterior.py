"""The posterior mean of the scores, which is a factorization machine, too.

The mean over S samples of their scores has the mean of their biases and first-order
weights. Its vectors are those of all samples, concatenated and divided by sqrt(S):

    sum_{f<g} <V_f, V_g> = 1/S sum_s sum_{f<g} <v_f^s, v_g^s>

Their dimension grows with the samples. It is reduced by a rotation of the dimensions,
which changes no product, and by dropping those that contribute least to the products
over the examples.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fmlayers.bayes.chain import Sample
from fmlayers.bayes.designs import Floats

Tables = dict[str, Floats]


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


class PosteriorMean:
    """Accumulates samples in the factorization machine of their mean score.

    Args:
        counts: Dict from the name of a field to floats `(rows,)`: the sum of the
            squared entries of each column of its design over the examples.
        max_dim: Integer. A larger dimension is reduced to half of it.
    """

    def __init__(
        self, counts: Mapping[str, npt.NDArray[np.float64]], max_dim: int
    ) -> None:
        self._roots = {
            name: np.sqrt(np.maximum(each, each[each > 0].min(initial=1.0)), dtype="f4")
            for name, each in counts.items()
        }
        self._max_dim = max_dim
        self.samples = 0
        self._bias = 0.0
        self._linear: dict[str, npt.NDArray[np.float64]] = {}
        self._vectors: Tables = {}

    def add(self, sample: Sample) -> None:
        self.samples += 1
        self._bias += sample.bias
        for name, table in sample.tables.items():
            vectors = table[:, 1:]
            if name in self._vectors:
                vectors = np.concatenate([self._vectors[name], vectors], axis=1)
            self._vectors[name] = vectors
            linear = table[:, 0].astype(np.float64)
            self._linear[name] = self._linear.get(name, 0.0) + linear
        if next(iter(self._vectors.values())).shape[1] > self._max_dim:
            self._vectors = self._reduced(self._vectors, max(self._max_dim // 2, 1))

    def merge(self, other: "PosteriorMean") -> None:
        """Adds the samples of another posterior mean of the same fields."""
        self.samples += other.samples
        self._bias += other._bias
        for name, vectors in other._vectors.items():
            self._linear[name] = self._linear[name] + other._linear[name]
            both = [self._vectors[name], vectors]
            self._vectors[name] = np.concatenate(both, axis=1)
        if next(iter(self._vectors.values())).shape[1] > self._max_dim:
            self._vectors = self._reduced(self._vectors, self._max_dim)

    def state(self) -> dict[str, Any]:
        """Returns everything that is needed to compute the mean or add samples."""
        return {
            "samples": self.samples,
            "max_dim": self._max_dim,
            "bias": self._bias,
            "linear": self._linear,
            "vectors": self._vectors,
            "roots": self._roots,
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Self:
        """Returns the posterior mean of a state."""
        mean = cls({}, state["max_dim"])
        mean.samples, mean._bias = state["samples"], state["bias"]
        mean._linear, mean._vectors = dict(state["linear"]), dict(state["vectors"])
        mean._roots = dict(state["roots"])
        return mean

    def mean(self) -> MeanScore:
        """Returns the mean score."""
        divisor = np.float32(np.sqrt(self.samples))
        return MeanScore(
            self._bias / self.samples,
            {
                name: (each / self.samples).astype(np.float32)
                for name, each in self._linear.items()
            },
            {name: each / divisor for name, each in self._vectors.items()},
        )

    def reduced(self, score: MeanScore, dim: int) -> MeanScore:
        """Returns a score over some of the fields, with vectors of at most `dim`."""
        if score.dim <= dim:
            return score
        return replace(score, vectors=self._reduced(score.vectors, dim))

    def _reduced(self, vectors: Tables, dim: int) -> Tables:
        weighted = {
            name: self._roots[name][:, np.newaxis] * each
            for name, each in vectors.items()
        }
        if len(weighted) == 2:
            one, other = weighted.values()
            reduced = _best_of_two(one, other, dim)
        else:
            gram = sum(each.T @ each for each in weighted.values())
            basis = np.linalg.eigh(gram)[1][:, ::-1][:, :dim]
            reduced = [each @ basis for each in weighted.values()]
        return {
            name: each / self._roots[name][:, np.newaxis]
            for name, each in zip(weighted, reduced, strict=True)
        }


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
