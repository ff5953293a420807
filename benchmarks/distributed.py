"""Measures training in several processes of this machine, with spread tables.

    python -m benchmarks.distributed [--rows 100000 1000000 10000000]
        [--processes 1 2 4] [--batch 4096] [--steps 8] [--rounds 3] [--gigabytes 0.5]
        [--json FILE]

The model is a factorization machine of a user and an item with 16 dimensions and
row-wise Adagrad. `--rows` is the total number of rows of its tables, and `--batch` the
number of rows of all processes in a step. "shard_map" is `tables_over_hosts`: each
process looks up and updates its rows. With "automatic", XLA partitions the same tables
and the same sparse gradients. Both take turns in the same processes. Figures are CPU
and wall milliseconds of a step in process 0, as medians over the rounds.

The peak memory is that of a process that builds and trains a table of `--gigabytes`,
not counting the memory that it used before. The seconds of a checkpoint are those of
`Checkpoints.save` and `Checkpoints.restore` with this table and its slots.

All processes share the cores and the memory of one machine, without a network. The
figures therefore show how the cost depends on the rows, not how training scales.
"""

import functools
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._report import parser_with_json, print_machine, write_figures
from fmlayers.distributed.launch import launch

DIM = 16
Run = Callable[[], object]


def main(arguments: list[str] | None = None) -> None:
    parser = parser_with_json()
    parser.add_argument("--rows", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gigabytes", type=float, default=0.5)
    options = parser.parse_args([] if arguments is None else arguments)
    steps: dict[str, Any] = {}
    print(f"Steps of {options.batch} rows, {DIM} dimensions, CPU and wall ms")
    print(f"{'rows':>10}{'processes':>11}{'shard_map':>20}{'automatic':>20}")
    for rows in options.rows:
        for processes in options.processes:
            sizes = (rows, options.batch, options.steps, options.rounds)
            figures = of_group("steps", processes, *sizes)
            steps[f"{rows}, {processes}"] = figures
            cells = [
                f"{figures[name]['cpu']:.1f} {figures[name]['wall']:.1f}"
                if name in figures
                else "-"
                for name in ("shard_map", "automatic")
            ]
            print(f"{rows:10,}{processes:11}" + "".join(f"{x:>20}" for x in cells))
    memory = {}
    print(f"\nPeak memory of a process, table of {options.gigabytes:g} GB")
    rows = int(options.gigabytes * 1e9 / 4 / DIM)
    for processes in options.processes:
        peak = of_group("memory", processes, rows, options.batch)["peak"]
        memory[str(processes)] = peak
        print(f"{processes:>3} processes{peak / 1e9:8.2f} GB", flush=True)
    checkpoints = {}
    print("\nCheckpoint of this table, wall seconds")
    for processes in options.processes:
        figures = of_group("checkpoint", processes, rows, options.batch)
        checkpoints[str(processes)] = figures
        print(
            f"{processes:>3} processes  save {figures['save']:.1f}  restore "
            f"{figures['restore']:.1f}",
            flush=True,
        )
    parts = {"steps": steps, "memory": memory, "checkpoints": checkpoints}
    write_figures(options.json, parts)


def of_group(measure: str, processes: int, *sizes: int) -> dict[str, Any]:
    """Returns the figures that process 0 of a group measures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        worker = [sys.executable, "-m", "benchmarks.distributed", "--worker"]
        code = launch([*worker, measure, str(path), *map(str, sizes)], processes)
        if code:
            raise RuntimeError(f"A process failed with the exit code {code}.")
        figures: dict[str, Any] = json.loads(path.read_text())
        return figures


def work(measure: str, path: str, *sizes: str) -> None:
    """Measures in a process of a group."""
    import jax

    import fmlayers

    fmlayers.distributed.start()
    folder = Path(path).parent / "checkpoints"
    measures: dict[str, Callable[..., dict[str, Any]]] = {
        "steps": measured_steps,
        "memory": measured_memory,
        "checkpoint": functools.partial(measured_checkpoint, folder),
    }
    figures = measures[measure](*map(int, sizes))
    if jax.process_index() == 0:
        Path(path).write_text(json.dumps(figures))


def measured_steps(
    rows: int, batch: int, steps: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Returns CPU and wall milliseconds of a step of each variant."""
    runs: dict[str, Run] = {"shard_map": with_shard_map(rows, batch, steps)}
    if devices() > 1:
        runs["automatic"] = automatic(rows, batch, steps)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            times[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {
        name: {
            "cpu": 1e3 / steps * statistics.median(cpu for cpu, _ in each),
            "wall": 1e3 / steps * statistics.median(wall for _, wall in each),
        }
        for name, each in times.items()
    }


def measured_memory(rows: int, batch: int) -> dict[str, int]:
    """Returns the peak memory in bytes, not counting the memory used before."""
    before = peak()
    with_shard_map(rows, batch, 2)()
    return {"peak": peak() - before}


def measured_checkpoint(folder: Path, rows: int, batch: int) -> dict[str, float]:
    """Returns the wall seconds of saving and of restoring a checkpoint."""
    import fmlayers

    with fmlayers.distributed.tables_over_hosts(1):
        model = compiled(rows)
    trained(model, batch, 2)()
    checkpoints = fmlayers.distributed.Checkpoints(folder)
    start = time.perf_counter()
    checkpoints.save(model, epoch=1)
    saved = time.perf_counter()
    checkpoints.restore(model)
    return {"save": saved - start, "restore": time.perf_counter() - saved}


def with_shard_map(rows: int, batch: int, steps: int) -> Run:
    import fmlayers

    with fmlayers.distributed.tables_over_hosts(1):
        model = compiled(rows)
    return trained(model, batch, steps)


def automatic(rows: int, batch: int, steps: int) -> Run:
    """Returns a run for which Keras gets only the layout of the tables."""
    import keras

    names = keras.distribution.list_devices()
    mesh = keras.distribution.DeviceMesh((len(names),), ("shards",), names)
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*embeddings"] = ("shards", None)
    distribution = keras.distribution.ModelParallel(
        layout_map=layout, batch_dim_name="shards", auto_shard_dataset=False
    )
    ours = keras.distribution.distribution()

    def run() -> None:
        keras.distribution.set_distribution(distribution)
        try:
            inner()
        finally:
            keras.distribution.set_distribution(ours)

    keras.distribution.set_distribution(distribution)
    try:
        inner = trained(compiled(rows), batch, steps)
    finally:
        keras.distribution.set_distribution(ours)
    return run


def compiled(rows: int) -> Any:
    """Returns a model with `rows` rows, or fewer so that all devices have as many."""
    import fmlayers

    size = rows // (2 * devices()) * devices()
    features = [fmlayers.Categorical(name, size) for name in ("user", "item")]
    model = fmlayers.models.FactorizationMachine(
        features, DIM, l2=0.0, linear_l2=0.0, out_of_range="zero"
    )
    model.compile(fmlayers.optimizers.Adagrad(row_wise=True), loss="mse")
    return model


def trained(model: Any, batch: int, steps: int) -> Run:
    """Returns a function that trains the rows of this process."""
    import jax
    import numpy as np

    rng = np.random.default_rng(jax.process_index())
    here = batch // jax.process_count()
    inputs = {
        feature.name: rng.integers(0, feature.vocabulary_size, steps * here, "int32")
        for feature in model.features
    }
    targets = rng.normal(size=steps * here).astype("float32")
    return lambda: model.fit(inputs, targets, batch_size=here, shuffle=False, verbose=0)


def devices() -> int:
    import jax

    return int(jax.device_count())


def peak() -> int:
    """Returns the highest memory use of this process so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
    else:
        print_machine()
        main(sys.argv[1:])
