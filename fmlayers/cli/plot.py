"""`fmlayers plot`."""

import argparse
import sys


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="folder of a finished run")
    add("--out", required=True, metavar="FOLDER", help="folder to write the PNGs to")
    add("--data", metavar="SOURCE", help="source of the run's data, if they have moved")


def run(options: argparse.Namespace) -> int:
    from fmlayers.runs import Run

    written, left_out = Run(options.run).plot(options.out, options.data)
    for path in written:
        print(path)
    for reason in left_out:
        print(f"fmlayers: {reason}", file=sys.stderr)
    return 0
