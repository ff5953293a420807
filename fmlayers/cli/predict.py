"""`fmlayers predict`."""

import argparse
import sys
from pathlib import Path

from fmlayers.runs.config import as_separator


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="folder of a finished run")
    add("--data", required=True, metavar="FILE", help="CSV or Parquet, a row a rating")
    add("--out", metavar="FILE", help="CSV to write (default: standard output)")
    add(
        "--separator",
        type=as_separator,
        default=",",
        metavar="CHAR",
        help="between a CSV's fields, \\t for a tab (default: ,)",
    )


def run(options: argparse.Namespace) -> int:
    from fmlayers.data import write_csv
    from fmlayers.runs import Run

    if (
        options.out is not None
        and Path(options.out).resolve() == Path(options.data).resolve()
    ):
        raise ValueError(f"`--out` must not be the input file {options.data}.")
    finished = Run(options.run)
    table = finished.read_rows(options.data, options.separator)
    table["prediction"] = finished.predict(table)
    for column in ("user", "item"):
        unknown = sum(finished.is_unknown(column, table))
        if unknown:
            print(
                f"fmlayers: {unknown:,} of {len(table):,} rows have no {column} that "
                "the training rows had; they are rated by the rest",
                file=sys.stderr,
            )
    if options.out is None:
        table.to_csv(sys.stdout, index=False)
    else:
        write_csv(table, Path(options.out))
    return 0
