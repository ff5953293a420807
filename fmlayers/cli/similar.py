"""`fmlayers similar`."""

import argparse
import sys


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="folder of a finished run")
    add("--item", required=True, help="an item, by id or title")
    add(
        "--top", type=int, default=10, metavar="N", help="number of items (default: 10)"
    )


def run(options: argparse.Namespace) -> int:
    from fmlayers.cli.item_table import print_items
    from fmlayers.runs import Run

    finished = Run(options.run)
    items = finished.similar(options.item, options.top)
    if finished.model.decomposition != "exact":
        print(
            "fmlayers: the similarities are those of the model's factorization machine "
            "alone",
            file=sys.stderr,
        )
    catalog = finished.catalog()
    name = catalog.name(catalog.find(options.item))
    print_items(f"Most similar to {name}", items)
    return 0
