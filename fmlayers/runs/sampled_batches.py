import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from fmlayers._checks import integer
from fmlayers._histories.index import HistoryIndex
from fmlayers._training.array_pipelines import PIECE
from fmlayers.data import ShuffledBatches
from fmlayers.data.batches import (
    endless,
    own_values,
    weight_of_each,
    with_histories,
)
from fmlayers.data.pipelines import stream
from fmlayers.data.ragged import (
    Batch,
    Column,
    batch_of,
    check_lengths,
    length,
    stacked,
    take,
)


class SampledBatches(keras.utils.PyDataset):
    """Batches of rated items, each followed by items that its user has not rated.

    For losses that treat a rating of any value as positive implicit feedback. The rows
    come in groups of 1 + `negatives`: the rated item with the label 1, then the
    negatives with the label 0. The negatives are drawn uniformly from the catalog, anew
    in each epoch, without the items that the user has rated. If a user has rated every
    item, the negatives are any items.

    Args:
        inputs: Dict of arrays, one row per rating.
        catalog: Dict of arrays, one row per item: the entries of `inputs` that describe
            the item, such as its id and its genres.
        items: Integers `(rows,)`, the row in `catalog` of each rating's item.
        users: Integers `(rows,)`, at least 0, the user of each rating.
        batch_size: Positive integer, ratings per batch. A batch has 1 + `negatives`
            times as many rows.
        negatives: Positive integer, negatives sampled per rating.
        seed: Integer.
        seen: Optional arrays of users and items, the pairs that are never drawn.
            Defaults to the pairs in `users` and `items`.
        epoch: See `fmlayers.data.ShuffledBatches`.
        group_by: See `fmlayers.data.ShuffledBatches`.
        groups: See `fmlayers.data.ShuffledBatches`.
        sample_weight: Optional array with the weight of each rating in the loss, which
            is also that of its negatives. Defaults to `None`.
        histories: See `fmlayers.data.ShuffledBatches`.
    """

    def __init__(
        self,
        inputs: Mapping[str, Column],
        catalog: Mapping[str, Column],
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
        sample_weight: npt.NDArray[Any] | None = None,
        histories: Mapping[str, HistoryIndex] | None = None,
    ) -> None:
        super().__init__()
        check_lengths(inputs, len(items))
        self.inputs = inputs
        self.catalog = catalog
        self.items = items
        self.users = users
        self.negatives = integer("negatives", negatives)
        self.sample_weight = weight_of_each(sample_weight, len(items))
        self.num_items = length(next(iter(catalog.values())))
        seen_users, seen_items = (users, items) if seen is None else seen
        self.seen = np.unique(self._pair(seen_users, seen_items))
        # The row numbers of the ratings, batch by batch.
        self._ratings = ShuffledBatches(
            {name: inputs[name] for name in group_by},
            np.arange(len(items)),
            batch_size,
            seed=seed,
            epoch=epoch,
            group_by=group_by,
            groups=groups,
        )
        self.histories = histories or {}

    @property
    def epoch(self) -> int:
        """The number of epochs that came before."""
        return self._ratings.epoch

    def __len__(self) -> int:
        return len(self._ratings)

    def __getitem__(self, index: int) -> Batch:
        rows = self._ratings[index][1]
        rng = np.random.default_rng((self._ratings.seed, self.epoch, index))
        drawn = self._draw(rng, np.repeat(self.users[rows], self.negatives))
        drawn = drawn.reshape(len(rows), self.negatives)
        items = np.concatenate([self.items[rows][:, None], drawn], axis=1).ravel()
        context = np.repeat(rows, 1 + self.negatives)
        labels = np.zeros((len(rows), 1 + self.negatives), np.float32)
        labels[:, 0] = 1.0
        batch = {
            name: take(self.catalog[name], items)
            if name in self.catalog
            else take(self.inputs[name], context)
            for name in self.inputs
        }
        weights = self.sample_weight
        # The negatives belong to no group.
        dealt = self._ratings.dealt
        dealt = {name: dealt[name] for name in dealt if name not in self.catalog}
        return with_histories(
            batch_of(
                batch, labels.ravel(), None if weights is None else weights[context]
            ),
            self.histories,
            own_values(self.histories, batch),
            dealt,
        )

    def on_epoch_end(self) -> None:
        self._ratings.on_epoch_end()

    def stream(self) -> Any:
        """Returns a `tf.data.Dataset`; see `fmlayers.data.ShuffledBatches.stream`."""
        if self.histories:
            return stream(lambda: endless(self._ahead()), self[0], stacked=False)
        return stream(self._pieces, self[0])

    def whole(self) -> Batch:
        """Returns all batches of the epoch as one batch, for validation.

        Multi-valued inputs must be padded.
        """
        batches = [self[index] for index in range(len(self))]
        inputs, *others = zip(*batches, strict=True)
        columns: dict[str, Column] = {
            name: np.concatenate([x[name] for x in inputs]) for name in self.inputs
        }
        return batch_of(columns, *map(np.concatenate, others))

    def _pieces(self) -> Iterator[Batch]:
        ahead = self._ahead()
        while True:
            for first in range(0, len(ahead), PIECE):
                end = min(first + PIECE, len(ahead))
                yield stacked([ahead[index] for index in range(first, end)])
            ahead.on_epoch_end()

    def _ahead(self) -> "SampledBatches":
        """Returns a copy: the stream runs ahead of `fit`, which advances the epoch."""
        ahead = copy.copy(self)
        ahead._ratings = copy.copy(self._ratings)
        return ahead

    def _draw(
        self, rng: np.random.Generator, users: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Returns an item for each of `users` that the user has not rated."""
        drawn = rng.integers(self.num_items, size=len(users))
        for _ in range(5):
            again = np.flatnonzero(self._is_seen(users, drawn))
            drawn[again] = rng.integers(self.num_items, size=len(again))
        # For a user who has rated most items, draw from the remaining ones.
        for row in np.flatnonzero(self._is_seen(users, drawn)):
            every = np.arange(self.num_items)
            unseen = every[~self._is_seen(users[row], every)]
            if len(unseen):
                drawn[row] = rng.choice(unseen)
        return drawn

    def _pair(self, users: Any, items: Any) -> npt.NDArray[np.int64]:
        pairs: npt.NDArray[np.int64] = np.asarray(users) * self.num_items + items
        return pairs

    def _is_seen(self, users: Any, items: Any) -> npt.NDArray[np.bool_]:
        pairs = self._pair(users, items)
        places = np.searchsorted(self.seen, pairs)
        is_seen: npt.NDArray[np.bool_] = (
            self.seen[np.minimum(places, len(self.seen) - 1)] == pairs
        )
        return is_seen
