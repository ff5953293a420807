"""Lists for the users of a training run, known and new."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
from keras import ops

from fmlayers._checks import integer
from fmlayers._files import whole_file
from fmlayers.data import DataError, Dataset, Encoder, Split
from fmlayers.data.encoder import UNKNOWN, as_text
from fmlayers.retrieval.fold_in import fold_in
from fmlayers.retrieval.search import ItemSearch, TopItems
from fmlayers.retrieval.seen_items import SeenItems
from fmlayers.retrieval.top_n import TopN
from fmlayers.runs.catalogue import Catalogue

BATCH_SIZE = 1024


class Trained(Protocol):
    """What lists are made of: a `Run`, or a model while it is trained."""

    @property
    def model(self) -> keras.Model: ...

    @property
    def encoder(self) -> Encoder: ...

    def side_table(self, name: str) -> pd.DataFrame | None: ...

    def split(self, dataset: Dataset) -> Split: ...


class Recommender:
    """Makes lists of the best items for users of a run.

    The catalogue is the items that the run's encoder knows, those of the training
    rows (`min_count` may leave rare ones out): of another the model has no vector of
    its own. A column of the run's table of items is the items', one of its table of
    users the users'. A column that describes the rating itself, such as a day, counts
    to the query, and as missing unless given: a list is of no day.

    Lists are exact for every model whose sides make up its score, and for every other
    unless `candidates` is given; see `retrieve`.

    Args:
        run: The run.
        dataset: Optional data of the run, `run.dataset()`. Without, nobody has seen
            anything.
        train_rows: Optional rows of `dataset` that count as seen. Defaults to the
            run's training rows.
        candidates: Optional integer; a model that is not exact ranks this many that
            its factorization machine found, instead of all.

    Attributes:
        catalogue: The `Catalogue`; positions are its rows.
        users: `pd.Index` of the data's users as text, none without data.
        missing: Names of the columns that describe a rating.

    Raises:
        ValueError: If all of the model's columns are of one side.
    """

    def __init__(
        self,
        run: Trained,
        dataset: Dataset | None = None,
        *,
        train_rows: npt.ArrayLike | None = None,
        candidates: int | None = None,
    ) -> None:
        self.model: Any = run.model
        self.encoder = run.encoder
        items, users = run.side_table("items"), run.side_table("users")
        self._users = None if users is None else users.set_index("user")
        self._user_columns = {"user", *([] if users is None else users.columns)}
        item_columns = {"item", *([] if items is None else items.columns)}
        self.catalogue = catalogue_of(run)
        self._inputs = {
            column: self.encoder.encode(column, self.catalogue.table[column])
            for column in self.encoder.columns
            if column in item_columns
        }
        self._query_columns = [c for c in self.encoder.columns if c not in self._inputs]
        if not self._inputs or not self._query_columns:
            raise ValueError(
                "The model must have columns of users and of items to make lists. "
                f"It has {list(self.encoder.columns)}."
            )
        self.missing = [c for c in self._query_columns if c not in self._user_columns]
        self.search = ItemSearch(self.model, self._inputs, candidates=candidates)
        self._see(dataset, run, train_rows)

    @property
    def top_n(self) -> TopN:
        """The `TopN` of the catalogue."""
        return self.search.top_n

    @property
    def is_exact(self) -> bool:
        """Whether the model's decomposition gives its whole score."""
        return self.search.method == "product"

    def lists(
        self,
        users: Sequence[str],
        k: int = 10,
        *,
        include_seen: bool = False,
        allowed: npt.NDArray[np.bool_] | None = None,
        known: Mapping[str, Any] | None = None,
    ) -> TopItems:
        """Returns scores and positions `(users, k)`, as of `retrieve`.

        Args:
            users: Users as text; one that is unknown is a new user.
            k: Length of a list. Defaults to 10.
            include_seen: Whether items of the user's training rows may be in it.
            allowed: Optional Booleans, one an item; see `Catalogue.allowed`.
            known: Optional values of columns, in place of those of the users' table
                or of none.
        """
        found = list(
            self.batches(
                users, k, include_seen=include_seen, allowed=allowed, known=known
            )
        )
        if not found:
            return np.empty((0, k), "float32"), np.empty((0, k), "int32")
        scores, positions = zip(*found, strict=True)
        return np.concatenate(scores), np.concatenate(positions)

    def batches(
        self,
        users: Sequence[str],
        k: int = 10,
        *,
        include_seen: bool = False,
        allowed: npt.NDArray[np.bool_] | None = None,
        known: Mapping[str, Any] | None = None,
    ) -> Iterator[TopItems]:
        """Yields what `lists` returns, up to 1,024 users at a time."""
        k = integer("k", k)
        for start in range(0, len(users), BATCH_SIZE):
            part = users[start : start + BATCH_SIZE]
            exclude = None
            if not include_seen and self._seen is not None:
                exclude = self._seen.padded(self._positions(part))
            yield self._best(self.queries(part, known), k, exclude, allowed)

    def new_user(
        self,
        liked: Sequence[int] = (),
        k: int = 10,
        *,
        ratings: npt.ArrayLike | None = None,
        allowed: npt.NDArray[np.bool_] | None = None,
        known: Mapping[str, Any] | None = None,
    ) -> TopItems:
        """Returns scores and positions `(1, k)` for a user who is in no table.

        With films the user's own vector is found by `fold_in`; without, the user is
        an unknown one of whom `known` tells.

        Args:
            liked: Positions of items that the user likes; they are not in the list.
            k: Length of the list. Defaults to 10.
            ratings: Optional ratings of these; the highest one by default.
            allowed: As of `lists`.
            known: As of `lists`.
        """
        k = integer("k", k)
        queries = self.queries([None], known)
        if "user" in queries:
            queries["user"][:] = UNKNOWN
        if not len(liked):
            return self._best(queries, k, None, allowed)
        if not self.is_exact:
            raise ValueError(
                "A new user's vector can be found from films for models whose sides "
                "make up their score, such as 'fm' and 'mf'. "
                f"Received: {type(self.model).__name__}."
            )
        if ratings is None and self.model.scaler is None:
            raise ValueError(
                "A new user's vector can be found from liked films for runs that were "
                "trained on ratings, which have a highest one. This one's scores rank "
                "alone."
            )
        sides = fold_in(self.top_n, np.asarray(liked), ratings, queries)
        return _numpy(self.top_n.rank(*sides, np.asarray([liked]), allowed, k))

    def similar(self, position: int, k: int = 10) -> TopItems:
        """Returns cosines and positions `(1, k)` of the items most like one.

        Of a model that is not exact, by its factorization machine's vectors.
        """
        if self.model.decomposition is None:
            raise ValueError(
                "Items are compared by the vectors of a factorization machine, and "
                f"the run's model has none: it is a {type(self.model).__name__}."
            )
        return _numpy(self.top_n.similar(np.array([position]), k))

    def described(self, positions: npt.NDArray[np.int32]) -> pd.DataFrame:
        """Returns rank, item and what is known of it, for the places that are taken."""
        rows = self.catalogue.table.iloc[positions[positions >= 0]]
        rows = rows.reset_index(drop=True)
        rows.insert(0, "rank", np.arange(1, len(rows) + 1))
        return rows

    def table(
        self, scores: npt.NDArray[np.float32], positions: npt.NDArray[np.int32]
    ) -> pd.DataFrame:
        """Returns what `described` does, with the raw `score` and, by it, the `rating`.

        Args:
            scores: A row of what `lists` returns.
            positions: The same row of the positions.
        """
        found = scores[positions >= 0]
        table = self.described(positions)
        if self.model.scaler is not None and len(found):
            table["rating"] = ops.convert_to_numpy(self.model.scaler(found))
        return table.assign(score=found)

    def history(self, user: str) -> pd.DataFrame:
        """Returns the user's training rows, the best rated first, the latest of those.

        Returns:
            `item`, what is known of it, and `rating`.
        """
        if self._train is None:
            raise ValueError("The history of a user needs `dataset`.")
        rows = self._train[self._train_users == self._positions([user])[0]]
        keys = ["rating", *([] if "timestamp" not in rows else ["timestamp"])]
        rows = rows.sort_values(keys, ascending=False, kind="stable")
        described = self.catalogue.describe([as_text(key) for key in rows["item"]])
        return described.assign(rating=rows["rating"].to_numpy())

    def check_user(self, user: str) -> None:
        """Raises `ValueError` unless the data or the table of users has the user."""
        known = self._users is not None and user in self._users.index
        if known or user in self.users:
            return
        users = self.users if len(self.users) else self.encoder.vocabulary("user")
        raise ValueError(
            f"There is no user {user!r} among the {len(users):,} of the run's data, "
            f"such as {', '.join(users[:3])}. For a new user give what is known, or "
            "films that the user likes."
        )

    def users_of(self, table: pd.DataFrame) -> list[str]:
        """Returns the users of a table's column `user`, each once, as they come.

        Raises:
            ValueError: If it has no such column, or a user of whom nothing is known.
        """
        if "user" not in table:
            raise DataError(
                f"The rows lack the column 'user'. They have {list(table.columns)}."
            )
        users = list(dict.fromkeys(as_text(user) for user in table["user"].dropna()))
        for user in users:
            self.check_user(user)
        return users

    def queries(
        self, users: Sequence[str | None], known: Mapping[str, Any] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Returns the model's inputs for users, without those of items.

        Raises:
            ValueError: If `known` has a column that is not the query's, or a value
                that the training rows did not have.
        """
        known = known or {}
        index = pd.Index(list(users), dtype=object)
        inputs = {}
        for column in self._query_columns:
            values = pd.Series([None] * len(index), dtype=object)
            if column == "user":
                values = pd.Series(index, dtype=object)
            elif column in known:
                values = pd.Series([known[column]] * len(index), dtype=object)
            elif self._users is not None and column in self._users:
                values = self._users[column].reindex(index).reset_index(drop=True)
            inputs[column] = self.encoder.encode(column, values)
        for column, value in known.items():
            self._check_known(column, value, inputs)
        return inputs

    def _positions(self, users: Sequence[str]) -> npt.NDArray[np.intp]:
        return self.users.get_indexer(pd.Index(list(users), dtype=object))

    def _check_known(
        self, column: str, value: Any, inputs: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        if column not in inputs or column == "user":
            columns = [c for c in self._query_columns if c != "user"]
            raise ValueError(
                f"The model has no column {column!r} of users. It has {columns}."
            )
        if inputs[column].dtype.kind == "i" and (inputs[column] == UNKNOWN).any():
            values = self.encoder.vocabulary(column)
            shown = ", ".join(values[:20]) + (", ..." if len(values) > 20 else "")
            raise ValueError(
                f"The training rows have no {column} {value!r}. They have {shown}."
            )

    def _best(
        self,
        queries: Mapping[str, Any],
        k: int,
        exclude: npt.NDArray[np.int32] | None,
        allowed: npt.NDArray[np.bool_] | None,
    ) -> TopItems:
        return self.search.best(
            queries, k, exclude=exclude, allowed=allowed, batch_size=BATCH_SIZE
        )

    def _see(
        self, dataset: Dataset | None, run: Trained, train_rows: npt.ArrayLike | None
    ) -> None:
        self.users: pd.Index = pd.Index([], dtype=object)
        self._train: pd.DataFrame | None = None
        self._seen: SeenItems | None = None
        if dataset is None:
            return
        ratings = dataset.ratings
        distinct = dict.fromkeys(as_text(user) for user in ratings["user"].unique())
        self.users = pd.Index(list(distinct), dtype=object)
        rows = run.split(dataset).train if train_rows is None else train_rows
        self._train = ratings.iloc[np.asarray(rows)]
        self._train_users = positions_of(self._train["user"], self.users)
        items = positions_of(self._train["item"], self.catalogue.keys)
        self._seen = SeenItems(self._train_users, items, max(len(self.users), 1))


def catalogue_of(run: Trained) -> Catalogue:
    """Returns the items that the run's encoder knows, or else those of its table."""
    items = run.side_table("items")
    if "item" in run.encoder.columns:
        return Catalogue(run.encoder.vocabulary("item"), items)
    keys = [] if items is None else [as_text(key) for key in items["item"]]
    return Catalogue(keys, items)


def recommend_all(
    run: Trained,
    dataset: Dataset,
    train_rows: npt.ArrayLike | None = None,
    k: int = 10,
    *,
    users: Sequence[str] | None = None,
    candidates: int | None = None,
) -> tuple[pd.Index, pd.Index, npt.NDArray[np.int32]]:
    """Makes the list of every user of the data, without the items of `train_rows`.

    Args:
        run: The run.
        dataset: The run's data.
        train_rows: Rows of `dataset` whose items count as seen. Defaults to the run's
            training rows.
        k: Length of a list. Defaults to 10.
        users: Optional users as text. Defaults to all who rated anything, in training
            rows or others.
        candidates: As of `Recommender`.

    Returns:
        The users as text, the catalogue's items as text, and for each user k positions
        in the catalogue, the best first, -1 where there are no more.
        `positions_of` finds the users and items of a table among them.
    """
    recommender = Recommender(
        run, dataset, train_rows=train_rows, candidates=candidates
    )
    chosen = recommender.users
    if users is not None:
        chosen = pd.Index(list(users), dtype=object)
    _, positions = recommender.lists(list(chosen), k)
    return chosen, recommender.catalogue.keys, positions


def positions_of(values: "pd.Series[Any]", keys: pd.Index) -> npt.NDArray[np.int64]:
    """Returns where each value stands among `keys`, compared as text; -1: nowhere."""
    codes, distinct = pd.factorize(values)
    found = keys.get_indexer(pd.Index([as_text(value) for value in distinct]))
    return np.append(found, -1)[codes].astype(np.int64)  # -1 is the missing's code


def write_lists(
    recommender: Recommender,
    users: Sequence[str],
    path: str | Path,
    k: int = 10,
    *,
    include_seen: bool = False,
    allowed: npt.NDArray[np.bool_] | None = None,
    known: Mapping[str, Any] | None = None,
    on_batch: Callable[[int], None] = lambda count: None,
) -> None:
    """Writes a CSV `user_id,item_ids`, a row a user, whole or not at all.

    The ids of the items stand in one cell, separated by spaces, the best first.

    Args:
        recommender: Makes the lists.
        users: Users as text.
        path: The file, replaced if it is there.
        k: As of `Recommender.lists`.
        include_seen: As of `Recommender.lists`.
        allowed: As of `Recommender.lists`.
        known: As of `Recommender.lists`.
        on_batch: Called after every batch with its number of users.

    Raises:
        DataError: If the folder is not there, or an item's id has a space in it.
    """
    path = Path(path)
    keys = recommender.catalogue.keys
    if not path.parent.is_dir():
        raise DataError(f"{path}: there is no folder {path.parent}.")
    spaced = [key for key in keys if len(key.split()) != 1]
    if spaced:
        raise DataError(
            f"The id {spaced[0]!r} of an item has a space in it, and {path} separates "
            "ids by spaces."
        )
    done = 0
    with whole_file(path) as written, written.open("w", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["user_id", "item_ids"])
        for _, lists in recommender.batches(
            users, k, include_seen=include_seen, allowed=allowed, known=known
        ):
            for positions in lists:
                items = " ".join(keys[positions[positions >= 0]])
                writer.writerow([users[done], items])
                done += 1
            on_batch(len(lists))


def _numpy(lists: tuple[Any, Any]) -> TopItems:
    scores, positions = (ops.convert_to_numpy(x) for x in lists)
    return scores, positions
