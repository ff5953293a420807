import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from fmlayers._checks import integer
from fmlayers.data._stream import PIECE, Batch, Column, check_lengths, stream, take


class ShuffledBatches(keras.utils.PyDataset):
    """Batches of arrays in memory, in an order that seed and epoch determine.

    A run that was interrupted thus goes on as it would have. All batches are of one
    size, so that XLA compiles one step: the last is filled up with the first rows
    of the epoch's order.

    `fit` takes it as it is, on every backend. On TensorFlow `stream()` gives the same
    batches with less of Python between them, hence faster.

    Where a model looks up a list for each distinct user and item of a batch (see
    `History`), few of each make the batch cheap: with `groups`, users and items are
    dealt anew each epoch into so many groups, and a batch is of one group of users
    and one of items, as far as the sizes allow.

    Args:
        inputs: Dict of arrays with the rows as first axis, or, for a multi-valued
            feature, of a pair of ids and row splits, as `without_padding` gives.
        targets: Array of the ratings.
        batch_size: Positive integer, rows a batch; no more than there are.
        seed: Integer.
        epoch: Integer, how many epochs came before. Defaults to 0.
        group_by: Names of the inputs to group by. Defaults to none.
        groups: Positive integer. Defaults to 1, batches of any rows.

    Raises:
        ValueError: If an input has not a row for each target, or an argument breaks
            its constraint.

    Example:

    >>> genres = fmlayers.data.without_padding(np.array([[1, 2], [3, 0], [0, 0]]))
    >>> inputs = {"user": np.array([1, 2, 1]), "genres": genres}
    >>> ratings = np.array([4.0, 3.0, 5.0], "float32")
    >>> batches = fmlayers.data.ShuffledBatches(inputs, ratings, 2, seed=0)
    >>> len(batches)
    2

    Then `model.fit(batches, shuffle=False)`, or, on TensorFlow,
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
    ) -> None:
        super().__init__()
        check_lengths(inputs, len(targets))
        self.inputs = inputs
        self.targets = targets
        self.batch_size = min(integer("batch_size", batch_size), len(targets))
        self.seed = integer("seed", seed, "an integer of at least 0", least=0)
        self.epoch = integer("epoch", epoch, "an integer of at least 0", least=0)
        self.group_by = group_by
        self.groups = integer("groups", groups)
        self._shuffle()

    def __len__(self) -> int:
        return math.ceil(len(self.targets) / self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        return self._take(self._rows(index))

    def on_epoch_end(self) -> None:
        self.epoch += 1
        self._shuffle()

    def stream(self) -> Any:
        """Returns a `tf.data.Dataset` of the batches, epoch after epoch without end.

        Give `fit` its `steps_per_epoch`, `len` of this, and `shuffle=False`, since
        Keras warns otherwise. A `steps_per_execution` of the model should divide it,
        or epochs are that much longer.
        """
        return stream(self._pieces, self[0])

    def _pieces(self) -> Iterator[Batch]:
        ahead = copy.copy(self)  # by some epochs, perhaps: this one's state is fit's
        while True:
            for first in range(0, len(ahead), PIECE):
                yield ahead._piece(first, min(first + PIECE, len(ahead)))
            ahead.on_epoch_end()

    def _piece(self, first: int, end: int) -> Batch:
        """Returns the batches from `first` to `end`, stacked."""
        return self._take(np.stack([self._rows(index) for index in range(first, end)]))

    def _rows(self, index: int) -> npt.NDArray[np.int64]:
        start = index * self.batch_size
        return self._order[start : start + self.batch_size]

    def _take(self, rows: npt.NDArray[np.int64]) -> Batch:
        return {n: take(x, rows) for n, x in self.inputs.items()}, self.targets[rows]

    def _shuffle(self) -> None:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.targets))
        if self.groups > 1:
            block = np.zeros(len(order), np.int64)
            for name in self.group_by:
                ids, codes = np.unique(self.inputs[name], return_inverse=True)
                dealt = rng.permutation(len(ids)) % self.groups
                block = block * self.groups + dealt[codes]
            turn = rng.permutation(self.groups ** len(self.group_by))
            order = order[np.argsort(turn[block[order]], kind="stable")]
        self._order = np.resize(order, len(self) * self.batch_size)
