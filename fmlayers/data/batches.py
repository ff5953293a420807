import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from fmlayers._checks import integer
from fmlayers._histories.index import HistoryIndex
from fmlayers._training.array_pipelines import PIECE
from fmlayers.data.pipelines import stream
from fmlayers.data.ragged import Batch, Column, batch_of, check_lengths, take

Rows = npt.NDArray[np.int64]


class ShuffledBatches(keras.utils.PyDataset):
    """Shuffled batches of arrays in memory.

    The order of the rows depends only on `seed` and the epoch, so an interrupted run
    can resume with the batches that it would have seen. All batches have the same
    size, so that XLA compiles a single step: the last batch is filled with the first
    rows of the epoch.

    Pass it to `fit()` on any backend. On TensorFlow, `stream()` provides the same
    batches with less Python overhead.

    A model with a `History` looks up a list of ids for each distinct user and item of
    a batch, so batches of few distinct users and items are cheaper. With `groups`,
    the users and the items are partitioned at random into that many groups each
    epoch, and each batch combines one group of users with one group of items, as far
    as the group sizes allow.

    Args:
        inputs: Dict of arrays with the rows as first axis. A multi-valued feature can
            be a pair of ids and row splits, as returned by `without_padding`.
        targets: Array of targets, such as ratings.
        batch_size: Positive integer, rows per batch. Larger values than the number of
            rows are lowered to it.
        seed: Non-negative integer, the random seed.
        epoch: Non-negative integer, the number of epochs already completed. Defaults
            to 0.
        group_by: Names of the inputs to group by. Defaults to `()`.
        groups: Positive integer, the number of groups. Defaults to 1 (no grouping).
        sample_weight: Optional array with the weight of each row in the loss. The
            batches then have it as their third part, as Keras expects. Defaults to
            `None`.
        histories: Dict from the name of a `History` to its index, the result of
            `history_indexes()` of the model. The batches then bring their histories
            along, which makes training several times as fast. Defaults to `{}`.

    Raises:
        ValueError: If an input and the targets differ in their number of rows, or an
            argument violates its constraint.

    Example:

    >>> genres = fmlayers.data.without_padding(np.array([[1, 2], [3, 0], [0, 0]]))
    >>> inputs = {"user": np.array([1, 2, 1]), "genres": genres}
    >>> ratings = np.array([4.0, 3.0, 5.0], "float32")
    >>> batches = fmlayers.data.ShuffledBatches(inputs, ratings, 2, seed=0)
    >>> len(batches)
    2

    Train with `model.fit(batches, shuffle=False)` or, on TensorFlow, with
    `model.fit(batches.stream(), steps_per_epoch=len(batches), shuffle=False)`.
    """

    def __init__(
        self,
        inputs: Mapping[str, Column],
        targets: npt.NDArray[Any],
        batch_size: int,
        *,
        seed: int,
        epoch: int = 0,
        group_by: Sequence[str] = (),
        groups: int = 1,
        sample_weight: npt.NDArray[Any] | None = None,
        histories: Mapping[str, HistoryIndex] | None = None,
    ) -> None:
        super().__init__()
        check_lengths(inputs, len(targets))
        self.inputs = inputs
        self.targets = targets
        self.sample_weight = weight_of_each(sample_weight, len(targets))
        self.batch_size = min(integer("batch_size", batch_size), len(targets))
        self.seed = integer("seed", seed, "an integer of at least 0", least=0)
        self.epoch = integer("epoch", epoch, "an integer of at least 0", least=0)
        self.group_by = group_by
        self.groups = integer("groups", groups)
        self.histories = histories or {}
        self._own = own_values(self.histories, inputs)
        # The distinct ids of the inputs to group by, and the index of each row's id.
        self._ids = {
            name: np.unique(inputs[name], return_inverse=True)
            for name in (group_by if self.groups > 1 else ())
        }
        self._is_stacked = all(
            index.has_many_keys(self.batch_size * self.groups)
            for index in self.histories.values()
        )
        self._shuffle()

    def __len__(self) -> int:
        return math.ceil(len(self.targets) / self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        return self._take(self._rows(index))

    def on_epoch_end(self) -> None:
        self.epoch += 1
        self._shuffle()

    def stream(self) -> Any:
        """Returns an endless `tf.data.Dataset` of the batches of successive epochs.

        Call `fit()` with `steps_per_epoch=len(batches)` and with `shuffle=False`, to
        avoid a warning of Keras. If the model has `steps_per_execution`, choose a
        divisor of `steps_per_epoch`: otherwise Keras runs more steps per epoch.
        """
        if not self._is_stacked:
            return stream(lambda: endless(copy.copy(self)), self[0], stacked=False)
        return stream(self._pieces, self[0])

    def _pieces(self) -> Iterator[Batch]:
        ahead = copy.copy(self)  # prefetching may run epochs ahead of `fit`
        while True:
            for first in range(0, len(ahead), PIECE):
                yield ahead._piece(first, min(first + PIECE, len(ahead)))
            ahead.on_epoch_end()

    def _piece(self, first: int, end: int) -> Batch:
        """Returns the stacked batches `first` to `end - 1`."""
        return self._take(np.stack([self._rows(index) for index in range(first, end)]))

    def _rows(self, index: int) -> npt.NDArray[np.int64]:
        start = index * self.batch_size
        return self._order[start : start + self.batch_size]

    def _take(self, rows: npt.NDArray[np.int64]) -> Batch:
        inputs = {name: take(x, rows) for name, x in self.inputs.items()}
        weights = self.sample_weight
        batch = batch_of(
            inputs, self.targets[rows], None if weights is None else weights[rows]
        )
        own = {name: x[rows] for name, x in self._own.items()}
        dealt = {} if self._is_stacked else self.dealt
        return with_histories(batch, self.histories, own, dealt)

    def _shuffle(self) -> None:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.targets))
        # The distinct ids of the inputs to group by, and the group of each.
        self.dealt: dict[str, tuple[Rows, Rows]] = {}
        if self.groups > 1:
            block = np.zeros(len(order), np.int64)
            for name, (ids, codes) in self._ids.items():
                dealt = rng.permutation(len(ids)) % self.groups
                self.dealt[name] = ids, dealt
                block = block * self.groups + dealt[codes]
            if len(self.group_by) == 2:
                turn = _turns(self.groups)
            else:
                turn = rng.permutation(self.groups ** len(self.group_by))
            # Numbers of 16 bits or less are sorted without comparisons.
            turn = turn.astype(np.min_scalar_type(len(turn)))
            order = order[np.argsort(turn[block[order]], kind="stable")]
        self._order = np.resize(order, len(self) * self.batch_size)


