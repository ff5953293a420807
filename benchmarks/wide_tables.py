"""Compares training on wide tables: 26 id columns and 13 numeric columns.

    python -m benchmarks.wide_tables [--ids zipf uniform] [--rows 100000]
        [--fields 26] [--batch 8192] [--steps 8] [--rounds 3] [--json FILE]

The model is a factorization machine with 16 dimensions, a table of `--rows` rows per id
column, and the squared error. "As written" compiles with an optimizer and a loss alone;
the others use the compile options that are best for them. PyTorch trains in a separate
process, with one table per column and SparseAdam. `benchmarks/peers.txt` installs the
other packages. Packages that are missing are skipped.

A step is a batch. Figures are CPU and wall milliseconds of a step, as medians of rounds
in which all take turns, and the CPU seconds of the first call, which traces and
compiles.
"""

import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

import fmlayers
from benchmarks._keras_fm import PlainFM
from benchmarks._report import parser_with_json, print_machine, write_figures
from benchmarks._torch_fm import Worker
from fmlayers.models import FactorizationMachine
from fmlayers.optimizers import Adagrad, LazyAdam

DIM, NUMBERS = 16, 13
BASE = "Keras Adam, XLA"
IDS = ("zipf", "uniform")
# A function that trains an epoch and returns its CPU seconds.
Run = Callable[[], float]


class Table(NamedTuple):
    """The columns of a generated table, and its batches."""

    ids: dict[str, Any]
    numbers: dict[str, Any]
    targets: Any
    rows: int  # of each embedding table
    batch: int

    @classmethod
    def generated(cls, ids: str, fields: int, rows: int, batch: int, steps: int):
        rng = np.random.default_rng(0)
        count = batch * steps

        def column() -> Any:
            if ids == "uniform":
                return rng.integers(0, rows, count, "int32")
            return (rng.zipf(1.2, count) % rows).astype("int32")

        return cls(
            {f"c{i}": column() for i in range(fields)},
            {f"x{i}": rng.normal(size=count).astype("float32") for i in range(NUMBERS)},
            rng.normal(size=count).astype("float32"),
            rows,
            batch,
        )


def fitted(model: keras.Model, table: Table) -> Run:
    inputs = {**table.ids, **table.numbers}

    def run() -> float:
        start = time.process_time()
        model.fit(
            inputs, table.targets, batch_size=table.batch, shuffle=False, verbose=0
        )
        return time.process_time() - start

    return run


def ours(optimizer: Callable[[], Any], **options: Any) -> Callable[[Table], Run]:
    def prepare(table: Table) -> Run:
        features = [fmlayers.Categorical(name, table.rows) for name in table.ids]
        features += [fmlayers.Numeric(name) for name in table.numbers]
        model = FactorizationMachine(features, DIM, l2=0.0, linear_l2=0.0)
        model.compile(optimizer(), loss="mse", **options)
        return fitted(model, table)

    return prepare


def plain(**options: Any) -> Callable[[Table], Run]:
    def prepare(table: Table) -> Run:
        sizes = dict.fromkeys(table.ids, table.rows)
        model = PlainFM(sizes, DIM, list(table.numbers))
        model.compile("adam", loss="mse", **options)
        return fitted(model, table)

    return prepare


def torch(table: Table) -> Run:
    worker = Worker(
        np.stack(list(table.ids.values()), axis=1),
        table.targets,
        [table.rows] * len(table.ids),
        DIM,
        table.batch,
        np.stack(list(table.numbers.values()), axis=1),
    )
    return worker.epoch


def deepctr(table: Table) -> Run:
    from deepctr.feature_column import DenseFeat, SparseFeat
    from deepctr.models import DeepFM

    columns: list[Any] = [
        SparseFeat(name, table.rows, embedding_dim=DIM) for name in table.ids
    ]
    columns += [DenseFeat(name, 1) for name in table.numbers]
    model = DeepFM(columns, columns, dnn_hidden_units=(), task="regression")
    model.compile("adam", "mse")
    return fitted(model, table)


CONTESTANTS: dict[str, tuple[str | None, Callable[[Table], Run]]] = {
    "LazyAdam, XLA": (None, ours(lambda: LazyAdam(0.003), jit_compile=True)),
    "LazyAdam, as written": (None, ours(lambda: LazyAdam(0.003))),
    "Adagrad, XLA": (None, ours(lambda: Adagrad(0.05), jit_compile=True)),
    "Adagrad, as written": (None, ours(lambda: Adagrad(0.05))),
    "Adagrad, row-wise, XLA": (
        None,
        ours(lambda: Adagrad(0.05, row_wise=True), jit_compile=True),
    ),
    BASE: (None, plain(jit_compile=True)),
    "Keras Adam, as written": (None, plain()),
    "PyTorch SparseAdam": ("torch", torch),
    "DeepCTR DeepFM, no tower": ("deepctr", deepctr),
}


def main(arguments: list[str] | None = None) -> None:
    parser = parser_with_json()
    parser.add_argument("--ids", nargs="+", choices=IDS, default=IDS)
    parser.add_argument("--fields", type=int, default=26)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args([] if arguments is None else arguments)
    figures = {}
    for ids in options.ids:
        table = Table.generated(
            ids, options.fields, options.rows, options.batch, options.steps
        )
        figures[ids] = compared(table, options.rounds)
        print(
            f"{options.fields} id columns of {options.rows:,} values ({ids}) and "
            f"{NUMBERS} numeric, batch size {options.batch}, {DIM} dimensions"
        )
        print(f"{'':28}{'CPU ms':>9}{'wall ms':>9}{'relative':>10}{'first, CPU s':>14}")
        base = figures[ids].get(BASE)
        for name, each in figures[ids].items():
            cpu, wall = (1e3 * each[key] / options.steps for key in ("cpu", "wall"))
            ratio = f"{each['cpu'] / base['cpu']:.2f}x" if base else ""
            print(f"{name:28}{cpu:9.1f}{wall:9.1f}{ratio:>10}{each['first']:14.1f}")
        print(flush=True)
    write_figures(options.json, figures)


def compared(table: Table, rounds: int) -> dict[str, dict[str, float]]:
    """Returns CPU and wall seconds of an epoch, and the CPU seconds of the first."""
    runs, first = {}, {}
    for name, (package, prepare) in CONTESTANTS.items():
        if package is not None and importlib.util.find_spec(package) is None:
            print(f"{name}: skipped, {package} is not installed")
            continue
        runs[name] = prepare(table)
        first[name] = runs[name]()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            cpu = run()
            taken[name].append((cpu, time.perf_counter() - start))
    return {
        name: {
            "cpu": statistics.median(cpu for cpu, _ in each),
            "wall": statistics.median(wall for _, wall in each),
            "first": first[name],
        }
        for name, each in taken.items()
    }


if __name__ == "__main__":
    print_machine()
    main(sys.argv[1:])
