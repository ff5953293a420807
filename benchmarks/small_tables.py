"""Measures `model.fit` on arrays of a small table, as most users write it.

    [FMLAYERS_DATA=folder] python -m benchmarks.small_tables [--rows 69000]
        [--batch 1024] [--epochs 10] [--rounds 3]

The table is generated, in the shape of Frappe: ten categorical columns and a label. All
models are factorization machines with 16 dimensions, without L2. "Functional" is a
`keras.Model` of our layers. The first call of `fit` includes tracing and compilation.
The others take turns and are compared by the medians of their CPU time and time per
step. modern-fm is measured if it is installed.

With `FMLAYERS_DATA`, it also measures the time from arrays to a trained model, and the
log loss on test rows, for three random splits of `frappe/` with the same columns. The
options and the number of epochs were chosen on validation rows of the first split.
"""

import argparse
import os
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
from fmlayers.metrics import log_loss
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
    model = FactorizationMachine(features, DIM, l2=0.0, linear_l2=0.0)
    model.compile(fmlayers.optimizers.LazyAdam(), loss=LOSS, **options)
    return model


def of_layers() -> keras.Model:
    """Returns a functional model, which trains with the `fit` of Keras."""
    features = [
        fmlayers.Categorical(name, size)
        for name, size in zip(names(), SIZES, strict=True)
    ]
    inputs = {feature.name: feature.keras_input() for feature in features}
    weights = fmlayers.FeatureEmbedding(features, 1)(inputs)
    vectors = fmlayers.FeatureEmbedding(features, DIM)(inputs)
    pairs = fmlayers.FMInteraction()(vectors)
    model = keras.Model(inputs, ops.sum(weights, axis=1) + pairs)
    model.compile(fmlayers.optimizers.LazyAdam(), loss=LOSS)
    return model


def fits(rows: int, batch: int) -> dict[str, Fit]:
    inputs, labels = generated(rows)
    arguments = {"batch_size": batch, "verbose": 0}
    batches = fmlayers.data.ShuffledBatches(inputs, labels, batch, seed=0)
    steps = len(batches)
    composed, as_written = of_layers(), of_ours()
    at_best = of_ours(jit_compile=True, steps_per_execution=min(steps, 32))
    plain = of_keras()
    ways: dict[str, Fit] = {
        "Keras Embedding, Adam": lambda n: plain.fit(
            inputs, labels, epochs=n, **arguments
        ),
        "fmlayers, functional": lambda n: composed.fit(
            inputs, labels, epochs=n, **arguments
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


def on_frappe() -> None:
    """Prints the time of training on Frappe, and the log loss on its test rows."""
    from benchmarks._labels import table

    print(f"\n{'Frappe':28}{'CPU seconds':>18}{'seconds':>13}{'log loss':>9}")
    data = table("frappe")
    for name, train in (("fmlayers", by_fmlayers), ("modern-fm", by_modern_fm)):
        try:
            figures = [train(*data.split(seed), seed) for seed in range(3)]
        except ImportError:
            continue
        cpu, wall, losses = zip(*figures, strict=True)
        print(
            f"{name:28}{statistics.median(cpu):18.2f}{statistics.median(wall):13.2f}"
            f"{statistics.mean(losses):9.4f}"
        )


def by_fmlayers(train: Any, test: Any, seed: int) -> tuple[float, float, float]:
    """Returns CPU seconds and seconds of training, and the log loss on `test`."""
    names = [name for name in train if name != "label"]
    encoder = fmlayers.data.Encoder(dict.fromkeys(names, "categorical")).fit(train)
    inputs, others = encoder.transform(train), encoder.transform(test)
    labels = train["label"].to_numpy(np.float32)
    keras.utils.set_random_seed(seed)
    start, started = time.process_time(), time.perf_counter()
    model = FactorizationMachine(encoder.features, DIM, l2=0.01, linear_l2=0.01)
    model.compile(
        fmlayers.optimizers.Adagrad(0.3, initial_accumulator_value=1e-6), LOSS
    )
    model.fit(inputs, labels, batch_size=1024, epochs=12, verbose=0)
    seconds = time.process_time() - start, time.perf_counter() - started
    scores = model.predict(others, batch_size=8192, verbose=0)[:, 0]
    probabilities = 1 / (1 + np.exp(-scores.astype(np.float64)))
    return *seconds, log_loss(test["label"].to_numpy(), probabilities)


def by_modern_fm(train: Any, test: Any, seed: int) -> tuple[float, float, float]:
    """Returns the same as `by_fmlayers`."""
    from modern_fm import FMClassifier
    from sklearn.preprocessing import OneHotEncoder

    encoder = OneHotEncoder(handle_unknown="ignore").fit(train.drop(columns="label"))
    x, z = (encoder.transform(rows.drop(columns="label")) for rows in (train, test))
    start, started = time.process_time(), time.perf_counter()
    model = FMClassifier(
        n_factors=DIM,
        optimizer="adagrad",
        learning_rate=0.2,
        batch_size=256,
        max_iter=3,
        l2_linear=1e-4,
        l2_factors=1e-4,
        random_state=seed,
    ).fit(x, train["label"].to_numpy())
    seconds = time.process_time() - start, time.perf_counter() - started
    return *seconds, log_loss(test["label"].to_numpy(), model.predict_proba(z)[:, 1])


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
    if "FMLAYERS_DATA" in os.environ:
        on_frappe()


if __name__ == "__main__":
    print_machine()
    main(sys.argv[1:])