def _turns(groups: int) -> Rows:
    """Returns the turn of each block, a group of a column with a group of another.

    Successive blocks share a group of either column in turn, so that a batch with rows
    of two blocks has those of three groups and not of four. An epoch has a round for
    every two groups. In each round, all groups appear; the last block of a round and
    the first of the next share none. (With an odd number of groups, neither do the
    blocks of the last round.)
    """
    first, second = np.divmod(np.arange(groups**2), groups)
    shift = (second - first) % groups
    turns: Rows = (shift // 2 * groups + first) * 2 + shift % 2
    return turns


def endless(batches: Any) -> Iterator[Batch]:
    """Yields the batches of a `PyDataset` and of all epochs after it."""
    while True:
        for index in range(len(batches)):
            yield batches[index]
        batches.on_epoch_end()


def own_values(
    histories: Mapping[str, HistoryIndex], inputs: Mapping[str, Any]
) -> dict[str, npt.NDArray[Any]]:
    """Returns the own values of examples, by history, if the inputs have them."""
    return {
        name: index.own_values(inputs[index.key], inputs[index.value])
        for name, index in histories.items()
        if index.value in inputs
    }


def with_histories(
    batch: Batch,
    histories: Mapping[str, HistoryIndex],
    own: Mapping[str, npt.NDArray[Any]],
    dealt: Mapping[str, tuple[Rows, Rows]],
) -> Batch:
    """Returns a batch that brings the histories of its keys along.

    Args:
        batch: The batch.
        histories: Dict from the name of a `History` to its index.
        own: Dict from the name of a `History` to the own values of the batch.
        dealt: Dict from the name of an input to its distinct ids and their groups. A
            batch has all histories of its groups, which it shares with other batches.
    """
    inputs, *others = batch
    prepared = {
        name: index.of_batch(
            inputs[index.key],
            own.get(name),
            index.groups_of(*dealt[index.key]) if index.key in dealt else None,
        )
        for name, index in histories.items()
    }
    return batch_of({**inputs, **prepared}, *others)


def weight_of_each(
    sample_weight: npt.NDArray[Any] | None, rows: int
) -> npt.NDArray[Any] | None:
    """Returns the weights of the rows.

    Raises:
        ValueError: If there is not one weight per row.
    """
    if sample_weight is not None and np.shape(sample_weight) != (rows,):
        raise ValueError(
            f"`sample_weight` must have one weight per target, {rows:,} in all. "
            f"Received: shape {np.shape(sample_weight)}."
        )
    return sample_weight
