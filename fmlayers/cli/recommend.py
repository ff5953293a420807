"""`fmlayers recommend`."""

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fmlayers.runs import Run
    from fmlayers.runs.recommender import Recommender

LIKED_SHOWN = 5


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="folder of a finished run")
    who = parser.add_argument_group("for whom")
    one = who.add_mutually_exclusive_group()
    one.add_argument("--user", help="a user of the data")
    one.add_argument(
        "--users",
        metavar="all|FILE",
        help="all users of the data, or those of a CSV's column of users; with --csv",
    )
    one.add_argument(
        "--liked",
        action="append",
        metavar="ITEM",
        help="a new user likes this item, by id or title; may be repeated",
    )
    who.add_argument(
        "--features",
        nargs="+",
        type=_assignment,
        default=[],
        metavar="COLUMN=VALUE",
        help="what is known of a new user, as age=25, or of the moment; instead of "
        "what the data say of a known one",
    )
    what = parser.add_argument_group("of what")
    add = what.add_argument
    add("--top", type=int, default=10, metavar="N", help="items a list (default: 10)")
    add(
        "--genre",
        action="append",
        default=[],
        help="items of this genre alone; repeated, of all of them",
    )
    add("--year", type=_years, metavar="YEAR[-YEAR]", help="items of these years alone")
    add(
        "--include-seen",
        action="store_true",
        help="items that the user has rated in the training rows, too",
    )
    add(
        "--candidates",
        type=int,
        metavar="N",
        help="of a model with more than a factorization machine in it: rank the N best "
        "by that machine alone, instead of all items",
    )
    add = parser.add_argument
    add("--csv", metavar="FILE", help="CSV to write for --users: user_id,item_ids")
    add("--data", metavar="SOURCE", help="the run's data, if they have moved")


def run(options: argparse.Namespace) -> int:
    from fmlayers.runs import Run

    if (options.users is None) != (options.csv is None):
        raise ValueError("`--users` and `--csv` must be given together.")
    if not (options.user or options.users or options.liked or options.features):
        raise ValueError(
            "Give `--user` or `--users` or, for a new user, `--liked` or `--features`."
        )
    finished = Run(options.run)
    recommender = finished.recommender(options.data, candidates=options.candidates)
    allowed = None
    if options.genre or options.year:
        allowed = recommender.catalogue.allowed(options.genre, options.year)
    for column in recommender.missing:
        if column in dict(options.features):
            continue
        print(
            f"fmlayers: {column!r} is of a rating, not of a user or an item: it counts "
            f"as missing (--features {column}=... gives it)",
            file=sys.stderr,
        )
    if options.users is not None:
        _write(options, finished, recommender, allowed)
    elif options.user is not None:
        _show_known(options, recommender, allowed)
    else:
        _show_new(options, recommender, allowed)
    return 0


def _show_known(
    options: argparse.Namespace,
    recommender: "Recommender",
    allowed: "npt.NDArray[np.bool_] | None",
) -> None:
    from fmlayers.cli.tables import print_items

    recommender.check_user(options.user)
    history = recommender.history(options.user)
    if len(history):
        print_items(
            f"User {options.user} liked best, of {len(history)} in the training rows",
            history.head(LIKED_SHOWN),
        )
        print()
    else:
        print(
            f"fmlayers: user {options.user} has no training rows; the list goes by the "
            "rest",
            file=sys.stderr,
        )
    scores, positions = recommender.lists(
        [options.user],
        options.top,
        include_seen=options.include_seen,
        allowed=allowed,
        known=dict(options.features),
    )
    print_items(f"For user {options.user}", recommender.table(scores[0], positions[0]))


def _show_new(
    options: argparse.Namespace,
    recommender: "Recommender",
    allowed: "npt.NDArray[np.bool_] | None",
) -> None:
    from fmlayers.cli.tables import print_items

    liked = [recommender.catalogue.find(text) for text in options.liked or []]
    if liked:
        likes = recommender.catalogue.table.iloc[liked]
        print_items("A new user likes", likes)
        print()
    scores, positions = recommender.new_user(
        liked, options.top, allowed=allowed, known=dict(options.features)
    )
    known = ", ".join(f"{name} {value}" for name, value in options.features)
    heading = "For a new user" + f" of {known}" * bool(known)
    print_items(heading, recommender.table(scores[0], positions[0]))


def _write(
    options: argparse.Namespace,
    finished: "Run",
    recommender: "Recommender",
    allowed: "npt.NDArray[np.bool_] | None",
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from fmlayers.runs.recommender import write_lists

    users = list(recommender.users)
    if options.users != "all":
        users = recommender.users_of(finished.read_rows(options.users))
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("users", total=len(users))
        write_lists(
            recommender,
            users,
            options.csv,
            options.top,
            include_seen=options.include_seen,
            allowed=allowed,
            known=dict(options.features),
            on_batch=lambda count: bar.advance(task, count),
        )
    print(f"{len(users):,} lists written to {options.csv}")


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"expected COLUMN=VALUE, read {text!r}")
    return name, value


def _years(text: str) -> tuple[float, float]:
    first, _, last = text.partition("-")
    try:
        years = float(first), float(last or first)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a year or two as 1990-1999, read {text!r}"
        ) from None
    if years[0] > years[1]:
        raise argparse.ArgumentTypeError(f"the first year must not be later: {text!r}")
    return years
