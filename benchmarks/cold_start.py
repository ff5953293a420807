"""Measures the time of imports, of the command, of loading and of a single prediction.

    python -m benchmarks.cold_start [--rounds 7]

Imports run in fresh processes, and so does `fmlayers train --data synthetic --model mf`
up to the end of its first execution of steps. Loading and predicting run in this
process. Figures are medians of rounds that take turns.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

import fmlayers
from benchmarks._report import print_machine
from benchmarks._timing import medians
from fmlayers.models import MatrixFactorization

# Timed inside the process: timing whole processes is too coarse for milliseconds.
AFTER_KERAS = """
import time, keras
start = time.perf_counter()
import fmlayers.layers
loaded = time.perf_counter()
import fmlayers.models
print(loaded - start, time.perf_counter() - start)
"""
STARTS = {
    "import keras": "import keras",
    "import fmlayers": "import fmlayers",
    "fmlayers --help": "import fmlayers.cli as c, sys; sys.argv[1:] = ['--help']; "
    "c.main()",
}
# Ends the process as soon as the model has trained on a batch (or a few, which are one
# execution).
FIRST_STEP = """
import os, sys, keras
from fmlayers import cli
keras.callbacks.CallbackList.on_train_batch_end = lambda *_: os._exit(0)
cli.main(["train", "--data", "synthetic", "--model", "mf", "--out", sys.argv[1]])
os._exit(1)
"""
SIZES = {"user": 6041, "item": 3707}


def start(code: str, *arguments: str) -> str:
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        check="--help" not in code,
        text=True,
    )
    return process.stdout


def first_step() -> None:
    with tempfile.TemporaryDirectory() as folder:
        start(FIRST_STEP, f"{folder}/run")


def of_a_row(folder: Path) -> dict[str, Callable[[], object]]:
    """Returns ways to predict one row, with a model of the size of MovieLens 1M."""
    import tensorflow as tf

    features = [fmlayers.Categorical(name, size) for name, size in SIZES.items()]
    model = MatrixFactorization(*features, 64, scaler=fmlayers.RatingScaler(1, 5))
    model.save(folder / "model.keras")
    signature = {
        n: keras.InputSpec(shape=(None,), dtype="int64", name=n) for n in SIZES
    }
    model.export(folder / "exported", input_signature=[signature], verbose=False)
    exported = tf.saved_model.load(folder / "exported")
    row = {name: np.array([7]) for name in SIZES}
    tensors = {name: tf.constant(x) for name, x in row.items()}
    return {
        "load model.keras": lambda: keras.models.load_model(folder / "model.keras"),
        "tf.saved_model.load": lambda: tf.saved_model.load(folder / "exported"),
        "model.predict(row)": lambda: model.predict(row, verbose=0),
        "model.predict_on_batch(row)": lambda: model.predict_on_batch(row),
        "model(row)": lambda: np.asarray(model(row)),
        "exported.serve(row)": lambda: [
            output.numpy() for output in exported.serve(tensors).values()
        ],
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args([] if arguments is None else arguments)
    starts = {name: lambda c=code: start(c) for name, code in STARTS.items()}
    starts["fmlayers train, first step"] = first_step
    seconds = medians(starts, options.rounds)
    for name, taken in seconds.items():
        print(f"{name:28}{taken:9.2f} s{taken / seconds['import keras']:8.2f}x")
    after = np.array([start(AFTER_KERAS).split() for _ in range(options.rounds)], float)
    names = "fmlayers.layers, after keras", "fmlayers.models, after keras"
    for name, taken in zip(names, np.median(after, axis=0), strict=True):
        print(f"{name:28}{taken * 1e3:9.1f} ms")
    with tempfile.TemporaryDirectory() as folder:
        ways = of_a_row(Path(folder))
        # Many of each: some take microseconds.
        repeats = {name: 3 if "load" in name else 50 for name in ways}
        runs = {
            name: lambda w=way, n=repeats[name]: [w() for _ in range(n)]
            for name, way in ways.items()
        }
        seconds = medians(runs, options.rounds)
    print(f"\n{'one row, or one model':28}{'ms':>9}")
    for name, taken in seconds.items():
        print(f"{name:28}{taken / repeats[name] * 1e3:9.2f}")


if __name__ == "__main__":
    print_machine()
    main(sys.argv[1:])
