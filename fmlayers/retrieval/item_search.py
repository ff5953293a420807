"""Search for the items of highest score, by whichever method a model allows."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._checks import integer
from fmlayers.retrieval.blocks import merge, nothing, top_k
from fmlayers.retrieval.top_n import TopN
from fmlayers.scoring_model import ScoringModel

TopItems = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]
Method = Literal["product", "scores", "candidates"]

# Rows that a model scores at a time: 64 MB for 32 fields with vectors of size 8.
MAX_PAIRS = 65_536


def retrieve(
    model: ScoringModel,
    queries: Mapping[str, Any],
    catalog: Mapping[str, Any],
    k: int = 10,
    *,
    exclude: npt.ArrayLike | None = None,
    allowed: npt.ArrayLike | None = None,
    candidates: int | None = None,
    batch_size: int = 256,
) -> TopItems:
    """Returns the k items of highest score for each query.

    The method depends on the `decomposition` of the model:

    - Exact (`FactorizationMachine`, `LibFM`, `MatrixFactorization` and an `Ensemble` of
      them):
      a matrix product of query and item embeddings, see `TopN`. Exact and fast.
    - Any other: the scores of all pairs of queries and items, see `score_all`. Exact
      but slow.
    - Partial (`DeepFM`), with `candidates`: the factorization machine of the model
      retrieves that many candidates per query, which the full model reranks, see
      `rerank`. Approximate: an item that only the rest of the model scores high may be
      missed.

    To make several calls with the same catalog, create an `ItemSearch`, which computes
    the item embeddings once.

    Args:
        model: A `ScoringModel`.
        queries: Dict with the entries of the query features, one row per query.
        catalog: Dict with the entries of the item features, one row per item. Its
            keys determine which features of the model are item features.
        k: Positive integer, the number of items per query. Defaults to 10.
        exclude: Optional integers of shape `(queries, length)`, the positions of items
            to exclude for each query, padded with -1.
        allowed: Optional Booleans of shape `(items,)`, the items that may be returned
            for any query.
        candidates: Optional integer of at least k, the number of candidates to rerank.
            Ignored if the decomposition is exact; a model without a decomposition
            cannot use it.
        batch_size: Positive integer, the number of queries per batch. Defaults to 256.

    Returns:
        A tuple of raw scores and positions in the catalog, both of shape
        `(queries, k)` and sorted by descending score. See `TopN` for ties and for
        queries with fewer than k items.

    Raises:
        ValueError: If an argument violates its constraint.

    Example:

    >>> features = [fmlayers.Categorical("user", 943), fmlayers.Categorical("item", 90)]
    >>> model = fmlayers.models.FactorizationMachine(features, dim=16)
    >>> scores, positions = fmlayers.retrieval.retrieve(
    ...     model, {"user": np.array([3, 7])}, {"item": np.arange(90)}, k=5
    ... )
    >>> positions.shape
    (2, 5)

    References:
        See `TopN`.
    """
    search = ItemSearch(model, catalog, candidates=candidates)
    if search.method == "candidates":
        integer("candidates", candidates, "at least `k`", least=k, of=f", k={k}")
    return search.best(
        queries, k, exclude=exclude, allowed=allowed, batch_size=batch_size
    )


def method_of(model: ScoringModel, candidates: int | None = None) -> Method:
    """Returns the method by which `retrieve` searches the items of a model.

    Args:
        model: A `ScoringModel`.
        candidates: Optional number of candidates to rerank.

    Returns:
        `"product"`, `"scores"` or `"candidates"`.
    """
    if model.decomposition == "exact":
        return "product"
    return "scores" if candidates is None else "candidates"


class ItemSearch:
    """Searches a catalog repeatedly, with the methods of `retrieve`.

    Args:
        model: Same as in `retrieve`.
        catalog: Same as in `retrieve`.
        candidates: Same as in `retrieve`. At least `k` candidates are reranked.

    Attributes:
        method: The method of search: `"product"` (of query and item embeddings),
            `"scores"` (of all pairs) or `"candidates"` (reranked); see `retrieve`.

    Example:

    >>> features = [fmlayers.Categorical("user", 943), fmlayers.Categorical("item", 90)]
    >>> model = fmlayers.models.FactorizationMachine(features, dim=16)
    >>> search = fmlayers.retrieval.ItemSearch(model, {"item": np.arange(90)})
    >>> search.method
    'product'
    >>> scores, positions = search.best({"user": np.array([3, 7])}, k=5)
    >>> positions.shape
    (2, 5)
    """

    def __init__(
        self,
        model: ScoringModel,
        catalog: Mapping[str, Any],
        *,
        candidates: int | None = None,
    ) -> None:
        self.model = model
        self.catalog = catalog
        self.method = method_of(model, candidates)
        if self.method == "candidates":
            candidates = integer("candidates", candidates)
        self.candidates = candidates

    @cached_property
    def top_n(self) -> TopN:
        """The `TopN` of the catalog."""
        names = self.model.features_within(self.catalog)
        top_n = TopN(self.model, names, _rows(self.catalog))
        return top_n.index(self.catalog)

    def refresh(self) -> None:
        """Recomputes the item embeddings, after further training of the model."""
        if "top_n" in vars(self):
            self.top_n.index(self.catalog)

    def skip(self, queries: int) -> None:
        """Skips queries that another process searches.

        A search that draws random numbers advances its generator, as if it had searched
        these queries.
        """

    def best(
        self,
        queries: Mapping[str, Any],
        k: int = 10,
        *,
        exclude: npt.ArrayLike | None = None,
        allowed: npt.ArrayLike | None = None,
        batch_size: int = 256,
    ) -> TopItems:
        """Returns the k items of highest score for each query; see `retrieve`.

        Args:
            queries: Same as in `retrieve`.
            k: Same as in `retrieve`.
            exclude: Same as in `retrieve`.
            allowed: Same as in `retrieve`.
            batch_size: Same as in `retrieve`.

        Returns:
            Same as in `retrieve`.
        """
        k, batch_size = integer("k", k), integer("batch_size", batch_size)
        model, catalog = self.model, self.catalog
        if self.method == "scores":
            return score_all(
                model,
                queries,
                catalog,
                k,
                exclude=exclude,
                allowed=allowed,
                batch_size=batch_size,
            )
        count = max(k, self.candidates or k) if self.method == "candidates" else k
        scores, positions = _in_batches(
            lambda part, excluded: self.top_n(
                part, exclude=excluded, allowed=allowed, k=count
            ),
            queries,
            exclude,
            batch_size,
        )
        if self.method == "product":
            return scores, positions
        return rerank(model, queries, catalog, positions, k, batch_size=batch_size)


def score_all(
    model: ScoringModel,
    queries: Mapping[str, Any],
    catalog: Mapping[str, Any],
    k: int = 10,
    *,
    exclude: npt.ArrayLike | None = None,
    allowed: npt.ArrayLike | None = None,
    batch_size: int = 256,
) -> TopItems:
    """Returns the k items of highest score, by scoring all pairs of queries and items.

    This is exact for any model, and slow: the model scores every pair, in batches of
    up to 65,536 pairs.

    Args:
        model: A `ScoringModel`.
        queries: Same as in `retrieve`.
        catalog: Same as in `retrieve`.
        k: Same as in `retrieve`.
        exclude: Same as in `retrieve`.
        allowed: Same as in `retrieve`.
        batch_size: Same as in `retrieve`.

    Returns:
        Same as in `retrieve`.

    Example:

    >>> features = [fmlayers.Categorical("user", 943), fmlayers.Categorical("item", 90)]
    >>> model = fmlayers.models.FactorizationMachine(features, dim=16)
    >>> scores, positions = fmlayers.retrieval.score_all(
    ...     model, {"user": np.array([3, 7])}, {"item": np.arange(90)}, k=5
    ... )
    >>> positions.shape
    (2, 5)
    """
    k, batch_size = integer("k", k), integer("batch_size", batch_size)
    num_items = _rows(catalog)
    penalty = np.where(True if allowed is None else np.asarray(allowed), 0.0, -np.inf)
    penalty = np.broadcast_to(penalty.astype("float32"), (num_items,)).copy()

    def best(part: Mapping[str, Any], excluded: Any) -> Any:
        rows = _rows(part)
        size = max(1, MAX_PAIRS // max(rows, 1))
        top = nothing(ops.zeros((rows, 1), "float32"), k)
        for start in range(0, num_items, size):
            block = {name: x[start : start + size] for name, x in catalog.items()}
            scores = _score(model, _pairs(part, block), (rows, _rows(block)))
            scores = scores + ops.convert_to_tensor(penalty[start : start + size])
            scores = ops.pad(scores, ((0, 0), (0, 1)), constant_values=float("-inf"))
            top = merge(top, scores, start, excluded)
        return top

    return _in_batches(best, queries, exclude, batch_size)


def rerank(
    model: ScoringModel,
    queries: Mapping[str, Any],
    catalog: Mapping[str, Any],
    candidates: npt.ArrayLike,
    k: int = 10,
    *,
    batch_size: int = 256,
) -> TopItems:
    """Returns the k candidates of highest score for each query.

    Args:
        model: A `ScoringModel`.
        queries: Same as in `retrieve`.
        catalog: Same as in `retrieve`.
        candidates: Integers of shape `(queries, n)`, the positions of the candidates
            in any order, padded with -1, such as those returned by `TopN`.
        k: Same as in `retrieve`.
        batch_size: Same as in `retrieve`.

    Returns:
        Same as in `retrieve`.

    Example:

    >>> features = [fmlayers.Categorical("user", 943), fmlayers.Categorical("item", 90)]
    >>> model = fmlayers.models.FactorizationMachine(features, dim=16)
    >>> scores, positions = fmlayers.retrieval.rerank(
    ...     model,
    ...     {"user": np.array([3, 7])},
    ...     {"item": np.arange(90)},
    ...     [[5, 80, 41], [3, 2, -1]],
    ...     k=2,
    ... )
    >>> positions.shape
    (2, 2)
    """
    k, batch_size = integer("k", k), integer("batch_size", batch_size)
    # In the order of the catalog, so that the lower position wins among equal scores.
    ordered = np.sort(np.asarray(candidates, "int32"), axis=1)

    def best(part: Mapping[str, Any], positions: npt.NDArray[np.int32]) -> Any:
        rows, length = positions.shape
        places = np.maximum(positions, 0).ravel()
        pairs = {name: np.repeat(np.asarray(x), length, 0) for name, x in part.items()}
        pairs |= {name: np.asarray(x)[places] for name, x in catalog.items()}
        scores = _score(model, pairs, (rows, length))
        scores = ops.where(positions < 0, float("-inf"), scores)
        values, order = top_k(scores, min(k, length))
        top = ops.take_along_axis(ops.convert_to_tensor(positions), order, axis=1)
        padding = ((0, 0), (0, k - min(k, length)))
        return (
            ops.pad(values, padding, constant_values=float("-inf")),
            ops.pad(top, padding, constant_values=-1),
        )

    return _in_batches(best, queries, ordered, batch_size)


def _score(model: Any, pairs: Mapping[str, Any], shape: tuple[int, int]) -> Any:
    flat = [
        model.score({name: x[start : start + MAX_PAIRS] for name, x in pairs.items()})
        for start in range(0, max(shape[0] * shape[1], 1), MAX_PAIRS)
    ]
    scores = ops.reshape(ops.stop_gradient(ops.concatenate(flat)), shape)
    scores = ops.cast(scores, "float32")
    return ops.where(ops.isnan(scores), float("-inf"), scores)


def _pairs(queries: Mapping[str, Any], items: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of all pairs, ordered by query and then by item."""
    rows, size = _rows(queries), _rows(items)
    repeated = {name: np.repeat(np.asarray(x), size, 0) for name, x in queries.items()}
    tiled = {
        name: np.tile(np.asarray(x), (rows, *[1] * (np.ndim(x) - 1)))
        for name, x in items.items()
    }
    return repeated | tiled


def _in_batches(
    best: Any,
    queries: Mapping[str, Any],
    positions: npt.ArrayLike | None,
    batch_size: int,
) -> TopItems:
    """Calls `best(queries, positions)` in batches and concatenates the results."""
    positions = None if positions is None else np.asarray(positions, "int32")
    results = []
    for start in range(0, max(_rows(queries), 1), batch_size):
        part = slice(start, start + batch_size)
        top = best(
            {name: x[part] for name, x in queries.items()},
            None if positions is None else positions[part],
        )
        results.append([ops.convert_to_numpy(x) for x in top])
    scores, top_positions = (np.concatenate(x) for x in zip(*results, strict=True))
    return scores.astype("float32"), top_positions.astype("int32")


def _rows(entries: Mapping[str, Any]) -> int:
    return len(next(iter(entries.values())))
