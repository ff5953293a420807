import numpy as np
import numpy.typing as npt


class SeenItems:
    """The items that each user has seen, as positions that `TopN` can exclude.

    They are stored in a single array, sorted by user.

    Args:
        users: Integers from 0 to `num_users - 1` of shape `(rows,)`, the user of each
            rating.
        items: Integers of shape `(rows,)`, the position of each rated item in the
            catalog, negative for an item that is not in the catalog.
        num_users: Positive integer, the number of users.

    Raises:
        ValueError: If a user is out of range, or `users` and `items` differ in length.

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
                "`users` and `items` must be one-dimensional, of the same length. "
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
        """Returns the positions of the items of a user, in the order of the ratings."""
        return self._items[self._starts[user] : self._starts[user + 1]]

    def padded(self, users: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """Returns the items of several users, padded to the same length.

        Args:
            users: Integers of shape `(batch,)`, with -1 for an unknown user, who has
                seen no items.

        Returns:
            Positions of shape `(batch, length)`, padded with -1. The length is 0 or a
            power of two, which limits the number of shapes that compiled code meets.
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
