import numpy as np
import numpy.typing as npt


class SeenItems:
    """The items of each user, as the positions that `TopN` is to exclude.

    Kept as one array of items, sorted by user, and where each user's begin.

    Args:
        users: Integers `(rows,)` from 0 to `num_users` - 1, the user of each rating.
        items: Integers `(rows,)`, the item's position in the catalogue; negative for
            an item that is not in it.
        num_users: Positive integer.

    Raises:
        ValueError: If a user is out of range or the lengths differ.

    Example:

    >>> seen = fmlayers.retrieval.SeenItems([1, 0, 1, 1], [7, 2, 5, -1], num_users=3)
    >>> seen.padded([1, 2])
    array([[ 7,  5],
           [-1, -1]], dtype=int32)
    """

    def __init__(
        self, users: npt.ArrayLike, items: npt.ArrayLike, num_users: int
    ) -> None:
        users, items = np.asarray(users, "int64"), np.asarray(items, "int32")
        if users.shape != items.shape or users.ndim != 1:
            raise ValueError(
                "`users` and `items` must be of one length. "
                f"Received: shapes {users.shape} and {items.shape}."
            )
        if users.size and not 0 <= users.min() <= users.max() < num_users:
            raise ValueError(
                f"`users` must be from 0 to {num_users - 1}. "
                f"Received: {users.min()} to {users.max()}."
            )
        users, items = users[items >= 0], items[items >= 0]
        self._items = items[np.argsort(users, kind="stable")]
        counts = np.bincount(users, minlength=num_users)
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    def of(self, user: int) -> npt.NDArray[np.int32]:
        """Returns the positions of a user's items, in the order of the rows."""
        return self._items[self._starts[user] : self._starts[user + 1]]

    def padded(self, users: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """Returns the items of some users `(users, length)`, padded with -1.

        The length is a power of two, so that compiled code meets few shapes; 0 where
        none has any.

        Args:
            users: Integers, each a user; -1 for one of whom nothing is known.
        """
        users = np.asarray(users, "int64")
        starts = self._starts[users]
        counts = np.where(users < 0, 0, self._starts[users + 1] - starts)
        longest = int(counts.max(initial=0))
        length = 1 << (longest - 1).bit_length() if longest else 0
        columns = np.arange(length)
        inside = columns < counts[:, None]
        places = np.where(inside, starts[:, None] + columns, 0)
        if not length:
            return np.empty((len(users), 0), "int32")
        return np.where(inside, self._items[places], -1).astype("int32")
