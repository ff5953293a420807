"""Top-N recommendations for the users of a run and for new users."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
from keras import ops

from fmlayers._checks import integer
from fmlayers.data import Dataset, Encoder, Split
from fmlayers.data.cells import as_text
from fmlayers.retrieval.fold_in import fold_in
from fmlayers.retrieval.item_search import ItemSearch, TopItems
from fmlayers.retrieval.top_n import TopN
from fmlayers.runs.catalog import Catalog
from fmlayers.runs.prediction import check_scores
from fmlayers.runs.queries import Queries
from fmlayers.runs.rated_items import RatedItems
from fmlayers.runs.share import Share

BATCH_SIZE = 1024


class Trained(Protocol):
    """The parts of a `Run` that a `Recommender` uses."""

    @property
    def model(self) -> keras.Model: ...

    @property
    def encoder(self) -> Encoder: ...

    def side_table(self, name: str) -> pd.DataFrame | None: ...

    def split(self, dataset: Dataset) -> Split: ...


class Recommender:
    """Recommends the items with the highest scores to users of a run.

    The catalog contains the items of the training rows (without rare items, if the run
    has a `min_count`). The model has no embedding for other items.

    The results are exact unless `candidates` applies to the model, such as a `DeepFM`;
    see `fmlayers.retrieval.retrieve`.

    Args:
        run: A `Run`, or an object with the same `model`, `encoder`, `side_table` and
            `split`.
        dataset: Optional data of the run, `run.dataset()`. If omitted, no item counts
            as seen.
        train_rows: Optional integers, the rows of `dataset` whose items count as seen.
            Defaults to the training rows of the run.
        candidates: Optional integer. A model such as `DeepFM` then ranks only this
            number of candidates; see `fmlayers.retrieval.retrieve`.

    Attributes:
        catalog: The `Catalog`. The position of an item is its row.
        queries: The `Queries`, which encodes users.
        rated: The `RatedItems` of the training rows, `None` without `dataset`.
        search: The `fmlayers.retrieval.ItemSearch` of the catalog.

    Raises:
        ValueError: If the model has no column of users or no column of items.
    """

    def __init__(
        self,
        run: Trained,
        dataset: Dataset | None = None,
        *,
        train_rows: npt.ArrayLike | None = None,
        candidates: int | None = None,
    ) -> None:
        if dataset is not None and not dataset.has_pairs:
            raise ValueError(
                "Recommendations need users and items, which the data of the run lack. "
                "Train with `--user COLUMN` and `--item COLUMN`."
            )
        self.model: Any = run.model
        self.catalog = Catalog.of(run.encoder, run.side_table("items"))
        self.rated: RatedItems | None = None
        if dataset is not None:
            rows = run.split(dataset).train if train_rows is None else train_rows
            self.rated = RatedItems(dataset.ratings, rows, self.catalog.keys)
        items = self.catalog.encode(run.encoder)
        table = run.side_table("users")
        self.queries = Queries(run.encoder, items, table, list(self.users))
        if not items or not self.queries.columns:
            raise ValueError(
                "The model must have columns of users and columns of items to "
                f"recommend items. Received: {list(run.encoder.columns)}."
            )
        self.search = ItemSearch(self.model, items, candidates=candidates)

    @property
    def users(self) -> pd.Index:
        """The users of the data as text. Empty without `dataset`."""
        return pd.Index([], dtype=object) if self.rated is None else self.rated.users

    @property
    def index(self) -> TopN:
        """The `fmlayers.retrieval.TopN` of the catalog."""
        return self.search.top_n

    @property
    def is_exact(self) -> bool:
        """Whether query and item embeddings determine the whole score."""
        return self.search.method == "product"

    def top_n(
        self,
        users: Sequence[str],
        k: int = 10,
        *,
        include_seen: bool = False,
        allowed: npt.NDArray[np.bool_] | None = None,
        known: Mapping[str, Any] | None = None,
    ) -> TopItems:
        """Returns the top-N recommendations of users.

        Args:
            users: Users as text. A user who is not in the training rows is unknown.
            k: Positive integer, the number of recommendations per user. Defaults to 10.
            include_seen: Whether to recommend items that the user rated in the training
                rows. Defaults to `False`.
            allowed: Optional Booleans `(items,)`, whether an item may be recommended;
                see `Catalog.allowed`.
            known: Optional values of columns, such as `{"day": 3}`; see
                `Queries.encode`.

        Returns:
            Scores `(users, k)` and positions `(users, k)` in the catalog; see
            `fmlayers.retrieval.retrieve`.
        """
        batches = list(
            self.batches(
                users, k, include_seen=include_seen, allowed=allowed, known=known
            )
        )
        if not batches:
            return np.empty((0, k), "float32"), np.empty((0, k), "int32")
        scores, positions = zip(*batches, strict=True)
        return np.concatenate(scores), np.concatenate(positions)

    def batches(
        self,
        users: Sequence[str],
        k: int = 10,
        *,
        include_seen: bool = False,
        allowed: npt.NDArray[np.bool_] | None = None,
        known: Mapping[str, Any] | None = None,
        share: Share | None = None,
    ) -> Iterator[TopItems]:
        """Yields the results of `top_n` in batches of up to 1,024 users.

        With a `Share`, it yields only the results of its users; see `Share.rows`.
        """
        k = integer("k", k)
        part = (share or Share()).rows(len(users), BATCH_SIZE)
        self.search.skip(part.start)
        for start in range(part.start, part.stop, BATCH_SIZE):
            batch = users[start : start + BATCH_SIZE]
            exclude = None
            if not include_seen and self.rated is not None:
                exclude = self.rated.padded(batch)
            queries = self.queries.encode(batch, known)
            yield self._best(queries, k, exclude=exclude, allowed=allowed)

    def new_user(
        self,
        liked: Sequence[int] = (),
        k: int = 10,
        *,
        ratings: npt.ArrayLike | None = None,
        allowed: npt.NDArray[np.bool_] | None = None,
        known: Mapping[str, Any] | None = None,
    ) -> TopItems:
        """Returns the top-N recommendations of a user who is not in the data.

        With `liked`, `fmlayers.retrieval.fold_in` computes an embedding for the user.
        Otherwise, the recommendations depend on `known` alone.

        Args:
            liked: Positions of items that the user likes. They are not recommended.
            k: Positive integer, the number of recommendations. Defaults to 10.
            ratings: Optional ratings of the liked items. Defaults to the highest
                rating.
            allowed: See `top_n`.
            known: See `top_n`.

        Returns:
            Scores `(1, k)` and positions `(1, k)`; see `top_n`.

        Raises:
            ValueError: If `liked` is not empty and the model is not exact, or `ratings`
                is omitted and the model was trained on implicit feedback.
        """
        k = integer("k", k)
        queries = self.queries.encode_new(known)
        if not len(liked):
            return self._best(queries, k, allowed=allowed)
        if not self.is_exact:
            raise ValueError(
                "Recommendations from liked items need a model whose score is the "
                "product of query and item embeddings, such as 'fm' or 'mf'. "
                f"Received: a {type(self.model).__name__}."
            )
        if ratings is None and self.model.scaler is None:
            raise ValueError(
                "Recommendations from liked items need a run that was trained on "
                "ratings, which have a highest value. This run was trained on implicit "
                "feedback. Describe the new user by values of columns instead."
            )
        embedding = fold_in(self.index, np.asarray(liked), ratings, queries)
        exclude = np.asarray([liked], "int32")
        top = _numpy(self.index.rank(*embedding, exclude, allowed, k))
        self._check(*top, exclude, allowed)
        return top

    def similar(self, position: int, k: int = 10) -> TopItems:
        """Returns the items whose embeddings are most similar to that of an item.

        For a model such as `DeepFM`, the embeddings are those of its factorization
        machine.

        Args:
            position: Position of the item.
            k: Positive integer, the number of items. Defaults to 10.

        Returns:
            Cosine similarities `(1, k)` and positions `(1, k)`.

        Raises:
            ValueError: If the model has no item embeddings.
        """
        if self.model.decomposition is None:
            raise ValueError(
                "The model of the run must have item embeddings to find similar items. "
                f"Received: a {type(self.model).__name__}."
            )
        return _numpy(self.index.similar(np.array([position]), k))

    def item_table(self, positions: npt.NDArray[np.int32]) -> pd.DataFrame:
        """Returns ranked items as a table.

        Args:
            positions: Integers `(k,)`, best first; -1 is skipped.

        Returns:
            The `rank` (from 1), the `item`, and the columns of the catalog's table.
        """
        rows = self.catalog.table.iloc[positions[positions >= 0]]
        rows = rows.reset_index(drop=True)
        rows.insert(0, "rank", np.arange(1, len(rows) + 1))
        return rows

    def table(
        self, scores: npt.NDArray[np.float32], positions: npt.NDArray[np.int32]
    ) -> pd.DataFrame:
        """Returns the recommendations of one user as a table.

        Args:
            scores: The user's row of the scores that `top_n` returns.
            positions: The user's row of the positions.

        Returns:
            The columns of `item_table`, the `rating` if the model has a scaler, and the
            raw `score`.
        """
        scores = scores[positions >= 0]
        table = self.item_table(positions)
        if self.model.scaler is not None and len(scores):
            table["rating"] = ops.convert_to_numpy(self.model.scaler(scores))
        return table.assign(score=scores)

    def history(self, user: str) -> pd.DataFrame:
        """Returns the training rows of a user as a table; see `RatedItems.rows_of`.

        Returns:
            The `item`, the columns of the run's table of items, and the `rating`.

        Raises:
            ValueError: If the recommender has no `dataset`.
        """
        if self.rated is None:
            raise ValueError("`dataset` must not be `None` for the history of a user.")
        rows = self.rated.rows_of(user)
        table = self.catalog.describe([as_text(key) for key in rows["item"]])
        return table.assign(rating=rows["rating"].to_numpy())

    def _best(
        self,
        queries: Mapping[str, Any],
        k: int,
        *,
        exclude: npt.NDArray[np.int32] | None = None,
        allowed: npt.NDArray[np.bool_] | None,
    ) -> TopItems:
        scores, positions = self.search.best(
            queries, k, exclude=exclude, allowed=allowed, batch_size=BATCH_SIZE
        )
        self._check(scores, positions, exclude, allowed)
        return scores, positions

    def _check(
        self,
        scores: npt.NDArray[np.float32],
        positions: npt.NDArray[np.int32],
        exclude: npt.NDArray[np.int32] | None,
        allowed: npt.NDArray[np.bool_] | None,
    ) -> None:
        """Checks that the scores are finite.

        The search leaves out an item whose score is NaN.

        Raises:
            DivergenceError: If they are not.
        """
        is_allowed = np.ones(len(self.catalog), bool)
        if allowed is not None:
            is_allowed &= allowed
        left = np.full(len(positions), is_allowed.sum())
        if exclude is not None and len(is_allowed):
            ordered = np.sort(exclude, axis=1)
            counts = (ordered >= 0) & is_allowed[ordered]
            counts[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
            left -= counts.sum(axis=1)
        is_item = positions >= 0
        is_missing = is_item.sum(axis=1) < np.minimum(left, positions.shape[1])
        check_scores(np.where(is_missing, np.nan, 0.0), scores[is_item])


def _numpy(result: tuple[Any, Any]) -> TopItems:
    scores, positions = (ops.convert_to_numpy(x) for x in result)
    return scores, positions
