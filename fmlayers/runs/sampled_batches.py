from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fmlayers._checks import integer
from fmlayers.data.batches import ShuffledBatches
from fmlayers.data.ragged import Batch, Column, length, stacked, take


class SampledBatches(ShuffledBatches):
    """Batches of rated items, each followed by items that its user has not rated.

    For losses that take a rating, of whatever height, as a click: the rows come in
    groups of 1 + `negatives`, the first labelled 1 and the others 0. These are drawn
    evenly from the catalogue, anew each epoch, without the items of the user (one
    who has rated everything gets any).

    Args:
        inputs: Dict of arrays, a row a rating.
        catalogue: Dict of arrays, a row an item: the entries of `inputs` that an item
            brings along, such as its id and its genres.
        items: Integers `(rows,)`, the row of `catalogue` of each rating.
        users: Integers `(rows,)`, at least 0, the user of each rating.
        batch_size: Positive integer, ratings a batch; it has 1 + `negatives` times as
            many rows.
        negatives: Positive integer, items drawn for each rating.
        seed: Integer.
        seen: Optional arrays of users and items, the pairs that are never drawn.
            Defaults to those of `users` and `items`.
        epoch, group_by, groups: As of `ShuffledBatches`.
    """

    def __init__(
        self,
        inputs: Mapping[str, Column],
        catalogue: Mapping[str, Column],
        items: npt.NDArray[np.int64],
        users: npt.NDArray[np.int64],
        batch_size: int,
        *,
        negatives: int,
        seed: int,
        seen: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None,
        epoch: int = 0,
        group_by: Sequence[str] = (),
        groups: int = 1,
    ) -> None:
        super().__init__(
            inputs,
            np.arange(len(items)),
            batch_size,
            seed=seed,
            epoch=epoch,
            group_by=group_by,
            groups=groups,
        )
        self.catalogue = catalogue
        self.items = items
        self.users = users
        self.negatives = integer("negatives", negatives)
        self.num_items = length(next(iter(catalogue.values())))
        seen_users, seen_items = (users, items) if seen is None else seen
        self.seen = np.unique(self._pair(seen_users, seen_items))

    def __getitem__(self, index: int) -> Batch:
        rows = self._rows(index)
        rng = np.random.default_rng((self.seed, self.epoch, index))
        drawn = self._draw(rng, np.repeat(self.users[rows], self.negatives))
        drawn = drawn.reshape(len(rows), self.negatives)
        items = np.concatenate([self.items[rows][:, None], drawn], axis=1).ravel()
        context = np.repeat(rows, 1 + self.negatives)
        labels = np.zeros((len(rows), 1 + self.negatives), np.float32)
        labels[:, 0] = 1.0
        batch = {
            name: take(self.catalogue[name], items)
            if name in self.catalogue
            else take(self.inputs[name], context)
            for name in self.inputs
        }
        return batch, labels.ravel()

    def whole(self) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[Any]]:
        """Returns the epoch's batches as one: rows to validate on.

        Multi-valued inputs must be padded.
        """
        batches = [self[index] for index in range(len(self))]
        inputs = {
            name: np.concatenate([x[name] for x, _ in batches]) for name in self.inputs
        }
        return inputs, np.concatenate([y for _, y in batches])

    def _piece(self, first: int, end: int) -> Batch:
        return stacked([self[index] for index in range(first, end)])

    def _draw(
        self, rng: np.random.Generator, users: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Returns an item for each of `users` that it has not rated."""
        drawn = rng.integers(self.num_items, size=len(users))
        for _ in range(5):
            again = np.flatnonzero(self._is_seen(users, drawn))
            drawn[again] = rng.integers(self.num_items, size=len(again))
        # Those of users who have rated most items, one by one.
        for row in np.flatnonzero(self._is_seen(users, drawn)):
            every = np.arange(self.num_items)
            left = every[~self._is_seen(users[row], every)]
            if len(left):
                drawn[row] = rng.choice(left)
        return drawn

    def _pair(self, users: Any, items: Any) -> npt.NDArray[np.int64]:
        pairs: npt.NDArray[np.int64] = np.asarray(users) * self.num_items + items
        return pairs

    def _is_seen(self, users: Any, items: Any) -> npt.NDArray[np.bool_]:
        pairs = self._pair(users, items)
        places = np.searchsorted(self.seen, pairs)
        found: npt.NDArray[np.bool_] = (
            self.seen[np.minimum(places, len(self.seen) - 1)] == pairs
        )
        return found
