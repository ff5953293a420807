"""`fmlayers evaluate`."""

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="folder of a finished run")
    add("--data", metavar="SOURCE", help="source of the run's data, if they have moved")
    add(
        "--top",
        type=int,
        default=25,
        metavar="K",
        help="number of recommendations per user (default: 25)",
    )
    relevance = parser.add_mutually_exclusive_group()
    relevance.add_argument(
        "--quantile",
        type=float,
        default=0.85,
        help="a test item is relevant if its rating is at least this quantile of the "
        "user's test ratings (default: 0.85)",
    )
    relevance.add_argument(
        "--threshold",
        type=float,
        metavar="RATING",
        help="a test item is relevant if its rating is at least this",
    )
    add(
        "--candidates",
        type=int,
        metavar="N",
        help="rank only the N best items of the factorization machine inside a larger "
        "model such as deepfm, instead of all items",
    )


def run(options: argparse.Namespace) -> int:
    from fmlayers.runs import Run

    evaluation = Run(options.run).evaluate(
        options.data,
        k=options.top,
        quantile=options.quantile,
        threshold=options.threshold,
        candidates=options.candidates,
    )
    print(evaluation.text(), end="")
    return 0
