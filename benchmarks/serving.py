"""Compares exports: speed, file size, and the error of their scores.

    FMLAYERS_DATA=folder python -m benchmarks.serving [RUN]

RUN is a run. If omitted, a factorization machine of user, item, age, sex, occupation,
year and genres with 16 dimensions is trained for one epoch on MovieLens 1M, or on
generated ratings without `FMLAYERS_DATA`.

Keras and the exports score one row and 1,000 rows. They take turns in one process, with
ids as NumPy arrays and scores as NumPy arrays. ONNX Runtime and LiteRT use two threads.
Two more tables compare the file sizes and errors of the weight types, and a usearch
index of 100,000 items with the exact search of `TopN`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

import fmlayers
from benchmarks._report import print_machine
from benchmarks._timing import medians
from fmlayers.export import item_vectors, query_vectors
from fmlayers.models import MatrixFactorization
from fmlayers.retrieval import TopN
from fmlayers.runs import Run

TRAIN = [sys.executable, "-m", "fmlayers.cli", "train", "--model", "fm"]
TRAIN += ["--max-epochs", "1", "--no-refit", "--dim", "16"]
CANDIDATES = 1000
ITEMS, QUERIES, K = 100_000, 256, 25
SUFFIXES = {"litert": ".tflite", "onnx": ".onnx"}
Score = Callable[[dict[str, Any]], Any]


def of_saved_model(path: Path) -> Score:
    import tensorflow as tf

    run = tf.saved_model.load(str(path)).signatures["serving_default"]
    return lambda x: run(**{n: tf.constant(v) for n, v in x.items()})["score"].numpy()


def of_litert(path: Path) -> Score:
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(path), num_threads=2).get_signature_runner()
    return lambda x: run(**x)["score"]


def of_onnx(path: Path) -> Score:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(path, options)
    return lambda x: session.run(["score"], x)[0]


LOADERS = {"litert": of_litert, "onnx": of_onnx}


def candidates(run: Run, count: int) -> dict[str, Any]:
    """Returns the inputs of one user and several items, as in an application."""
    import pandas as pd

    users, items = (run.encoder.vocabulary(name) for name in ("user", "item"))
    table = pd.DataFrame({"user": users[:1] * count, "item": (items * count)[:count]})
    for column in set(run.encoder.columns) - {"user", "item"}:
        sides = [run.side_table(name) for name in ("users", "items")]
        if all(side is None or column not in side for side in sides):
            table[column] = None
    inputs = run.inputs(table)
    return {
        name: x if x.dtype == np.float32 else x.astype("int64")
        for name, x in inputs.items()
    }


def of_a_run(path: Path, folder: Path) -> None:
    run = Run(path)
    model: Any = run.model
    run.export(folder / "served")
    for format, suffix in SUFFIXES.items():
        run.export(folder / f"float32{suffix}", format)
    scorers: dict[str, Score] = {
        "Keras, predict": lambda x: model.predict(x, verbose=0),
        "Keras, called": lambda x: keras.ops.convert_to_numpy(model(x)),
        "SavedModel": of_saved_model(folder / "served"),
        "LiteRT": of_litert(folder / "float32.tflite"),
        "ONNX Runtime": of_onnx(folder / "float32.onnx"),
    }
    found = {}
    for count in (1, CANDIDATES):
        inputs = candidates(run, count)
        runs = {name: lambda s=s, x=inputs: s(x) for name, s in scorers.items()}
        found[count] = medians(runs, rounds=51)
    names = ", ".join(run.encoder.columns)
    print(f"{type(model).__name__} of {names}; {model.count_params():,} parameters")
    print(f"{'':18}{'1 row, ms':>12}{'1,000, ms':>12}{'rows/s':>14}{'speedup':>12}")
    for name in scorers:
        one, many = (found[count][name] for count in (1, CANDIDATES))
        ratio = found[1]["Keras, predict"] / one
        print(
            f"{name:18}{one * 1e3:12.3f}{many * 1e3:12.2f}{CANDIDATES / many:14,.0f}"
            f"{ratio:11.0f}x"
        )
    inputs = candidates(run, CANDIDATES)
    expected = model.score(inputs).numpy()
    print(f"\n{'':18}{'weights':>10}{'MB':>8}{'largest error':>16}{'error, RMS':>12}")
    for format, suffix in SUFFIXES.items():
        for weights in ("float32", "float16", "int8"):
            file = folder / f"{weights}{suffix}"
            if not file.exists():
                run.export(file, format, weights=weights)  # type: ignore[arg-type]
            errors = LOADERS[format](file)(inputs) - expected
            print(
                f"{format:18}{weights:>10}{file.stat().st_size / 2**20:8.2f}"
                f"{np.abs(errors).max():16.1e}{np.sqrt(np.mean(errors**2)):12.1e}"
            )


def of_an_index(dim: int) -> None:
    from docs.examples.nearest import build, find

    rng = np.random.default_rng(0)
    features = [fmlayers.Categorical("user", QUERIES), fmlayers.Categorical("item", 2)]
    model = MatrixFactorization(*features, dim, embeddings_initializer="random_normal")
    top = TopN(model, ["item"], ITEMS, K)
    # Items around common themes, like movies: independent items have no near neighbors.
    themes = rng.normal(size=(128, dim))
    vectors = themes[rng.integers(0, 128, ITEMS)] + 0.5 * rng.normal(size=(ITEMS, dim))
    top.item_vectors.assign(vectors.astype("float32"))
    top.item_constants.assign(rng.normal(scale=0.5, size=ITEMS).astype("float32"))
    users = themes[rng.integers(0, 128, QUERIES + 1)]
    users = users + 0.5 * rng.normal(size=(QUERIES + 1, dim))
    model.factors.tables["user"].assign(users.astype("float32"))
    inputs = {"user": np.arange(QUERIES)}
    index = build(item_vectors(top))
    queries = keras.ops.convert_to_numpy(query_vectors(top, inputs)[0])
    taken = medians(
        {"index": lambda: find(index, queries, K), "TopN": lambda: top(inputs)},
        rounds=9,
    )
    exact = keras.ops.convert_to_numpy(top(inputs)[1])
    found, _ = find(index, queries, K)
    recall = np.mean(
        [len(set(a) & set(b)) / K for a, b in zip(exact, found, strict=True)]
    )
    print(
        f"{dim:4}{recall:10.4f}{QUERIES / taken['index']:14,.0f}"
        f"{QUERIES / taken['TopN']:14,.0f}"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", nargs="?", type=Path)
    options = parser.parse_args([] if arguments is None else arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = options.run
        if run is None:
            run = folder / "run"
            data = "synthetic"
            if "FMLAYERS_DATA" in os.environ:
                data = os.environ["FMLAYERS_DATA"] + "/ml-1m"
            command = [*TRAIN, "--data", data, "--out", str(run)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        of_a_run(run, folder)
    print(f"\nTop {K} of {ITEMS:,} items, {QUERIES} queries at once")
    print(f"{'dim':>4}{'recall':>10}{'usearch, q/s':>14}{'TopN, q/s':>14}")
    for dim in (16, 64):
        of_an_index(dim)


if __name__ == "__main__":
    print_machine()
    main(sys.argv[1:])
