"""The command `fmlayers`, with one module per subcommand."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from fmlayers import __version__
from fmlayers._logs import import_keras
from fmlayers.cli import (
    evaluate,
    explain,
    export,
    plot,
    predict,
    recommend,
    similar,
    train,
    tune,
)

COMMANDS = {
    "train": (train, "train, evaluate and save a model"),
    "tune": (tune, "search for the hyperparameters of a model and train the best one"),
    "predict": (predict, "predict the ratings of the rows of a table"),
    "evaluate": (evaluate, "evaluate ratings and recommendations on the test rows"),
    "recommend": (recommend, "recommend items to users"),
    "similar": (similar, "list the items that are most similar to an item"),
    "explain": (explain, "explain ratings by fields and pairs of fields"),
    "export": (export, "export the model for TensorFlow Serving, LiteRT or ONNX"),
    "plot": (plot, "draw the pictures of a run"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    The code is 0, 1 after an error, or 130 after an interruption.
    """
    options = _parser().parse_args(arguments)
    try:
        import_keras()
        code: int = options.command(options)
        sys.stdout.flush()
    except BrokenPipeError:  # from `fmlayers predict ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, ImportError) as error:
        if options.debug:
            raise
        print(f"fmlayers: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        resume = {
            train.run: "; resume from the last complete epoch with --resume",
            tune.run: "; run the same command to resume from the last complete trial",
        }
        print(
            "fmlayers: interrupted" + resume.get(options.command, ""), file=sys.stderr
        )
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fmlayers", description="Factorization machines as Keras 3 layers."
    )
    parser.add_argument(
        "--version", action="version", version=f"fmlayers {__version__}"
    )
    debug: dict[str, Any] = {
        "action": "store_true",
        "help": "show the traceback of an error",
    }
    parser.add_argument("--debug", **debug)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, purpose) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose)
        module.add_options(command)
        command.add_argument("--debug", **debug, default=argparse.SUPPRESS)
        command.set_defaults(command=module.run)
    return parser
