"""The command `fmlayers`: arguments in, text and files out."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

DATA_HELP = (
    "synthetic, a MovieLens folder or zip, a MovieLens name to download (ml-100k, "
    "ml-1m, ml-latest-small, ...), or a CSV or Parquet file (default: synthetic)"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns 0, 1 for a refused input, 130 where interrupted."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
    except (ValueError, OSError, ImportError) as error:
        if options.debug:
            raise
        print(f"fmlayers: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "fmlayers: interrupted; go on with --resume, from the last whole epoch",
            file=sys.stderr,
        )
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fmlayers", description="Factorization machines as Keras 3 layers."
    )
    parser.add_argument(
        "--debug", action="store_true", help="show where an error came from"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands.add_parser("train", help="train, evaluate and save a model"))
    _add_predict(commands.add_parser("predict", help="rate the rows of a table"))
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_train)
    add = parser.add_argument
    add("--out", required=True, metavar="RUN", help="folder to write the run to")
    add("--resume", action="store_true", help="go on with an interrupted run")
    add("--overwrite", action="store_true", help="replace the run at RUN")

    # Left out, an option takes TrainingConfig's default.
    data = parser.add_argument_group("data", argument_default=argparse.SUPPRESS)
    add = data.add_argument
    add("--data", metavar="SOURCE", help=DATA_HELP)
    for role in ("user", "item", "rating", "timestamp"):
        add(f"--{role}", metavar="COLUMN", help=f"a CSV's column of {role}s")
    add(
        "--separator",
        type=_separator,
        metavar="CHAR",
        help="between a CSV's fields, \\t for a tab (default: ,)",
    )
    add(
        "--features",
        nargs="+",
        metavar="COLUMN",
        help="columns of the model, COLUMN or COLUMN:KIND with the kind categorical, "
        "multi_categorical or numeric (default: user and item for mf, all for fm)",
    )
    add("--min-count", type=int, metavar="N", help="rarer values count as unknown")
    add("--split", help="random, user, time or an official fold (default: random)")
    add("--test-fraction", type=float, metavar="SHARE", help="default: 0.2")
    add("--validation-fraction", type=float, metavar="SHARE", help="default: 0.1")
    add("--seed", type=int, help="of split, weights and batches (default: 0)")

    model = parser.add_argument_group("model", argument_default=argparse.SUPPRESS)
    add = model.add_argument
    add("--model", choices=["fm", "mf"], help="default: fm")
    add("--dim", type=int, help="size of a vector (default: 64)")
    add("--l2", type=float, help="of the vectors (default: 0.06)")
    add("--linear-l2", type=float, help="of the first-order term (default: 0.01)")
    add("--scaler", choices=["sigmoid", "clip", "none"], help="default: clip")

    training = parser.add_argument_group("training", argument_default=argparse.SUPPRESS)
    add = training.add_argument
    add("--learning-rate", type=float, metavar="RATE", help="default: 0.05")
    add("--batch-size", type=int, metavar="ROWS", help="default: by the data's size")
    add("--max-epochs", type=int, metavar="N", help="default: 100")
    add("--patience", type=int, metavar="N", help="epochs without gain (default: 3)")
    add(
        "--no-refit",
        dest="refit",
        action="store_false",
        help="keep the model of the search, which has not seen the validation rows",
    )


def _train(options: argparse.Namespace) -> int:
    from fmlayers.models.from_config import model_from_config
    from fmlayers.training import TrainingConfig, train

    given = vars(options)
    config = TrainingConfig(
        **{
            field.name: given[field.name]
            for field in fields(TrainingConfig)
            if field.name in given
        }
    )
    run = train(
        config,
        options.out,
        model_from_config,
        resume=options.resume,
        overwrite=options.overwrite,
    )
    print((run.path / "summary.txt").read_text("utf-8"), end="")
    print(f"\nwritten to {options.out}")
    return 0


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_predict)
    add = parser.add_argument
    add("run", metavar="RUN", help="folder of a finished run")
    add("--data", required=True, metavar="FILE", help="CSV or Parquet, a row a rating")
    add("--out", metavar="FILE", help="CSV to write (default: standard output)")
    add(
        "--separator",
        type=_separator,
        default=",",
        metavar="CHAR",
        help="between a CSV's fields, \\t for a tab (default: ,)",
    )


def _separator(text: str) -> str:
    return "\t" if text in (r"\t", "tab") else text


def _predict(options: argparse.Namespace) -> int:
    from fmlayers.data import write_csv
    from fmlayers.training import Run

    if (
        options.out is not None
        and Path(options.out).resolve() == Path(options.data).resolve()
    ):
        raise ValueError(f"`--out` must not be the input file {options.data}.")
    run = Run(options.run)
    table = run.read_rows(options.data, options.separator)
    table["prediction"] = run.predict(table)
    for column in ("user", "item"):
        unknown = sum(run.is_unknown(column, table))
        if unknown:
            print(
                f"fmlayers: {unknown:,} of {len(table):,} rows have no {column} that "
                "the training rows had; they are rated by the rest",
                file=sys.stderr,
            )
    if options.out is None:
        table.to_csv(sys.stdout, index=False)
    else:
        write_csv(table, Path(options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
