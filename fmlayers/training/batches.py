import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt


class ShuffledBatches(keras.utils.PyDataset):
    """Batches in an order that seed and epoch determine.

    A run that was interrupted thus goes on as it would have. All batches are of one
    size, so that XLA compiles one step: the last is filled up with the first rows
    of the epoch's order.

    Args:
        inputs: Dict of arrays with the rows as first axis.
        targets: Array of the ratings.
        batch_size: Positive integer, rows a batch; no more than there are.
        seed: Integer.
        epoch: Integer, how many epochs came before. Defaults to 0.
    """

    def __init__(
        self,
        inputs: Mapping[str, npt.NDArray[Any]],
        targets: npt.NDArray[Any],
        batch_size: int,
        *,
        seed: int,
        epoch: int = 0,
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.targets = targets
        self.batch_size = min(batch_size, len(targets))
        self.seed = seed
        self.epoch = epoch
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
        order = np.random.default_rng((self.seed, self.epoch)).permutation(
            len(self.targets)
        )
        self._order = np.resize(order, len(self) * self.batch_size)
