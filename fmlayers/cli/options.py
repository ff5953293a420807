"""Options that commands share."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from fmlayers.models.specs import registered

if TYPE_CHECKING:
    from fmlayers.training import TrainingConfig

DATA_HELP = (
    "synthetic, a MovieLens folder or zip, a MovieLens name to download (ml-100k, "
    "ml-1m, ml-latest-small, ...), or a CSV or Parquet file (default: synthetic)"
)


def separator(text: str) -> str:
    return "\t" if text in (r"\t", "tab") else text


class Numbers(argparse.Action):
    """Reads NAME=NUMBER ... into a dict."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        numbers = {}
        for text in values or ():
            name, _, number = text.partition("=")
            try:
                numbers[name] = float(number)
            except ValueError:
                parser.error(f"{option_string} takes NAME=NUMBER. Received: {text!r}.")
        setattr(namespace, self.dest, numbers)


def add_training_options(
    parser: argparse.ArgumentParser, *, several_models: bool = False
) -> None:
    """Adds an option for each setting of `TrainingConfig`."""
    # Left out, an option takes TrainingConfig's default.
    data = parser.add_argument_group("data", argument_default=argparse.SUPPRESS)
    add = data.add_argument
    add("--data", metavar="SOURCE", help=DATA_HELP)
    for role in ("user", "item", "rating", "timestamp"):
        add(f"--{role}", metavar="COLUMN", help=f"a CSV's column of {role}s")
    add(
        "--separator",
        type=separator,
        metavar="CHAR",
        help="between a CSV's fields, \\t for a tab (default: ,)",
    )
    add(
        "--features",
        nargs="+",
        metavar="COLUMN",
        help="columns of the model, COLUMN or COLUMN:KIND with the kind categorical, "
        "multi_categorical or numeric (default: user and item for mf and neumf, all "
        "but day for the others)",
    )
    add("--min-count", type=int, metavar="N", help="rarer values count as unknown")
    add("--split", help="random, user, time or an official fold (default: random)")
    add("--test-fraction", type=float, metavar="SHARE", help="default: 0.2")
    add("--validation-fraction", type=float, metavar="SHARE", help="default: 0.1")
    add("--seed", type=int, help="of split, weights and batches (default: 0)")

    model = parser.add_argument_group("model", argument_default=argparse.SUPPRESS)
    add = model.add_argument
    if several_models:
        add(
            "--model",
            nargs="+",
            choices=list(registered()),
            dest="models",
            help="several are chosen among (default: fm)",
        )
    else:
        add("--model", choices=list(registered()), help="default: fm")
    add(
        "--histories",
        action="store_true",
        help="the items that a user has rated, and the users who have rated an item, "
        "as fields",
    )
    add(
        "--loss",
        choices=["mse", "bce", "bpr"],
        help="of ratings, or of ratings taken as clicks (default: mse)",
    )
    add(
        "--negatives",
        type=int,
        metavar="N",
        help="items drawn for each rating, for bce and bpr (default: 4)",
    )
    add("--members", type=int, metavar="N", help="average N models (default: 1)")
    add("--dim", type=int, help="size of a vector (default: 64)")
    add(
        "--init-stddev",
        type=float,
        metavar="S",
        help="standard deviation of the vectors' start (default: 0.01)",
    )
    add("--l2", type=float, help="of the vectors (default: 0.06; clicks: 0.002)")
    add(
        "--l2-of",
        nargs="+",
        action=Numbers,
        metavar="FEATURE=L2",
        help="of the vectors of single features (default of histories: 0.01)",
    )
    add(
        "--linear-l2",
        type=float,
        help="of the first-order term (default: 0.01; clicks: 0.002)",
    )
    add(
        "--hidden-units",
        type=int,
        nargs="+",
        metavar="N",
        help="sizes of the hidden layers (default: deepfm 64 64, neumf 64 32 16)",
    )
    add(
        "--dropout",
        type=float,
        metavar="SHARE",
        help="of the hidden layers' outputs (default: 0)",
    )
    add(
        "--combiner",
        choices=["mean", "sum", "sqrtn"],
        help="of several values of a column (default: mean)",
    )
    add("--scaler", choices=["sigmoid", "clip", "none"], help="default: clip")

    training = parser.add_argument_group("training", argument_default=argparse.SUPPRESS)
    add = training.add_argument
    add("--optimizer", choices=["adagrad", "lazy_adam"], help="default: adagrad")
    add(
        "--learning-rate",
        type=float,
        metavar="RATE",
        help="default: 0.05; with histories: 0.015; clicks: 0.1; of lazy_adam: 0.001, "
        "with histories 0.0005",
    )
    add("--batch-size", type=int, metavar="ROWS", help="default: by the data's size")
    add("--max-epochs", type=int, metavar="N", help="default: 100")
    add("--patience", type=int, metavar="N", help="epochs without gain (default: 3)")
    add(
        "--no-refit",
        dest="refit",
        action="store_false",
        help="keep the model of the search, which has not seen the validation rows",
    )


def training_config(options: argparse.Namespace) -> "TrainingConfig":
    """Returns the configuration that the options above say."""
    from fmlayers.training import TrainingConfig

    given = vars(options)
    names = [field.name for field in fields(TrainingConfig) if field.name in given]
    return TrainingConfig(**{name: given[name] for name in names})
