"""Measures `model.fit` on arrays of a small table, as most users write it.

    python -m benchmarks.small_tables [--rows 69000] [--batch 1024] [--epochs 10]

The table is generated, in the shape of Frappe: ten categorical columns and a label. All
models are factorization machines with 16 dimensions. The first call of `fit` includes
tracing and compilation. The others take turns and are compared by the
medians of their CPU time and time per step. modern-fm is measured if it is installed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

import fmlayers
from benchmarks._report import print_machine
from fmlayers.models import FactorizationMachine

SIZES = (957, 4082, 7, 7, 2, 3, 2, 9, 80, 233)
DIM = 16
LOSS = keras.losses.BinaryCrossentropy(from_logits=True)
# Trains for a number of epochs.
Fit = Callable[[int], object]


def names() -> list[str]:
    return [f"column_{i}" for i in range(len(SIZES))]


def generated(rows: int) -> tuple[dict[str, Any], Any]:
    rng = np.random.default_rng(0)
    inputs = {
        name: rng.integers(0, size, rows)
        for name, size in zip(names(), SIZES, strict=True)
    }
    return inputs, rng.integers(0, 2, rows).astype(np.float32)


def of_keras() -> keras.Model:
    inputs = {name: keras.Input((), name=name, dtype="int64") for name in names()}
    columns = list(zip(inputs.values(), SIZES, strict=True))
    vectors = ops.stack(
        [keras.layers.Embedding(size, DIM)(x) for x, size in columns], axis=1
    )
    weights = [keras.layers.Embedding(size, 1)(x) for x, size in columns]
    square = ops.square(ops.sum(vectors, axis=1))
    pairs = ops.sum(square - ops.sum(ops.square(vectors), axis=1), 1, keepdims=True)
    model = keras.Model(inputs, ops.sum(ops.stack(weights), axis=0) + pairs / 2)
    model.compile(keras.optimizers.Adam(), loss=LOSS)
    return model


def of_ours(**options: Any) -> keras.Model:
    features = [
        fmlayers.Categorical(name, size)
        for name, size in zip(names(), SIZES, strict=True)
    ]
    model = FactorizationMachine(features, DIM)
    model.compile(fmlayers.optimizers.LazyAdam(), loss=LOSS, **options)
    return model


def fits(rows: int, batch: int) -> dict[str, Fit]:
    inputs, labels = generated(rows)
    arguments = {"batch_size": batch, "verbose": 0}
    batches = fmlayers.data.ShuffledBatches(inputs, labels, batch, seed=0)
    steps = len(batches)
    by_keras, as_written = of_ours(), of_ours()
    at_best = of_ours(jit_compile=True, steps_per_execution=min(steps, 32))
    plain = of_keras()
    ways: dict[str, Fit] = {
        "Keras Embedding, Adam": lambda n: plain.fit(
            inputs, labels, epochs=n, **arguments
        ),
        "fmlayers, keras.Model.fit": lambda n: keras.Model.fit(
            by_keras, inputs, labels, epochs=n, **arguments
        ),
        "fmlayers, as written": lambda n: as_written.fit(
            inputs, labels, epochs=n, **arguments
        ),
        "fmlayers, XLA and a stream": lambda n: at_best.fit(
            batches.stream(), epochs=n, steps_per_epoch=steps, shuffle=False, verbose=0
        ),
    }
    try:
        from modern_fm import FMClassifier
    except ImportError:
        return ways
    from scipy.sparse import csr_matrix

    starts = np.cumsum([0, *SIZES[:-1]])
    ids = np.stack([inputs[name] for name in names()], axis=1) + starts
    rows_of = np.arange(0, ids.size + 1, len(SIZES))
    x = csr_matrix((np.ones(ids.size), ids.ravel(), rows_of), (rows, sum(SIZES)))
    ways["modern-fm, AdaGrad"] = lambda n: FMClassifier(
        n_factors=DIM, optimizer="adagrad", batch_size=batch, max_iter=n
    ).fit(x, labels)
    return ways


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=69_000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args([] if arguments is None else arguments)
    steps = options.epochs * -(-options.rows // options.batch)
    ways = fits(options.rows, options.batch)
    firsts, cpu, wall = {}, {}, {}
    for name, fit in ways.items():
        start = time.process_time()
        fit(options.epochs)
        firsts[name], cpu[name], wall[name] = time.process_time() - start, [], []
    for _ in range(options.rounds):
        for name, fit in ways.items():
            start, started = time.process_time(), time.perf_counter()
            fit(options.epochs)
            cpu[name].append((time.process_time() - start) / steps * 1e3)
            wall[name].append((time.perf_counter() - started) / steps * 1e3)
    print(f"{'':28}{'first fit, CPU s':>18}{'CPU ms/step':>13}{'ms/step':>9}")
    for name in ways:
        print(
            f"{name:28}{firsts[name]:18.2f}{statistics.median(cpu[name]):13.2f}"
            f"{statistics.median(wall[name]):9.2f}"
        )


if __name__ == "__main__":
    print_machine()
    main(sys.argv[1:])
