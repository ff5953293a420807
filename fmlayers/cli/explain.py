"""`fmlayers explain`."""

import argparse
from typing import Any


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="folder of a finished run")
    add("--user", help="explain this user's rating of --item")
    add(
        "--item",
        help="of this item, by id or title; without the two, what matters on the test "
        "rows",
    )
    add(
        "--measure",
        choices=["std", "abs"],
        default="std",
        help="on the test rows: each term's standard deviation, or its mean absolute "
        "value (default: std)",
    )
    add("--plot", metavar="FILE", help="draw the terms as a heat map, too")
    add("--data", metavar="SOURCE", help="the run's data, if they have moved")


def run(options: argparse.Namespace) -> int:
    from fmlayers.runs import Run

    if (options.user is None) != (options.item is None):
        raise ValueError("`--user` and `--item` must be given together.")
    finished = Run(options.run)
    report: Any
    if options.user is None:
        report = finished.explain_fields(options.data, measure=options.measure)
    else:
        catalogue = finished.catalogue()
        item = catalogue.keys[catalogue.find(options.item)]
        report = finished.explain(options.user, item)
    if options.plot is not None:
        report.plot(options.plot)
    print(report.text(), end="")
    return 0
