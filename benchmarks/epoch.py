"""Times an epoch of MovieLens 1M with fmlayers, Keras, PyTorch and DeepCTR.

    FMLAYERS_DATA=folder python -m benchmarks.epoch [--rounds 3] [--json FILE]

The model is a biased factorization machine of user and item with 16 dimensions and
without L2. It trains on all 1,000,209 ratings with the squared error. Each package
shuffles the rows in its usual way.

fmlayers uses XLA, all steps of an epoch in one execution, and batches from
`ShuffledBatches.stream()`. "Notebook" is the usual setup of notebooks: the `Embedding`
and Adam of Keras, a batch size of 128, no XLA, and arrays passed to `fit`. PyTorch
trains in a separate process. At a batch size of 256, it trains on a fifth of the rows,
and its time is scaled. Each model trains once before the rounds, so tracing and
compilation are not included.

`benchmarks/peers.txt` installs the other packages. Packages that are missing are
skipped.
"""

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import fmlayers
from benchmarks import _movielens
from benchmarks._keras_fm import PlainFM
from benchmarks._report import parser_with_json, print_machine, write_figures
from benchmarks._timing import medians
from benchmarks._torch_fm import Worker
from fmlayers.data import ShuffledBatches
from fmlayers.models import FactorizationMachine
from fmlayers.optimizers import Adagrad, LazyAdam

DIM, BATCH, NOTEBOOK_BATCH = 16, 8192, 128
OURS = "LazyAdam"
Inputs = dict[str, Any]
# A function that trains, and its number of epochs.
Run = tuple[Callable[[], object], float]
Prepare = Callable[[Inputs, Any, list[int]], Run]


def ours(optimizer: Callable[[], Any]) -> Prepare:
    def prepare(inputs: Inputs, ratings: Any, sizes: list[int]) -> Run:
        features = [
            fmlayers.Categorical(name, size)
            for name, size in zip(inputs, sizes, strict=True)
        ]
        model = FactorizationMachine(features, DIM, l2=0.0, linear_l2=0.0)
        steps = math.ceil(len(ratings) / BATCH)
        model.compile(
            optimizer(), loss="mse", jit_compile=True, steps_per_execution=steps
        )
        batches = ShuffledBatches(inputs, ratings, BATCH, seed=0).stream()
        epochs = 5
        return lambda: model.fit(
            batches, steps_per_epoch=steps, epochs=epochs, shuffle=False, verbose=0
        ), epochs

    return prepare


def plain(batch: int) -> Prepare:
    def prepare(inputs: Inputs, ratings: Any, sizes: list[int]) -> Run:
        model = PlainFM(dict(zip(inputs, sizes, strict=True)), DIM)
        model.compile("adam", loss="mse", jit_compile=False)
        return fitting(model, inputs, ratings, batch)

    return prepare


def deepctr(hidden: tuple[int, ...]) -> Prepare:
    def prepare(inputs: Inputs, ratings: Any, sizes: list[int]) -> Run:
        from deepctr.feature_column import SparseFeat
        from deepctr.models import DeepFM

        columns = [
            SparseFeat(name, size, embedding_dim=DIM)
            for name, size in zip(inputs, sizes, strict=True)
        ]
        model = DeepFM(columns, columns, dnn_hidden_units=hidden, task="regression")
        model.compile("adam", "mse")
        return fitting(model, inputs, ratings, BATCH)

    return prepare


def fitting(model: keras.Model, inputs: Inputs, ratings: Any, batch: int) -> Run:
    return lambda: model.fit(inputs, ratings, batch_size=batch, verbose=0), 1.0


def torch(batch: int, share: float = 1.0) -> Prepare:
    def prepare(inputs: Inputs, ratings: Any, sizes: list[int]) -> Run:
        rows = round(share * len(ratings))
        ids = np.stack(list(inputs.values()), axis=1)[:rows]
        return Worker(ids, ratings[:rows], sizes, DIM, batch).epoch, share

    return prepare


CONTESTANTS: dict[str, tuple[str | None, Prepare]] = {
    OURS: (None, ours(lambda: LazyAdam(0.003))),
    "Adagrad": (None, ours(lambda: Adagrad(0.05))),
    "notebook: Keras, 128 a batch": (None, plain(NOTEBOOK_BATCH)),
    "Keras": (None, plain(BATCH)),
    "PyTorch SparseAdam": ("torch", torch(BATCH)),
    "PyTorch SparseAdam, 256 a batch": ("torch", torch(256, share=0.2)),
    "DeepCTR DeepFM, no tower": ("deepctr", deepctr(())),
    "DeepCTR DeepFM": ("deepctr", deepctr((256, 128, 64))),
}


def main(arguments: list[str] | None = None) -> None:
    parser = parser_with_json()
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args([] if arguments is None else arguments)
    table = _movielens.dataset("ml-1m").table()
    (inputs,), sizes = _movielens.ids(table)
    ratings = table["rating"].to_numpy(np.float32)
    runs = {}
    for name, (package, prepare) in CONTESTANTS.items():
        if package is not None and importlib.util.find_spec(package) is None:
            print(f"{name}: skipped, {package} is not installed")
        else:
            runs[name] = prepare(inputs, ratings, sizes)
    taken = medians({name: run for name, (run, _) in runs.items()}, options.rounds)
    seconds = {name: taken[name] / epochs for name, (_, epochs) in runs.items()}
    print(f"MovieLens 1M, {len(ratings):,} rows, batch size {BATCH}, {DIM} dimensions")
    print(f"{'':34}{'seconds':>9}{'examples/s':>13}{'relative':>11}")
    for name, each in seconds.items():
        ratio = each / seconds[OURS]
        print(f"{name:34}{each:9.3f}{len(ratings) / each:13,.0f}{ratio:10.1f}x")
    write_figures(options.json, {"rows": len(ratings), "seconds": seconds})


if __name__ == "__main__":
    import sys

    print_machine()
    main(sys.argv[1:])
