"""A biased factorization machine in PyTorch, with SparseAdam.

`Worker` runs this module as a program.
"""

import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


class TorchFM:
    """A factorization machine of id columns and, after them, numeric columns.

    Args:
        sizes: Number of ids of each id column.
        dim: Embedding dimension.
        rate: Learning rate.
        numbers: Number of numeric columns.
    """

    def __init__(
        self, sizes: Sequence[int], dim: int, rate: float = 0.001, numbers: int = 0
    ) -> None:
        import torch
        from torch import nn

        self.vectors = [nn.Embedding(size, dim, sparse=True) for size in sizes]
        self.linear = [nn.Embedding(size, 1, sparse=True) for size in sizes]
        self.bias = nn.Parameter(torch.zeros(1))
        self.factors = nn.Parameter(0.01 * torch.randn(numbers, dim))
        self.slopes = nn.Parameter(torch.zeros(numbers))
        for table in self.vectors:
            nn.init.normal_(table.weight, std=0.01)
        for table in self.linear:
            nn.init.zeros_(table.weight)
        tables = [t.weight for t in (*self.vectors, *self.linear)]
        self.optimizers = [
            torch.optim.SparseAdam(tables, lr=rate),
            torch.optim.Adam([self.bias, self.factors, self.slopes], lr=rate),
        ]

    def score(self, ids: Any, numbers: Any = None) -> Any:
        """Returns the scores `(batch,)` of ids and numbers, both `(batch, fields)`."""
        import torch

        columns = ids.unbind(1)
        lookups = zip(self.vectors, columns, strict=True)
        v = torch.stack([table(column) for table, column in lookups], 1)
        lookups = zip(self.linear, columns, strict=True)
        first = self.bias + sum(t(x)[:, 0] for t, x in lookups)
        if numbers is not None:
            v = torch.cat([v, numbers[:, :, None] * self.factors], 1)
            first = first + numbers @ self.slopes
        pairs = 0.5 * (v.sum(1).square() - v.square().sum(1)).sum(1)
        return first + pairs

    def epoch(self, ids: Any, ratings: Any, batch: int, numbers: Any = None) -> None:
        """Trains on all rows once, in a random order."""
        import torch

        for rows in torch.randperm(len(ids)).split(batch):
            dense = None if numbers is None else numbers[rows]
            loss = (self.score(ids[rows], dense) - ratings[rows]).square().mean()
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in self.optimizers:
                optimizer.step()


class Worker:
    """Trains in a separate process, since TensorFlow's threads slow PyTorch down.

    Args:
        ids: Integers `(rows, fields)`.
        ratings: Float32 array `(rows,)`.
        sizes: Number of rows of each table.
        dim: Embedding dimension.
        batch: Batch size.
        numbers: Optional float32 array `(rows, numeric fields)`.
    """

    def __init__(
        self,
        ids: Any,
        ratings: Any,
        sizes: Sequence[int],
        dim: int,
        batch: int,
        numbers: Any = None,
    ) -> None:
        arrays = {"ids": ids, "ratings": ratings, "sizes": sizes}
        if numbers is not None:
            arrays["numbers"] = numbers
        with tempfile.NamedTemporaryFile(suffix=".npz", delete=False) as file:
            np.savez(file, **arrays)
        arguments = [file.name, str(dim), str(batch)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks._torch_fm", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        # It ends with the end of its input.
        weakref.finalize(self, self.process.__exit__, None, None, None)

    def epoch(self) -> float:
        """Trains for an epoch, and returns its CPU time in seconds."""
        pipes = self.process.stdin, self.process.stdout
        print(file=pipes[0], flush=True)
        line = pipes[1].readline()
        if not line:
            raise RuntimeError("The process of PyTorch has ended.")
        return float(line)


def main(path: str, dim: str, batch: str) -> None:
    import torch

    # On a busy machine, several threads wait for each other.
    torch.set_num_threads(1)
    with np.load(path) as file:
        arrays = {name: torch.as_tensor(file[name]) for name in file.files}
    Path(path).unlink()
    numbers = arrays.get("numbers")
    machine = TorchFM(
        arrays["sizes"].tolist(),
        int(dim),
        numbers=0 if numbers is None else numbers.shape[1],
    )
    for _ in sys.stdin:
        start = time.process_time()
        machine.epoch(arrays["ids"], arrays["ratings"], int(batch), numbers)
        print(time.process_time() - start, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
