"""The best items of queries by any model: the exact ways, and which one to take."""

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

# Rows that a model scores at a time: 64 MB of 32 fields' vectors of size 8.
PAIRS = 65_536


def retrieve(
    model: ScoringModel,
    queries: Mapping[str, Any],
    catalogue: Mapping[str, Any],
    k: int = 10,
    *,
    exclude: npt.ArrayLike | None = None,
    allowed: npt.ArrayLike | None = None,
    candidates: int | None = None,
    batch_size: int = 256,
) -> TopItems:
    """Finds the items of highest score for each query, by the way the model allows.

    - A model with an exact `decomposition` (`FactorizationMachine`,
      `MatrixFactorization`, an `Ensemble` of them): one matrix product, `TopN`. Exact.
    - Any other model: the score of every pair of query and item, `score_all`. Exact,
      and slow.
    - With `candidates`, a model with a partial decomposition (a `DeepFM`): its
      factorization machine finds that many, and the whole model ranks those,
      `rerank`. The one method that is not exact: it misses an item that only the rest
      of the model scores high.

    For more than one call, make an `ItemSearch`: it computes the items once.

    Args:
        model: A `ScoringModel`.
        queries: Dict with the entries of the query's features, one row a query.
        catalogue: Dict with the entries of the items' features, one row an item; which
            features are the items' own is told by its keys.
        k: Positive integer, the length of a list. Defaults to 10.
        exclude: Optional integers `(queries, length)`, positions of items that a query
            must not get, padded with -1.
        allowed: Optional Booleans `(items,)`, whether any query may get an item.
        candidates: Optional integer of at least k, as above. Ignored where the product
            is exact.
        batch_size: Positive integer, queries at a time. Defaults to 256.

    Returns:
        Raw scores `(queries, k)` and positions `(queries, k)` in the catalogue, as of
        `TopN`.

    Raises:
        ValueError: If an argument breaks its constraint.

    Example:

    >>> features = [fmlayers.Categorical("user", 943), fmlayers.Categorical("item", 90)]
    >>> model = fmlayers.models.FactorizationMachine(features, dim=16)
    >>> scores, positions = fmlayers.retrieval.retrieve(
    ...     model, {"user": np.array([3, 7])}, {"item": np.arange(90)}, k=5
    ... )
    >>> positions.shape
    (2, 5)

    References:
        As of `TopN`.
    """
    search = ItemSearch(model, catalogue, candidates=candidates)
    if search.method == "candidates":
        integer("candidates", candidates, "at least `k`", least=k, of=f", k={k}")
    return search.best(
        queries, k, exclude=exclude, allowed=allowed, batch_size=batch_size
    )


def method_of(model: ScoringModel, candidates: int | None = None) -> Method:
    """Returns how the best items are found with a model; see `retrieve`.

    Args:
        model: A `ScoringModel`.
        candidates: Optional number of candidates.
    """
    if model.decomposition == "exact":
        return "product"
    return "scores" if candidates is None else "candidates"


class ItemSearch:
    """Finds what `retrieve` does, for more than one call.

    Args:
        model: As in `retrieve`.
        catalogue: As in `retrieve`.
        candidates: As in `retrieve`; at least `k` are ranked.

    Attributes:
        method: `"product"`, `"scores"` or `"candidates"`; see `retrieve`.
    """

    def __init__(
        self,
        model: ScoringModel,
        catalogue: Mapping[str, Any],
        *,
        candidates: int | None = None,
    ) -> None:
        self.model = model
        self.catalogue = catalogue
        self.method = method_of(model, candidates)
        if self.method == "candidates":
            candidates = integer("candidates", candidates)
        self.candidates = candidates

    @cached_property
    def top_n(self) -> TopN:
        """The `TopN` of the items."""
        names = self.model.features_within(self.catalogue)
        top_n = TopN(self.model, names, _rows(self.catalogue))
        return top_n.index(self.catalogue)

    def refresh(self) -> None:
        """Computes the items' constants and vectors anew, after further training."""
        if "top_n" in vars(self):
            self.top_n.index(self.catalogue)

    def best(
        self,
        queries: Mapping[str, Any],
        k: int = 10,
        *,
        exclude: npt.ArrayLike | None = None,
        allowed: npt.ArrayLike | None = None,
        batch_size: int = 256,
    ) -> TopItems:
        """Returns scores and positions `(queries, k)`; see `retrieve`."""
        k, batch_size = integer("k", k), integer("batch_size", batch_size)
        model, catalogue = self.model, self.catalogue
        if self.method == "scores":
            return score_all(
                model,
                queries,
                catalogue,
                k,
                exclude=exclude,
                allowed=allowed,
                batch_size=batch_size,
            )
        length = max(k, self.candidates or k) if self.method == "candidates" else k
        found = _in_batches(
            lambda part, excluded: self.top_n(
                part, exclude=excluded, allowed=allowed, k=length
            ),
            queries,
            exclude,
            batch_size,
        )
        if self.method == "product":
            return found
        return rerank(model, queries, catalogue, found[1], k, batch_size=batch_size)


