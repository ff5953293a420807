"""`fmlayers explain`."""

import argparse


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
    from fmlayers.retrieval.from_run import catalogue_of
    from fmlayers.training import Run
    from fmlayers.training.report import (
        FieldReport,
        PairReport,
        explain_fields,
        explain_pair,
    )

    if (options.user is None) != (options.item is None):
        raise ValueError("`--user` and `--item` must be given together.")
    finished = Run(options.run)
    report: FieldReport | PairReport
    if options.user is None:
        report = explain_fields(finished, options.data, measure=options.measure)
    else:
        catalogue = catalogue_of(finished)
        item = catalogue.keys[catalogue.find(options.item)]
        report = explain_pair(finished, options.user, item)
    if options.plot is not None:
        report.plot(options.plot)
    print(report.text(), end="")
    return 0
