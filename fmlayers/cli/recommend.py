"""`fmlayers recommend`."""

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from fmlayers.cli.options import (
    add_escape_option,
    add_file_options,
    add_share_options,
    format_in,
    share_in,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fmlayers.runs import Run
    from fmlayers.runs.recommender import Recommender
    from fmlayers.runs.share import Share

MAX_HISTORY = 5


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="folder of a finished run")
    who = parser.add_argument_group("users")
    one = who.add_mutually_exclusive_group()
    one.add_argument("--user", help="a user of the data")
    one.add_argument(
        "--users",
        metavar="all|FILE",
        help="all users of the data, or those in the column of users of a CSV file; "
        "needs --csv",
    )
    one.add_argument(
        "--liked",
        action="append",
        metavar="ITEM",
        help="an item that a new user likes, by id or title; may be repeated",
    )
    who.add_argument(
        "--features",
        nargs="+",
        type=_assignment,
        default=[],
        metavar="COLUMN=VALUE",
        help="values of columns for the users or the moment, such as age=25; they "
        "replace the values in the data",
    )
    what = parser.add_argument_group("recommendations")
    add = what.add_argument
    add(
        "--top",
        type=int,
        default=10,
        metavar="N",
        help="number of recommendations per user (default: 10)",
    )
    add(
        "--genre",
        action="append",
        default=[],
        help="recommend only items of this genre; if repeated, of all these genres",
    )
    add(
        "--year",
        type=_years,
        metavar="YEAR[-YEAR]",
        help="recommend only items of these years",
    )
    add(
        "--include-seen",
        action="store_true",
        help="also recommend items that the user rated in the training rows",
    )
    add(
        "--candidates",
        type=int,
        metavar="N",
        help="rank only the N best items of the factorization machine inside a larger "
        "model such as deepfm, instead of all items",
    )
    add(
        "--explore",
        choices=("ucb", "thompson"),
        help="also recommend items whose ratings are uncertain: by the upper bound of "
        "the rating, or by a sample that is drawn for each user; for a run that was "
        "trained with --method gibbs",
    )
    add(
        "--seed",
        type=int,
        metavar="SEED",
        help="seed of the draws of --explore thompson (default: 0)",
    )
    add = parser.add_argument
    add(
        "--csv",
        metavar="FILE",
        help="CSV file to write for --users",
    )
    add(
        "--layout",
        choices=("wide", "long"),
        default="wide",
        help="columns of the CSV file: user_id and item_ids, with a row per user, or "
        "user, item, rank and score, with a row per recommendation (default: wide)",
    )
    add("--data", metavar="SOURCE", help="source of the run's data, if they have moved")
    add_escape_option(parser)
    add_share_options(parser, "users")
    add_file_options(parser)


def run(options: argparse.Namespace) -> int:
    from fmlayers.runs import Run

    if (options.users is None) != (options.csv is None):
        raise ValueError("`--users` and `--csv` must be used together.")
    share = share_in(options)
    if share.workers > 1 and options.users is None:
        raise ValueError("`--workers` must be used with `--users`.")
    if not (options.user or options.users or options.liked or options.features):
        raise ValueError(
            "Use `--user` or `--users` or, for a new user, `--liked` or `--features`."
        )
    if options.explore and options.liked:
        raise ValueError(
            "`--explore` must be used without `--liked`, which has no samples."
        )
    if options.seed is not None and options.explore != "thompson":
        raise ValueError("`--seed` must be used with `--explore thompson`.")
    finished = Run(options.run)
    recommender = finished.recommender(
        options.data,
        candidates=options.candidates,
        explore=options.explore,
        seed=options.seed or 0,
    )
    allowed = None
    if options.genre or options.year:
        allowed = recommender.catalog.allowed(options.genre, options.year)
    for column in recommender.queries.context_columns:
        if column in dict(options.features):
            continue
        print(
            f"fmlayers: the column {column!r} describes a rating and is missing; set "
            f"it with --features {column}=...",
            file=sys.stderr,
        )
    if options.users is not None:
        _write(options, finished, recommender, allowed, share)
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
    from fmlayers.cli.item_table import print_items

    recommender.queries.check_user(options.user)
    history = recommender.history(options.user)
    if len(history):
        print_items(
            f"Highest ratings of user {options.user}, who has {len(history)} in the "
            "training rows",
            history.head(MAX_HISTORY),
        )
        print()
    else:
        print(
            f"fmlayers: user {options.user} has no training rows; the recommendations "
            "use the other fields",
            file=sys.stderr,
        )
    scores, positions = recommender.top_n(
        [options.user],
        options.top,
        include_seen=options.include_seen,
        allowed=allowed,
        known=dict(options.features),
    )
    heading = f"Recommendations for user {options.user}"
    print_items(heading, recommender.table(scores[0], positions[0]))


def _show_new(
    options: argparse.Namespace,
    recommender: "Recommender",
    allowed: "npt.NDArray[np.bool_] | None",
) -> None:
    from fmlayers.cli.item_table import print_items

    liked = [recommender.catalog.find(text) for text in options.liked or []]
    if liked:
        print_items("Liked items", recommender.catalog.table.iloc[liked])
        print()
    scores, positions = recommender.new_user(
        liked, options.top, allowed=allowed, known=dict(options.features)
    )
    known = ", ".join(f"{name} {value}" for name, value in options.features)
    heading = "Recommendations for a new user" + f" with {known}" * bool(known)
    print_items(heading, recommender.table(scores[0], positions[0]))


def _write(
    options: argparse.Namespace,
    finished: "Run",
    recommender: "Recommender",
    allowed: "npt.NDArray[np.bool_] | None",
    share: "Share",
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from fmlayers.runs.recommendation_file import write_recommendations

    users = list(recommender.users)
    if options.users != "all":
        table_format = replace(finished.config.table_format, **format_in(options))
        rows = finished.read_rows(options.users, table_format=table_format)
        users = recommender.queries.users_in(rows)
    path = share.path(options.csv)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("users", total=len(users) // share.workers)
        count = write_recommendations(
            recommender,
            users,
            path,
            options.top,
            layout=options.layout,
            escape_formulas=options.escape_formulas,
            include_seen=options.include_seen,
            allowed=allowed,
            known=dict(options.features),
            on_batch=lambda count: bar.advance(task, count),
            share=share,
        )
    print(f"wrote the recommendations for {count:,} users to {path}")


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
