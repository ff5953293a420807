"""Runs that the processes of `fmlayers.distributed` train together.

All processes read the same data and form the same batches. Each process trains on its
share of each batch. Process 0 writes the folder of the run, which the others read.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np

from fmlayers import _hosts
from fmlayers._histories.by_host import histories_by_host
from fmlayers._histories.index import BatchHistories
from fmlayers.data.ragged import Batch
from fmlayers.distributed import tables_over_hosts
from fmlayers.distributed.agreement import gathered, process, processes, together
from fmlayers.runs.config import TrainingConfig
from fmlayers.runs.folder import begin, partial_path


def check_config(config: TrainingConfig) -> None:
    """Raises `ValueError` if several devices cannot train such a model together."""
    shares = num_shares()
    if shares == 1:
        return
    multiple = f"a multiple of {shares}, the number of devices"
    rules = {
        "method": (config.method == "gradient", '"gradient"'),
        "batch_size": ((config.batch_size or 0) % shares == 0, multiple),
    }
    for name, (is_supported, rule) in rules.items():
        if not is_supported:
            raise ValueError(
                f"`{name}` must be {rule} if several devices train a model together. "
                f"Received: {name}={getattr(config, name)!r}."
            )


def num_shares() -> int:
    """Returns the number of devices that share a batch."""
    mesh = _hosts.mesh()
    return 1 if mesh is None else int(mesh.size)


def rows_of_batch(batch_size: int, rows: int) -> int:
    """Returns the largest batch size that the devices can share evenly.

    Args:
        batch_size: Integer, the maximum number of rows per batch.
        rows: Integer, the total number of rows.

    Raises:
        ValueError: If there are more devices than rows.
    """
    size = min(batch_size, rows)
    size -= size % num_shares()
    if not size:
        raise ValueError(
            f"The data must have at least one row for each of the {num_shares()} "
            f"devices. Received: {rows} training rows."
        )
    return size


def spread_tables() -> AbstractContextManager[None]:
    """Spreads the large tables of models that are built in the block, in a group."""
    return nullcontext() if _hosts.mesh() is None else tables_over_hosts()


@contextmanager
def folder_of(
    path: Path, config: dict[str, Any], *, resume: bool, overwrite: bool
) -> Iterator[Path | None]:
    """Yields the folder to train in, which process 0 creates.

    See `fmlayers.runs.folder.begin`.
    """
    with ExitStack() as stack:

        def enter() -> Path | None:
            if not _hosts.is_first():
                return None
            folder = begin(path, config, resume=resume, overwrite=overwrite)
            return stack.enter_context(folder)

        folder = together(enter, "begin the run")
        yield partial_path(path) if of_process_0(folder is not None) else None


def of_process_0(value: bool) -> bool:
    """Returns the value in process 0."""
    return bool(gathered(value)[0])


class ShareOfBatches(keras.utils.PyDataset):
    """The rows of this process in each batch, and its part of the histories.

    Args:
        batches: A dataset whose batches all have the same number of rows.
    """

    def __init__(self, batches: Any) -> None:
        super().__init__()
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        inputs, *others = self.batches[index]
        divided = {name: _divided(x) for name, x in inputs.items()}
        share: Batch = keras.tree.map_structure(_part, (divided, *others))
        return share

    def on_epoch_end(self) -> None:
        self.batches.on_epoch_end()


def _divided(x: Any) -> Any:
    """Returns an entry of a batch in equal parts, one per device."""
    is_history = isinstance(x, BatchHistories)
    return histories_by_host(x, num_shares()) if is_history else x


def _part(x: Any) -> Any:
    """Returns the part of this process among equal parts of an array."""
    size = len(x) // processes()
    return x[process() * size : (process() + 1) * size]


def share_of(batch: Batch, group: int = 1) -> Batch:
    """Returns the rows of this process, padded with repeated rows of weight 0.

    Args:
        batch: Inputs, targets and optional weights.
        group: Integer, the number of consecutive rows to keep together.
    """
    inputs, targets, *others = batch
    count = len(targets)
    unit = group * num_shares() // processes()
    size = -(-count // (unit * processes())) * unit
    rows = process() * size + np.arange(size)
    weights = np.asarray(others[0] if others else np.ones(count), np.float32)
    # Whole groups are repeated.
    kept = np.where(rows < count, rows, rows % group)
    share = keras.tree.map_structure(lambda x: x[kept], (inputs, targets, weights))
    share[2][rows >= count] = 0.0
    result: Batch = share
    return result
