import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt


class ShuffledBatches(keras.utils.PyDataset):
    """Batches in an order that seed and epoch determine.

    A run that was interrupted thus goes on as it would have. All batches are of one
    size, so that XLA compiles one step: the last is filled up with the first rows
    of the epoch's order.

    Where a model looks up a list for each distinct user and item of a batch (see
    `History`), few of each make the batch cheap: with `groups`, users and items are
    dealt anew each epoch into so many groups, and a batch is of one group of users
    and one of items, as far as the sizes allow.

    Args:
        inputs: Dict of arrays with the rows as first axis.
        targets: Array of the ratings.
        batch_size: Positive integer, rows a batch; no more than there are.
        seed: Integer.
        epoch: Integer, how many epochs came before. Defaults to 0.
        group_by: Names of the inputs to group by. Defaults to none.
        groups: Positive integer. Defaults to 1, batches of any rows.
    """

    def __init__(
        self,
        inputs: Mapping[str, npt.NDArray[Any]],
        targets: npt.NDArray[Any],
        batch_size: int,
        *,
        seed: int,
        epoch: int = 0,
        group_by: Sequence[str] = (),
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.targets = targets
        self.batch_size = min(batch_size, len(targets))
        self.seed = seed
        self.epoch = epoch
        self.group_by = group_by
        self.groups = groups
        self._shuffle()

    def __len__(self) -> int:
        return math.ceil(len(self.targets) / self.batch_size)

    def __getitem__(
        self, index: int
    ) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[Any]]:
        start = index * self.batch_size
        rows = self._order[start : start + self.batch_size]
        return {name: x[rows] for name, x in self.inputs.items()}, self.targets[rows]

    def on_epoch_end(self) -> None:
        self.epoch += 1
        self._shuffle()

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
