"""`fmlayers similar`."""

import argparse
import sys


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="folder of a finished run")
    add("--item", required=True, help="an item, by id or title")
    add("--top", type=int, default=10, metavar="N", help="items to show (default: 10)")


def run(options: argparse.Namespace) -> int:
    from fmlayers.cli.tables import print_items
    from fmlayers.runs import Run
    from fmlayers.runs.recommender import Recommender

    recommender = Recommender(Run(options.run))
    position = recommender.catalogue.find(options.item)
    cosines, positions = recommender.similar(position, options.top)
    if not recommender.is_exact:
        print(
            "fmlayers: compared by the vectors of the model's factorization machine "
            "alone",
            file=sys.stderr,
        )
    found = recommender.described(positions[0]).assign(
        cosine=cosines[0][positions[0] >= 0]
    )
    print_items(f"Most like {recommender.catalogue.name(position)}", found)
    return 0
