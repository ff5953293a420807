"""A biased factorization machine of two fields in PyTorch, with SparseAdam.

`Worker` runs this module as a program.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


class TorchFM:
    def __init__(self, sizes: Sequence[int], dim: int, rate: float = 0.001) -> None:
        import torch
        from torch import nn

        self.vectors = [nn.Embedding(size, dim, sparse=True) for size in sizes]
        self.linear = [nn.Embedding(size, 1, sparse=True) for size in sizes]
        self.bias = nn.Parameter(torch.zeros(1))
        for table in self.vectors:
            nn.init.normal_(table.weight, std=0.01)
        for table in self.linear:
            nn.init.zeros_(table.weight)
        tables = [t.weight for t in (*self.vectors, *self.linear)]
        self.optimizers = [
            torch.optim.SparseAdam(tables, lr=rate),
            torch.optim.Adam([self.bias], lr=rate),
        ]

    def score(self, ids: Any) -> Any:
        """Returns the scores `(batch,)` of ids `(batch, 2)`."""
        import torch

        columns = ids.unbind(1)
        lookups = zip(self.vectors, columns, strict=True)
        v = torch.stack([table(column) for table, column in lookups], 1)
        pairs = 0.5 * (v.sum(1).square() - v.square().sum(1)).sum(1)
        lookups = zip(self.linear, columns, strict=True)
        return self.bias + sum(t(x)[:, 0] for t, x in lookups) + pairs

    def epoch(self, ids: Any, ratings: Any, batch: int) -> None:
        """Trains on all rows once, in a random order."""
        import torch

        for rows in torch.randperm(len(ids)).split(batch):
            loss = (self.score(ids[rows]) - ratings[rows]).square().mean()
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in self.optimizers:
                optimizer.step()


class Worker:
    """Trains in a separate process, since TensorFlow's threads slow PyTorch down.

    Args:
        ids: Integers `(rows, 2)`.
        ratings: Float32 array `(rows,)`.
        sizes: Number of rows of each of the two tables.
        dim: Embedding dimension.
        batch: Batch size.
    """

    def __init__(
        self, ids: Any, ratings: Any, sizes: Sequence[int], dim: int, batch: int
    ) -> None:
        with tempfile.NamedTemporaryFile(suffix=".npz", delete=False) as file:
            np.savez(file, ids=ids, ratings=ratings, sizes=sizes)
        arguments = [file.name, str(dim), str(batch)]
        self.process = subprocess.Popen(  # ends with the end of its input
            [sys.executable, "-m", "benchmarks._torch_fm", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def epoch(self) -> None:
        pipes = self.process.stdin, self.process.stdout
        print(file=pipes[0], flush=True)
        if not pipes[1].readline():
            raise RuntimeError("The process of PyTorch has ended.")


def main(path: str, dim: str, batch: str) -> None:
    import torch

    with np.load(path) as arrays:
        ids, ratings = (torch.as_tensor(arrays[name]) for name in ("ids", "ratings"))
        machine = TorchFM(arrays["sizes"].tolist(), int(dim))
    Path(path).unlink()
    for _ in sys.stdin:
        machine.epoch(ids, ratings, int(batch))
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
