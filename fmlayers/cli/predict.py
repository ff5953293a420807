"""`fmlayers predict`."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from fmlayers.cli.options import (
    add_escape_option,
    add_file_options,
    add_share_options,
    format_in,
    share_in,
)


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="folder of a finished run")
    add(
        "--data",
        required=True,
        metavar="FILE",
        help="file with a row per rating, of any format that `train` reads",
    )
    add("--out", metavar="FILE", help="CSV file to write (default: standard output)")
    add(
        "--std",
        action="store_true",
        help="add a column std, the standard deviation of the target, for a run that "
        "was trained with --method gibbs",
    )
    add_escape_option(parser)
    add_share_options(parser, "rows")
    add_file_options(parser)


def run(options: argparse.Namespace) -> int:
    from fmlayers.data.tables import print_csv, write_csv
    from fmlayers.runs import Run
    from fmlayers.runs.posterior_samples import PosteriorSamples

    if (
        options.out is not None
        and Path(options.out).resolve() == Path(options.data).resolve()
    ):
        raise ValueError(f"`--out` must not be the input file {options.data}.")
    share = share_in(options)
    if share.workers > 1 and options.out is None:
        raise ValueError("`--workers` must be used with `--out`.")
    finished = Run(options.run)
    table_format = replace(finished.config.table_format, **format_in(options))
    stddev = PosteriorSamples(finished).stddev if options.std else None
    table, unknown_rows = finished.predicted_rows(
        options.data, table_format=table_format, stddev=stddev, share=share
    )
    for column, unknown in unknown_rows.items():
        if unknown:
            print(
                f"fmlayers: {unknown:,} of {len(table):,} rows have an unknown "
                f"{column}; their predictions use the other fields",
                file=sys.stderr,
            )
    written = {
        "escape_formulas": options.escape_formulas,
        "list_separator": table_format.list_separator,
    }
    if options.out is None:
        print_csv(table, sys.stdout, **written)
    else:
        write_csv(table, share.path(options.out), **written)
    return 0
