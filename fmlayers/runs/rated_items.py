from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers.data.cells import as_text
from fmlayers.retrieval.seen_items import SeenItems
from fmlayers.runs.positions import positions_of


class RatedItems:
    """The items that each user has rated in the training rows.

    Args:
        ratings: Table of all ratings, with the columns `user`, `item` and `rating`.
        rows: Integers, the training rows of `ratings`.
        items: `pd.Index` of the catalog's items as text.

    Attributes:
        users: `pd.Index` of the users in `ratings` as text, with or without training
            rows.
        items: Integers `(rows,)`, the position of each training row's item in the
            catalog.
        seen: `fmlayers.retrieval.SeenItems` by position in `users`.
    """

    def __init__(
        self, ratings: pd.DataFrame, rows: npt.ArrayLike, items: pd.Index
    ) -> None:
        distinct = dict.fromkeys(as_text(user) for user in ratings["user"].unique())
        self.users = pd.Index(list(distinct), dtype=object)
        self._rows = ratings.iloc[np.asarray(rows)]
        self._row_users = positions_of(self._rows["user"], self.users)
        self.items = positions_of(self._rows["item"], items)
        self.seen = SeenItems(self._row_users, self.items, max(len(self.users), 1))

    def padded(self, users: Sequence[str]) -> npt.NDArray[np.int32]:
        """Returns the rated items of users; see `SeenItems.padded`.

        Args:
            users: Users as text. Unknown users have no rated items.
        """
        return self.seen.padded(self._positions(users))

    def rows_of(self, user: str) -> pd.DataFrame:
        """Returns the training rows of a user, the highest ratings first.

        Rows with the same rating are ordered by timestamp, the latest first.
        """
        rows = self._rows[self._row_users == self._positions([user])[0]]
        keys = ["rating", *([] if "timestamp" not in rows else ["timestamp"])]
        ordered: pd.DataFrame = rows.sort_values(keys, ascending=False, kind="stable")
        return ordered

    def _positions(self, users: Sequence[str]) -> npt.NDArray[np.intp]:
        return self.users.get_indexer(pd.Index(list(users), dtype=object))
