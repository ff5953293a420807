"""Times top-25 search for all users of MovieLens 1M, and among a million items.

    FMLAYERS_DATA=folder python -m benchmarks.top_n [RUN] [--items 1000000]

RUN is a run of MovieLens 1M. If omitted, a model is trained for three epochs. The
search ranks the whole catalog, except the items that a user rated in the training rows.
NumPy does the same by sorting the scores of all pairs.

Without `FMLAYERS_DATA`, only the search among a million items runs. It runs in a
separate process to measure its memory beyond the catalog.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

import fmlayers
from benchmarks._report import print_machine
from benchmarks._timing import medians
from fmlayers.models import MatrixFactorization
from fmlayers.retrieval import TopN

K = 25
ITEMS, QUERIES = 1_000_000, 256  # of the search without data
TRAIN = [sys.executable, "-m", "fmlayers.cli", "train", "--model", "mf"]
TRAIN += ["--max-epochs", "3", "--no-refit"]


def of_a_run(path: Path) -> None:
    from fmlayers.runs import Run
    from fmlayers.runs.evaluation import evaluate
    from fmlayers.runs.recommender import Recommender

    run = Run(path)
    loading = _seconds(lambda: run.model)
    dataset = run.dataset(os.environ["FMLAYERS_DATA"] + "/ml-1m")

    def recommend() -> Any:
        recommender = Recommender(run, dataset)
        return recommender.top_n(list(recommender.users), K)

    first = _seconds(recommend)
    recommender = Recommender(run, dataset)
    users = list(recommender.users)
    taken = medians(
        {
            "recommend": recommend,
            "search": lambda: recommender.top_n(users, K),
            "evaluate": lambda: evaluate(run, dataset, k=K),
            "NumPy": lambda: full_sort(recommender, users),
        },
        rounds=5,
    )
    _, positions = recommender.top_n(users, K)
    same = float(np.mean(positions == full_sort(recommender, users)))
    print(f"Top {K} of {len(users):,} users, {len(recommender.catalog):,} items")
    for name, seconds in (
        ("loading the model", loading),
        ("recommendations, first call", first),
        ("recommendations, later calls", taken["recommend"]),
        ("  search alone", taken["search"]),
        ("all metrics, in addition", taken["evaluate"] - taken["recommend"]),
        ("NumPy, sorting all scores", taken["NumPy"]),
    ):
        ratio = seconds / taken["search"]
        print(f"{name:32}{seconds:8.2f} s{ratio:8.1f}x the search")
    print(f"positions with the same item as NumPy: {same:.4%}")


def full_sort(recommender: Any, users: list[str]) -> Any:
    """Returns positions `(users, K)` by sorting all scores of each user."""
    top = recommender.index
    items = keras.ops.convert_to_numpy(top.item_vectors)
    constants = keras.ops.convert_to_numpy(top.item_constants)
    found = []
    for start in range(0, len(users), 1024):
        part = users[start : start + 1024]
        sides = top.model.decompose(
            recommender.queries.encode(part), top.query_features
        )
        constant, vectors = (keras.ops.convert_to_numpy(x) for x in sides)
        scores = vectors @ items.T + constant + constants
        for row, user in enumerate(recommender.users.get_indexer(part)):
            scores[row, recommender.rated.seen.of(user)] = -np.inf
        found.append(np.argsort(-scores, axis=1, kind="stable")[:, :K])
    return np.concatenate(found)


def of_many(items: int, dim: int) -> dict[str, float]:
    """Returns the seconds and bytes of a top-N search among many items."""
    features = [fmlayers.Categorical("user", QUERIES), fmlayers.Categorical("item", 2)]
    model = MatrixFactorization(*features, dim)
    top = TopN(model, ["item"], items, K)
    rng = np.random.default_rng(0)
    top.item_vectors.assign(rng.normal(size=(items, dim)).astype("float32"))
    top.item_constants.assign(np.zeros(items, "float32"))
    queries = {"user": np.arange(QUERIES, dtype="int32")}
    seen = rng.integers(0, items, size=(QUERIES, 128), dtype="int32")

    def search() -> Any:
        return [np.asarray(x) for x in top(queries, exclude=seen)]

    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _memory("VmRSS")
    first = _seconds(search)
    seconds = medians({"search": search}, rounds=5)["search"]
    return {"first": first, "seconds": seconds, "bytes": _memory("VmHWM") - before}


def _memory(name: str) -> float:
    """Returns bytes of this process: `VmRSS` is the current use, `VmHWM` the peak."""
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux
        return math.nan
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return 1024 * float(lines[name].split()[0])


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--dim", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args([] if arguments is None else arguments)
    if options.dim is not None:
        print(json.dumps(of_many(options.items, options.dim)))
        return
    if options.run is not None:
        of_a_run(options.run)
    elif "FMLAYERS_DATA" in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            data = os.environ["FMLAYERS_DATA"] + "/ml-1m"
            command = [*TRAIN, "--data", data]
            subprocess.run(
                [*command, "--out", f"{folder}/run"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            of_a_run(Path(folder) / "run")
    print(f"\nTop {K} of {QUERIES} users, {options.items:,} items, 128 excluded")
    print(f"{'dim':>4}{'first, s':>10}{'later, s':>10}{'users/s':>9}{'memory':>11}")
    for dim in (16, 64):
        sizes = ["--items", str(options.items), "--dim", str(dim)]
        command = [sys.executable, "-m", "benchmarks.top_n", *sizes]
        output = subprocess.run(command, check=True, capture_output=True).stdout
        found = json.loads(output)
        print(
            f"{dim:4}{found['first']:10.2f}{found['seconds']:10.2f}"
            f"{QUERIES / found['seconds']:9.0f}{found['bytes'] / 2**20:+8.0f} MB"
        )
    print(
        f"(scores of all pairs at once: {4 * QUERIES * options.items / 2**20:,.0f} MB)"
    )


if __name__ == "__main__":
    print_machine() if "--dim" not in sys.argv else None
    main(sys.argv[1:])
