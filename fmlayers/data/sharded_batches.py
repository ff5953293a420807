import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmlayers._checks import integer
from fmlayers._training.array_pipelines import PIECE
from fmlayers.data.errors import DataError
from fmlayers.data.pipelines import stream
from fmlayers.data.ragged import Array, Batch, Column, length, take, take_padded
from fmlayers.data.shard_files import ShardFiles


class ShardedBatches:
    """Shuffled batches of data larger than memory, read from Parquet files.

    Each epoch shuffles the row groups of all files, reads `mixed` of them at a time
    and shuffles their rows. The batches depend only on `seed`, `epoch` and `batch`, so
    an interrupted run can resume at any batch. With several workers, the row groups
    are distributed among them anew each epoch. All workers get the same number of
    batches; the rows left over at the end of an epoch are skipped.

    Memory use is a few times the size of `mixed` row groups.

    Args:
        folder: Folder of Parquet files as written by `write_shards`, with columns of
            ids (integers), lists of ids or of their weights, numbers (floats), and
            vectors (lists of a fixed size). The files of `write_shards` are compared
            with its manifest and the checksums of their pages. Parquet files of other
            origin, and those of version 0.1.0, are read without a manifest.
        batch_size: Positive integer, rows per batch of one worker.
        seed: Non-negative integer, the random seed.
        epoch: Non-negative integer, the number of epochs already completed. Defaults
            to 0.
        batch: Non-negative integer, the number of batches already completed in the
            epoch. Defaults to 0.
        target: Name of the target column. Defaults to `"rating"`.
        mixed: Positive integer, the number of row groups shuffled together. Defaults
            to 16.
        worker: Index of this worker, from 0 to `workers - 1`. Defaults to 0.
        workers: Positive integer, the number of workers. Defaults to 1.
        list_length: Optional positive integer. If set, lists of ids are padded with 0
            to this length. Distributed training requires this. Defaults to `None`
            (pairs of ids and row splits).

    Raises:
        DataError: If a file cannot be used (the message names it), if the files
            contain less than one batch per worker, or if a list is longer than
            `list_length`.
        ValueError: If an argument violates its constraint.
        ImportError: If pyarrow is not installed.

    Example:

    >>> import tempfile
    >>> table = pd.DataFrame({"user": [7, 8, 8, 9], "rating": [4.0, 3.0, 5.0, 1.0]})
    >>> encoder = fmlayers.data.Encoder({"user": "categorical"}).fit(table)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rows = fmlayers.data.write_shards(table, folder, encoder)
    ...     batches = fmlayers.data.ShardedBatches(folder, batch_size=2, seed=0)
    ...     rows, len(batches)
    (4, 2)

    Train with `model.fit(batches.stream(), steps_per_epoch=len(batches),
    shuffle=False)`. This works on every backend, since Keras reads TensorFlow's input
    pipelines on all of them.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        batch_size: int,
        *,
        seed: int,
        epoch: int = 0,
        batch: int = 0,
        target: str = "rating",
        mixed: int = 16,
        worker: int = 0,
        workers: int = 1,
        list_length: int | None = None,
    ) -> None:
        if list_length is not None:
            list_length = integer("list_length", list_length)
        batch_size, mixed, workers = (
            integer(name, value, "at least 1")
            for name, value in (
                ("batch_size", batch_size),
                ("mixed", mixed),
                ("workers", workers),
            )
        )
        seed, epoch, batch = (
            integer(name, value, "at least 0", least=0)
            for name, value in (("seed", seed), ("epoch", epoch), ("batch", batch))
        )
        rule = f"one of 0 ... {workers - 1}"
        worker = integer("worker", worker, rule, least=0, most=workers - 1)
        self._files = ShardFiles(Path(folder), target)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = epoch
        self.batch = batch
        self.target = target
        self.mixed = mixed
        self.worker = worker
        self.workers = workers
        self.list_length = list_length
        # In some epoch a worker may get the smallest groups.
        sizes = sorted(group.rows for group in self._files.groups)
        self._batches = sum(sizes[: len(sizes) // workers]) // batch_size
        if self._batches < 1:
            raise DataError(
                f"{folder} contains too few rows for one batch of {batch_size:,} per "
                f"worker ({workers}): {sum(sizes):,} rows in {len(sizes)} row groups. "
                "Lower `batch_size`, or write the shards with a smaller `group_size`."
            )
        if batch >= self._batches:
            raise ValueError(
                f"`batch` must be less than {self._batches:,}, the number of batches "
                f"per epoch. Received: batch={batch}."
            )

    def __len__(self) -> int:
        """Returns the number of batches per epoch and worker."""
        return self._batches

    def stream(self) -> Any:
        """Returns an endless `tf.data.Dataset` of the batches of successive epochs.

        Call `fit()` with `steps_per_epoch=len(batches)` and with `shuffle=False`, to
        avoid a warning of Keras. If the model has `steps_per_execution`, choose a
        divisor of `steps_per_epoch`: otherwise Keras runs more steps per epoch.
        """
        inputs, targets = next(self._pieces())[:2]
        example = {
            name: (x[0][0], x[1][0]) if isinstance(x, tuple) else x[0]
            for name, x in inputs.items()
        }
        return stream(self._pieces, (example, targets[0]))

    def _pieces(self) -> Iterator[Batch]:
        batch = self.batch
        for epoch in itertools.count(self.epoch):
            yield from self._epoch(epoch, batch)
            batch = 0

    def _epoch(self, epoch: int, batch: int) -> Iterator[Batch]:
        """Yields stacks of the batches of an epoch, starting at `batch`."""
        rest, missing = None, len(self) - batch
        for table in self._pools(epoch, batch * self.batch_size):
            columns = table if rest is None else _joined(rest, table)
            rows = np.arange(length(columns[self.target]))
            whole = min(len(rows) // self.batch_size, missing)
            pieces = rows[: whole * self.batch_size].reshape(whole, self.batch_size)
            for start in range(0, whole, PIECE):
                piece = pieces[start : start + PIECE]
                taken: Any = {
                    name: self._taken(name, x, piece) for name, x in columns.items()
                }
                targets = taken.pop(self.target)
                yield taken, targets
            missing -= whole
            if not missing:
                return
            over = rows[whole * self.batch_size :]
            rest = {name: _from(x, over) for name, x in columns.items()}

    def _taken(self, name: str, column: Column, rows: Array) -> Column:
        if self.list_length is None:
            return take(column, rows)
        return take_padded(column, rows, self.list_length, name)

    def _pools(self, epoch: int, skipped: int) -> Iterator[dict[str, Column]]:
        """Yields the shuffled rows of `mixed` row groups at a time.

        Args:
            epoch: Index of the epoch.
            skipped: Number of rows to skip at the start of the epoch.
        """
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self._files.groups))[self.worker :: self.workers]
        for start in range(0, len(order), self.mixed):
            groups = [self._files.groups[i] for i in order[start : start + self.mixed]]
            size = sum(group.rows for group in groups)
            if skipped >= size:
                skipped -= size
                continue
            rng = np.random.default_rng((self.seed, epoch, self.worker, start))
            rows = rng.permutation(size)[skipped:]
            skipped = 0
            yield self._files.read(groups, rows)


def _from(column: Column, rows: npt.NDArray[np.int64]) -> Column:
    """Returns the last `len(rows)` rows of a column, whose indices are `rows`."""
    if not isinstance(column, tuple):
        return column[rows]
    values, splits = column
    splits = splits[len(splits) - 1 - len(rows) :]
    return values[splits[0] :], splits - splits[0]


def _joined(first: dict[str, Column], second: dict[str, Column]) -> dict[str, Column]:
    joined: dict[str, Column] = {}
    for name, one in first.items():
        other = second[name]
        if isinstance(one, tuple) and isinstance(other, tuple):
            splits = np.concatenate([one[1], one[1][-1] + other[1][1:]])
            joined[name] = np.concatenate([one[0], other[0]]), splits
        else:
            joined[name] = np.concatenate([one, other])
    return joined