def score_all(
    model: ScoringModel,
    queries: Mapping[str, Any],
    catalogue: Mapping[str, Any],
    k: int = 10,
    *,
    exclude: npt.ArrayLike | None = None,
    allowed: npt.ArrayLike | None = None,
    batch_size: int = 256,
) -> TopItems:
    """Finds the items of highest score by scoring every pair: exact for any model.

    It costs the model once a pair of query and item, 65,536 pairs at a time.

    Args:
        model: A `ScoringModel`.
        queries: As of `retrieve`.
        catalogue: As of `retrieve`.
        k: As of `retrieve`.
        exclude: As of `retrieve`.
        allowed: As of `retrieve`.
        batch_size: As of `retrieve`.

    Returns:
        As of `retrieve`.

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
    num_items = _rows(catalogue)
    gone = np.where(True if allowed is None else np.asarray(allowed), 0.0, -np.inf)
    gone = np.broadcast_to(gone.astype("float32"), (num_items,)).copy()

    def best(part: Mapping[str, Any], excluded: Any) -> Any:
        rows = _rows(part)
        size = max(1, PAIRS // max(rows, 1))
        found = nothing(ops.zeros((rows, 1), "float32"), k)
        for start in range(0, num_items, size):
            block = {name: x[start : start + size] for name, x in catalogue.items()}
            scores = _score(model, _pairs(part, block), (rows, _rows(block)))
            scores = ops.add(scores, ops.convert_to_tensor(gone[start : start + size]))
            scores = ops.pad(scores, ((0, 0), (0, 1)), constant_values=float("-inf"))
            found = merge(found, scores, start, excluded)
        return found

    return _in_batches(best, queries, exclude, batch_size)


def rerank(
    model: ScoringModel,
    queries: Mapping[str, Any],
    catalogue: Mapping[str, Any],
    candidates: npt.ArrayLike,
    k: int = 10,
    *,
    batch_size: int = 256,
) -> TopItems:
    """Ranks the candidates of each query by the model's whole score.

    Args:
        model: A `ScoringModel`.
        queries: As of `retrieve`.
        catalogue: As of `retrieve`.
        candidates: Integers `(queries, n)`, positions of items, in any order, padded
            with -1; such as what `TopN` returns.
        k: As of `retrieve`.
        batch_size: As of `retrieve`.

    Returns:
        As of `retrieve`.

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
    # In the order of the catalogue, by which equal scores are ranked.
    ordered = np.sort(np.asarray(candidates, "int32"), axis=1)

    def best(part: Mapping[str, Any], positions: npt.NDArray[np.int32]) -> Any:
        rows, length = positions.shape
        places = np.maximum(positions, 0).ravel()
        pairs = {name: np.repeat(np.asarray(x), length, 0) for name, x in part.items()}
        pairs |= {name: np.asarray(x)[places] for name, x in catalogue.items()}
        scores = _score(model, pairs, (rows, length))
        scores = ops.where(positions < 0, float("-inf"), scores)
        values, order = top_k(scores, min(k, length))
        found = ops.take_along_axis(ops.convert_to_tensor(positions), order, axis=1)
        missing = ((0, 0), (0, k - min(k, length)))
        return (
            ops.pad(values, missing, constant_values=float("-inf")),
            ops.pad(found, missing, constant_values=-1),
        )

    return _in_batches(best, queries, ordered, batch_size)


def _score(model: Any, pairs: Mapping[str, Any], shape: tuple[int, int]) -> Any:
    flat = [
        model.score({name: x[start : start + PAIRS] for name, x in pairs.items()})
        for start in range(0, max(shape[0] * shape[1], 1), PAIRS)
    ]
    scores = ops.reshape(ops.stop_gradient(ops.concatenate(flat)), shape)
    scores = ops.cast(scores, "float32")
    return ops.where(ops.isnan(scores), float("-inf"), scores)


def _pairs(queries: Mapping[str, Any], items: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of every query with every item, the items running faster."""
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
    beside: npt.ArrayLike | None,
    batch_size: int,
) -> TopItems:
    """Returns what `best(queries, beside)` finds, a batch of queries at a time."""
    beside = None if beside is None else np.asarray(beside, "int32")
    found = []
    for start in range(0, max(_rows(queries), 1), batch_size):
        part = slice(start, start + batch_size)
        scores, positions = best(
            {name: x[part] for name, x in queries.items()},
            None if beside is None else beside[part],
        )
        found.append((ops.convert_to_numpy(scores), ops.convert_to_numpy(positions)))
    scores, positions = (np.concatenate(one) for one in zip(*found, strict=True))
    return scores.astype("float32"), positions.astype("int32")


def _rows(entries: Mapping[str, Any]) -> int:
    return len(next(iter(entries.values())))
