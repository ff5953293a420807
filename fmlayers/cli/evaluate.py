"""`fmlayers evaluate`."""

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="folder of a finished run")
    add("--data", metavar="SOURCE", help="the run's data, if they have moved")
    add("--top", type=int, default=25, metavar="K", help="length of a list")
    relevance = parser.add_mutually_exclusive_group()
    relevance.add_argument(
        "--quantile",
        type=float,
        default=0.85,
        help="relevant are a user's test items from this quantile of the user's own "
        "test ratings on (default: 0.85)",
    )
    relevance.add_argument(
        "--threshold", type=float, metavar="RATING", help="relevant from this rating on"
    )
    add(
        "--candidates",
        type=int,
        metavar="N",
        help="of a DeepFM: rank N items that its factorization machine finds, not all",
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
