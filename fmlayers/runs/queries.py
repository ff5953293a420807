from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import pandas as pd

from fmlayers.data import DataError, Encoder
from fmlayers.data.cells import as_text
from fmlayers.data.kinds import UNKNOWN

MAX_SHOWN = 20


class Queries:
    """Encodes users as the query inputs of a run's model.

    The query inputs are all inputs that do not describe an item: the user, the columns
    of the table of users, and the context columns, which describe a single rating, such
    as its day.

    Args:
        encoder: The encoder of the run.
        item_columns: Names of the encoder's columns that describe an item.
        table: Optional table of users, one row per `user`.
        users: Optional users of the data as text.

    Attributes:
        columns: Names of the query columns.
        context_columns: Names of the context columns. They count as missing unless
            `known` has a value.
    """

    def __init__(
        self,
        encoder: Encoder,
        item_columns: Collection[str],
        table: pd.DataFrame | None = None,
        users: Sequence[str] = (),
    ) -> None:
        self.encoder = encoder
        self.users = pd.Index(list(users), dtype=object)
        if table is None:
            table = pd.DataFrame({"user": []})
        self.table = table.set_index("user")
        self.columns = [name for name in encoder.columns if name not in item_columns]
        self.context_columns = [
            name
            for name in self.columns
            if name != "user" and name not in self.table.columns
        ]

    def encode(
        self, users: Sequence[str], known: Mapping[str, Any] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Returns the query inputs of users.

        Args:
            users: Users as text. A user who is not in the training rows is unknown.
            known: Optional values of columns other than `user`, the same for all users.
                They replace the values of the table of users.

        Raises:
            ValueError: If `known` has a column that is not a query column, or a value
                that the training rows do not have.
        """
        known = known or {}
        self._check_columns(known)
        index = pd.Index(list(users), dtype=object)
        cells = {}
        weights = self.encoder.weights
        apart = [weights[column] for column in self.columns if column in weights]
        for column in (*self.columns, *apart):
            values = pd.Series([None] * len(index), dtype=object)
            if column == "user":
                values = pd.Series(index, dtype=object)
            elif column in known:
                values = pd.Series([known[column]] * len(index), dtype=object)
            elif column in self.table:
                values = self.table[column].reindex(index).reset_index(drop=True)
            cells[column] = values
        inputs = self.encoder.transform(pd.DataFrame(cells), self.columns)
        self._check_values(known, inputs)
        return inputs

    def encode_new(
        self, known: Mapping[str, Any] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Returns the query inputs of one new user.

        Args:
            known: See `encode`.

        Raises:
            ValueError: See `encode`.
        """
        # The table of users has no user `None`, so all other columns are missing.
        inputs = self.encode([None], known)  # type: ignore[list-item]
        if "user" in inputs:
            inputs["user"][:] = UNKNOWN
        return inputs

    def check_user(self, user: str) -> None:
        """Checks that the data or the table of users contains a user.

        Raises:
            ValueError: If neither does.
        """
        if user in self.users or user in self.table.index:
            return
        users = self.users if len(self.users) else self.encoder.vocabulary("user")
        raise ValueError(
            f"There is no user {user!r} among the {len(users):,} users of the run's "
            f"data, such as {', '.join(users[:3])}. For a new user, pass known values "
            "of columns or liked items."
        )

    def users_in(self, table: pd.DataFrame) -> list[str]:
        """Returns the distinct users in the column `user`, in order of appearance.

        Raises:
            ValueError: If the table has no column `user`, or `check_user` fails for one
                of its users.
        """
        if "user" not in table:
            raise DataError(
                f"The rows lack the column 'user'. They have {list(table.columns)}."
            )
        users = list(dict.fromkeys(as_text(user) for user in table["user"].dropna()))
        for user in users:
            self.check_user(user)
        return users

    def _check_columns(self, known: Mapping[str, Any]) -> None:
        names = [name for name in self.columns if name != "user"]
        for column in known:
            if column not in names:
                raise ValueError(
                    f"The model has no column {column!r} of users. It has {names}."
                )

    def _check_values(
        self, known: Mapping[str, Any], inputs: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        for column, value in known.items():
            ids = inputs[column]
            if ids.dtype.kind == "i" and (ids == UNKNOWN).any():
                values = self.encoder.vocabulary(column)
                shown = ", ".join(values[:MAX_SHOWN])
                more = ", ..." if len(values) > MAX_SHOWN else ""
                raise ValueError(
                    f"The training rows have no {column} {value!r}. "
                    f"They have {shown}{more}."
                )
