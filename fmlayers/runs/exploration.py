"""Recommendations that also explore items whose ratings are uncertain."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._checks import choice, integer
from fmlayers.retrieval.item_search import ItemSearch, TopItems
from fmlayers.retrieval.top_n import TopN
from fmlayers.runs.posterior_samples import PosteriorSamples

Exploration = Literal["ucb", "thompson"]
Scores = npt.NDArray[np.float64]
WIDTH = 1.0  # standard deviations above the mean
MAX_SCORES = 4_000_000  # at a time, 32 MB


class ExploringSearch(ItemSearch):
    """Searches a catalog with the samples of a run.

    Args:
        samples: The samples.
        catalog: See `ItemSearch`.
        explore: `"ucb"`: the score is an upper bound, the mean of the samples plus
            their standard deviation. `"thompson"`: the scores of each query are those
            of a sample that is drawn for it.
        seed: Nonnegative integer, the seed of the draws. Defaults to 0.

    Raises:
        ValueError: If an argument is invalid.

    References:
        - Thompson, W. (1933). On the Likelihood that One Unknown Probability Exceeds
          Another in View of the Evidence of Two Samples. Biometrika 25.
        - Auer, P. (2002). Using Confidence Bounds for Exploitation-Exploration
          Trade-offs. JMLR 3.
    """

    def __init__(
        self,
        samples: PosteriorSamples,
        catalog: Mapping[str, Any],
        explore: str,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(samples.run.model, catalog)
        self.samples = samples
        self.explore = choice("explore", explore, get_args(Exploration))
        seed = integer("seed", seed, "a nonnegative integer", least=0)
        self._rng = np.random.default_rng(seed)
        self._size = len(next(iter(catalog.values())))
        names = samples.model.features_within(catalog)
        self._view = TopN(samples.model, names, self._size)
        self._items = [self._decomposed(catalog, names) for _ in samples.models()]

    def skip(self, queries: int) -> None:
        self._draw(queries)

    def best(
        self,
        queries: Mapping[str, Any],
        k: int = 10,
        *,
        exclude: npt.ArrayLike | None = None,
        allowed: npt.ArrayLike | None = None,
        batch_size: int = 256,
    ) -> TopItems:
        k = integer("k", k)
        count = len(next(iter(queries.values())))
        chosen = self._draw(count)
        size = max(1, min(batch_size, MAX_SCORES // self._size))
        parts = []
        for start in range(0, count, size):
            rows = slice(start, start + size)
            part = {name: x[rows] for name, x in queries.items()}
            scores = self._scores(part, chosen[rows])
            if allowed is not None:
                scores[:, ~np.asarray(allowed)] = -np.inf
            if exclude is not None:
                at, column = np.nonzero(np.asarray(exclude)[rows] >= 0)
                scores[at, np.asarray(exclude)[rows][at, column]] = -np.inf
            parts.append(_top(scores, k))
        return (
            np.concatenate([scores for scores, _ in parts]),
            np.concatenate([positions for _, positions in parts]),
        )

    def _draw(self, queries: int) -> npt.NDArray[np.int64]:
        return self._rng.integers(len(self.samples), size=queries)

    def _scores(
        self, queries: Mapping[str, Any], chosen: npt.NDArray[np.int64]
    ) -> Scores:
        """Returns the scores of all items, `(queries, items)`."""
        names = self._view.query_features
        first = np.zeros((len(chosen), self._size))
        total, squares = first.copy(), first.copy()
        drawn = np.empty((len(chosen), self._size))
        for i, model in enumerate(self.samples.models()):
            constants, vectors = self._decomposed(queries, names)
            item_constants, item_vectors = self._items[i]
            bias = float(ops.convert_to_numpy(model.bias)[0])
            scores = bias + constants + item_constants.T + vectors @ item_vectors.T
            drawn[chosen == i] = scores[chosen == i]
            if i == 0:
                first = scores  # squares of differences stay accurate
            total += scores - first
            squares += (scores - first) ** 2
        if self.explore == "thompson":
            return drawn
        mean = total / len(self.samples)
        variance = np.maximum(squares / len(self.samples) - mean**2, 0.0)
        bounds: Scores = first + mean + WIDTH * np.sqrt(variance)
        return bounds

    def _decomposed(self, inputs: Mapping[str, Any], names: Any) -> tuple[Scores, Any]:
        constants, vectors = self._view.decompose(inputs, names)
        return (
            ops.convert_to_numpy(constants).astype(np.float64),
            ops.convert_to_numpy(vectors).astype(np.float64),
        )


def _top(scores: Scores, k: int) -> TopItems:
    """Returns the k highest scores of each row, as `TopN` does."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, axis=1)
    missing = k - order.shape[1]
    order = np.where(np.isneginf(best), -1, order)
    return (
        np.pad(best, ((0, 0), (0, missing)), constant_values=-np.inf).astype("float32"),
        np.pad(order, ((0, 0), (0, missing)), constant_values=-1).astype("int32"),
    )
