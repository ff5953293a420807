"""Compares training speed with batches from arrays, streams and files, padded or not.

    python -m benchmarks.batches

Trains a factorization machine with 16 dimensions on a million rows, with a batch size
of 8192, XLA and 32 steps per execution. "Ready" batches are formed in advance and kept
in memory, so they show the time of training alone. Figures are medians of epochs that
take turns.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import fmlayers
from benchmarks._timing import medians
from fmlayers.data import Encoder, ShardedBatches, ShuffledBatches, write_shards
from fmlayers.models import FactorizationMachine

ROWS, BATCH, DIM = 128 * 8192, 8192, 16
LONGEST = 100


def main() -> None:
    print(f"{ROWS:,} rows of user and item, rows per second")
    with tempfile.TemporaryDirectory() as folder:
        report(of_two_ids(ROWS, Path(folder)), ROWS)
    rows = ROWS // 4
    print(f"\n{rows:,} rows of user and 2 ids on average, {LONGEST} at most")
    report(with_lists(rows), rows)


def report(runs: dict[str, Callable[[], object]], rows: int) -> None:
    seconds = medians(runs, rounds=7)
    least = min(seconds.values())
    for name, taken in seconds.items():
        print(f"{name:44}{rows / taken:12,.0f}{taken / least:8.2f} x", flush=True)


def of_two_ids(rows: int, folder: Path) -> dict[str, Callable[[], object]]:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "user": rng.integers(0, 6040, rows),
            "item": rng.integers(0, 3700, rows),
            "rating": rng.normal(size=rows),
        }
    )
    encoder = Encoder({"user": "categorical", "item": "categorical"}).fit(table)
    inputs = encoder.transform(table)
    ratings = table["rating"].to_numpy("float32")
    data = ShuffledBatches(inputs, ratings, BATCH, seed=0)
    write_shards((table[i::4] for i in range(4)), folder, encoder)
    shards = ShardedBatches(folder, BATCH, seed=0)
    ready = data.stream().take(len(data)).cache().repeat()
    features = encoder.features

    def arrays() -> Callable[[], object]:
        model = compiled(features)
        return lambda: model.fit(inputs, ratings, batch_size=BATCH, verbose=0)

    return {
        "ready": fit(features, ready, len(data)),
        "arrays passed to Keras": arrays(),
        "ShuffledBatches": fit(features, data, len(data)),
        "ShuffledBatches.stream()": fit(features, data.stream(), len(data)),
        "ShardedBatches.stream(), from Parquet": fit(
            features, shards.stream(), len(shards)
        ),
    }


def with_lists(rows: int) -> dict[str, Callable[[], object]]:
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(0.5, rows), LONGEST)
    lengths[0] = LONGEST
    ids = np.zeros((rows, LONGEST), np.int32)
    inside = np.arange(LONGEST) < lengths[:, None]
    ids[inside] = rng.integers(1, 1000, int(lengths.sum()))
    user = rng.integers(0, 6040, rows).astype(np.int32)
    ratings = rng.normal(size=rows).astype("float32")
    features = [
        fmlayers.Categorical("user", 6041),
        fmlayers.MultiCategorical("ids", 1000),
    ]

    def run(given: Any) -> Callable[[], object]:
        data = ShuffledBatches({"user": user, "ids": given}, ratings, BATCH, seed=0)
        return fit(features, data.stream(), len(data))

    return {
        f"cut to their first 2, {2 * rows:,} ids": run(ids[:, :2]),
        f"padded, {ids.size:,} ids": run(ids),
        f"without padding, {lengths.sum():,} ids": run(
            fmlayers.data.without_padding(ids)
        ),
    }


def compiled(features: list[Any]) -> FactorizationMachine:
    model = FactorizationMachine(features, DIM)
    model.compile(
        fmlayers.optimizers.LazyAdam(0.003),
        "mse",
        jit_compile=True,
        steps_per_execution=32,
    )
    return model


def fit(features: list[Any], data: Any, steps: int) -> Callable[[], object]:
    model = compiled(features)
    options = {"steps_per_epoch": steps, "shuffle": False, "verbose": 0}

    def run() -> float:
        start = time.perf_counter()
        model.fit(data, **options)
        return time.perf_counter() - start

    return run


if __name__ == "__main__":
    main()
