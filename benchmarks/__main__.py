"""Runs the benchmarks; those of MovieLens need `FMLAYERS_DATA`."""

import os
from types import ModuleType

from benchmarks import (
    batches,
    cold_start,
    distributed,
    encoding,
    epoch,
    fm_interaction,
    histories,
    serving,
    small_tables,
    time_to_rmse,
    top_n,
    training,
    wide_tables,
)
from benchmarks._report import print_machine

# `top_n` and `serving` have parts that need no data.
OF_NOTHING: tuple[ModuleType, ...] = (
    cold_start,
    fm_interaction,
    batches,
    encoding,
    training,
    histories,
    small_tables,
    wide_tables,
    top_n,
    serving,
    distributed,
)
OF_MOVIELENS: tuple[ModuleType, ...] = (epoch, time_to_rmse)


def main() -> None:
    print_machine()
    for benchmark in OF_NOTHING:
        benchmark.main()
        print(flush=True)
    if "FMLAYERS_DATA" not in os.environ:
        names = ", ".join(benchmark.__name__ for benchmark in OF_MOVIELENS)
        print(f"Skipped, because they need MovieLens in FMLAYERS_DATA: {names}")
        return
    for benchmark in OF_MOVIELENS:
        benchmark.main()
        print(flush=True)


if __name__ == "__main__":
    main()
