"""`fmlayers explain`."""

import argparse
from typing import Any


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="folder of a finished run")
    add("--user", help="explain the rating of this user and --item")
    add(
        "--item",
        help="the item, by id or title; without --user and --item, the fields that "
        "matter on the test rows",
    )
    add(
        "--measure",
        choices=["std", "abs"],
        default="std",
        help="the size of a term on the test rows: its standard deviation or its mean "
        "absolute value (default: std)",
    )
    add("--plot", metavar="FILE", help="also draw the terms as a heat map")
    add("--data", metavar="SOURCE", help="source of the run's data, if they have moved")


def run(options: argparse.Namespace) -> int:
    from fmlayers.runs import Run

    if (options.user is None) != (options.item is None):
        raise ValueError("`--user` and `--item` must be used together.")
    finished = Run(options.run)
    report: Any
    if options.user is None:
        report = finished.explain_fields(options.data, measure=options.measure)
    else:
        report = finished.explain(options.user, options.item)
    if options.plot is not None:
        report.plot(options.plot)
    print(report.text(), end="")
    return 0
