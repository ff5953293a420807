"""Compares training speed by rows in the tables: fmlayers, Keras and PyTorch.

    python -m benchmarks.training [--rows 10000 1100000 ...] [--torch]
        [--json FILE]

The model is a factorization machine of two fields with 16 dimensions, a batch size of
8192 and uniform ids. The optimizers of fmlayers use XLA and 64 steps per execution. The
data is prepared in advance. Speeds are in examples per second, as medians of rounds in
which all take turns. PyTorch runs in a separate process; `benchmarks/peers.txt`
installs it.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import fmlayers
from benchmarks._report import parser_with_json, print_machine, write_figures
from benchmarks._torch_fm import Worker
from fmlayers._training.array_pipelines import without_tuning
from fmlayers.models import FactorizationMachine

DIM, BATCH = 16, 8192
ROWS = (10_000, 100_000, 1_100_000, 11_000_000)
FAST = {"jit_compile": True, "steps_per_execution": 64}
DEFAULTS: dict[str, Any] = {}  # of Keras, which leaves XLA off on a CPU
RUNS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "LazyAdam": (lambda: fmlayers.optimizers.LazyAdam(0.003), FAST),
    "Adagrad": (lambda: fmlayers.optimizers.Adagrad(0.05), FAST),
    "LazyAdam, row-wise": (
        lambda: fmlayers.optimizers.LazyAdam(0.003, row_wise=True),
        FAST,
    ),
    "Adagrad, row-wise": (
        lambda: fmlayers.optimizers.Adagrad(0.05, row_wise=True),
        FAST,
    ),
    "Keras Adam": (lambda: keras.optimizers.Adam(0.003), DEFAULTS),
    "Keras Adam, XLA": (lambda: keras.optimizers.Adam(0.003), {"jit_compile": True}),
    "Keras Adagrad": (lambda: keras.optimizers.Adagrad(0.05), DEFAULTS),
}


def prepare(name: str, sizes: dict[str, int]) -> tuple[Callable[[], float], int]:
    """Returns a function that trains some steps, and its number of examples."""
    make, compiled = RUNS[name]
    steps = compiled.get("steps_per_execution", 4)
    features = [fmlayers.Categorical(n, size) for n, size in sizes.items()]
    model = FactorizationMachine(features, DIM)
    model.compile(make(), loss="mse", **compiled)
    rng = np.random.default_rng(0)
    rows = steps * BATCH
    inputs = {n: rng.integers(1, size, rows) for n, size in sizes.items()}
    ratings = rng.normal(size=rows).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((inputs, ratings)).batch(
        BATCH, drop_remainder=True
    )
    data = without_tuning(data.cache().prefetch(8))

    def run() -> float:
        start = time.perf_counter()
        model.fit(data, verbose=0, shuffle=False)
        return time.perf_counter() - start

    run()
    return run, rows


def prepare_torch(sizes: dict[str, int]) -> tuple[Callable[[], float], int]:
    rows = 16 * BATCH
    rng = np.random.default_rng(0)
    worker = Worker(
        np.stack([rng.integers(1, size, rows) for size in sizes.values()], axis=1),
        rng.normal(size=rows).astype("float32"),
        [*sizes.values()],
        DIM,
        BATCH,
    )

    def run() -> float:
        start = time.perf_counter()
        worker.epoch()
        return time.perf_counter() - start

    run()
    return run, rows


def main(arguments: list[str] | None = None) -> None:
    parser = parser_with_json()
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch", action="store_true")
    options = parser.parse_args([] if arguments is None else arguments)
    names = [*RUNS, *(["torch SparseAdam"] if options.torch else [])]
    print("Training, examples per second; x: speed of LazyAdam relative to it")
    print(f"{'rows':>12}" + "".join(f"{name:>24}" for name in names))
    speeds: dict[int, dict[str, float]] = {}
    for rows in options.rows:
        sizes = {"user": rows * 10 // 11, "item": rows - rows * 10 // 11}
        runs = {name: prepare(name, sizes) for name in RUNS}
        if options.torch:
            runs["torch SparseAdam"] = prepare_torch(sizes)
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(options.rounds):
            for name in names:
                seconds[name].append(runs[name][0]())
        speed = {n: runs[n][1] / statistics.median(seconds[n]) for n in names}
        speeds[rows] = speed
        cells = [
            f"{speed[n]:,.0f} ({speed['LazyAdam'] / speed[n]:.1f}x)" for n in names
        ]
        print(f"{rows:>12,}" + "".join(f"{cell:>24}" for cell in cells), flush=True)
        del runs
        keras.backend.clear_session()
    write_figures(options.json, speeds)


if __name__ == "__main__":
    import sys

    print_machine()
    main(sys.argv[1:])
