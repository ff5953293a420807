"""Compares methods to fit an encoder and write shards.

    python -m benchmarks.encoding [--files 8] [--rows 500000] [--values 2000000]
        [--ids pareto uniform] [--rounds 1] [--only NAME ...] [--json FILE]

The data are Parquet files with `--rows` rows each: a text column with up to `--values`
distinct values, another with up to a seventh as many, and a rating. Each method runs in
a separate process. Figures are rows per second of CPU time and the peak memory, not
counting the memory of the imports, as medians over rounds in which the methods take
turns.

The methods are: all rows in memory; an iterable with one `DataFrame` per file;
`TableFiles`, whose values DuckDB counts; and `TableFiles` with the vocabularies in
files. `pip install fmlayers[scale]` installs the dependencies.
"""

import contextlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks._report import parser_with_json, print_machine, write_figures
from fmlayers.data import Encoder, TableFiles, write_counts, write_shards

COLUMNS = {"user": "categorical", "item": "categorical"}
IDS = ("pareto", "uniform")
MEMORY_LIMIT = "300MB"


def in_memory(folder: Path, out: Path) -> Encoder:
    table = pd.read_parquet(folder)
    encoder = Encoder(COLUMNS).fit(table)
    write_shards(table, out, encoder)
    return encoder


def iterable(folder: Path, out: Path) -> Encoder:
    paths = sorted(folder.glob("*.parquet"))
    encoder = Encoder(COLUMNS).fit(map(pd.read_parquet, paths))
    write_shards(map(pd.read_parquet, paths), out, encoder)
    return encoder


def files(folder: Path, out: Path) -> Encoder:
    tables = TableFiles(folder, memory_limit=MEMORY_LIMIT)
    encoder = Encoder(COLUMNS).fit(tables)
    write_shards(tables, out, encoder)
    return encoder


def stored(folder: Path, out: Path) -> Encoder:
    tables = TableFiles(folder, memory_limit=MEMORY_LIMIT)
    counts, vocabularies = out.with_name("counts"), out.with_name("vocabularies")
    write_counts(tables, counts, Encoder(COLUMNS))
    encoder = Encoder(COLUMNS).fit_counts(
        counts, vocabularies=vocabularies, memory_limit=MEMORY_LIMIT
    )
    write_shards(tables, out, encoder)
    return encoder


WAYS: dict[str, Callable[[Path, Path], Encoder]] = {
    "all rows in memory": in_memory,
    "iterable of tables": iterable,
    "TableFiles": files,
    "vocabularies in files": stored,
}


def generate(folder: Path, ids: str, count: int, rows: int, values: int) -> None:
    rng = np.random.default_rng(0)

    def column(shape: float, scale: int, size: int):
        if ids == "uniform":
            return rng.integers(0, size, rows)
        return (rng.pareto(shape, rows) * scale).astype("int64") % size

    for number in range(count):
        users = column(1.1, 3000, values)
        items = column(1.2, 300, values // 7)
        table = pd.DataFrame(
            {
                "user": "user-" + pd.Series(users).astype("str").str.zfill(9),
                "item": "item-" + pd.Series(items).astype("str").str.zfill(7),
                "rating": rng.integers(1, 6, rows).astype("float32"),
            }
        )
        table.to_parquet(folder / f"{number}.parquet", index=False)


def peak() -> int:
    """Returns the peak memory of this process since `reset_peak`, in kilobytes."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def reset_peak() -> None:
    """Resets the peak memory to the current memory, on Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def measured(name: str, folder: Path) -> dict[str, float]:
    """Runs a method in this process."""
    with tempfile.TemporaryDirectory() as out:
        reset_peak()
        before, start = peak(), time.process_time()
        encoder = WAYS[name](folder, Path(out, "shards"))
        cpu, memory = time.process_time() - start, peak() - before
    return {
        "cpu": cpu,
        "mb": memory / 1024,
        "users": encoder.column("user").facts()["values"],
    }


def main(arguments: list[str] | None = None) -> None:
    parser = parser_with_json()
    parser.add_argument("--ids", nargs="+", choices=IDS, default=IDS)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--values", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument(
        "--folder",
        type=Path,
        help="folder of the data; run the first method of --only in this process",
    )
    options = parser.parse_args([] if arguments is None else arguments)
    if options.folder is not None:
        print(json.dumps(measured(options.only[0], options.folder)))
        return
    figures = {}
    for ids in options.ids:
        with tempfile.TemporaryDirectory() as folder:
            sizes = options.files, options.rows, options.values
            generate(Path(folder), ids, *sizes)
            results = compared(folder, options.only, options.rounds)
        rows = options.files * options.rows
        users = {
            each["users"] for results_of in results.values() for each in results_of
        }
        assert len(users) == 1, users
        print(
            f"{rows:,} rows in {options.files} files, 2 text columns ({ids}), "
            f"{users.pop():,} users"
        )
        figures[ids] = report(results, rows)
    write_figures(options.json, figures)


def compared(
    folder: str, names: list[str], rounds: int
) -> dict[str, list[dict[str, float]]]:
    """Returns the figures of each method and round."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, taken in results.items():
            words = [sys.executable, "-m", "benchmarks.encoding"]
            words += ["--only", name, "--folder", folder]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE)
            taken.append(json.loads(done.stdout.splitlines()[-1]))
    return results


def report(
    results: dict[str, list[dict[str, float]]], rows: int
) -> dict[str, dict[str, float]]:
    figures: dict[str, dict[str, float]] = {}
    print(f"{'':24}{'rows/s of CPU':>15}{'relative':>10}{'peak MB':>9}")
    for name, taken in results.items():
        cpu = statistics.median(each["cpu"] for each in taken)
        memory = statistics.median(each["mb"] for each in taken)
        figures[name] = {"rows_per_second": rows / cpu, "mb": memory}
        first = next(iter(figures.values()))["rows_per_second"]
        print(f"{name:24}{rows / cpu:15,.0f}{rows / cpu / first:9.2f}x{memory:9.0f}")
    print(flush=True)
    return figures


if __name__ == "__main__":
    if "--folder" not in sys.argv:
        print_machine()
    main(sys.argv[1:])
