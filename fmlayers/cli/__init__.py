"""The command `fmlayers`: arguments in, text and files out; one command a module."""

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
    "tune": (tune, "search for the settings of a model, and train the best"),
    "predict": (predict, "rate the rows of a table"),
    "evaluate": (evaluate, "judge a run's ratings and its lists on the test rows"),
    "recommend": (recommend, "list the best items of a user"),
    "similar": (similar, "list the items most like one"),
    "explain": (explain, "show what ratings are made of"),
    "export": (export, "write the model for TensorFlow Serving, LiteRT or ONNX"),
    "plot": (plot, "draw the pictures of a run"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns 0, 1 for a refused input, 130 where interrupted."""
    options = _parser().parse_args(arguments)
    try:
        import_keras()
        code: int = options.command(options)
        sys.stdout.flush()
    except BrokenPipeError:  # as `fmlayers predict ... | head` leaves it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, ImportError) as error:
        if options.debug:
            raise
        print(f"fmlayers: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        resume = {
            train.run: "; go on with --resume, from the last whole epoch",
            tune.run: "; the same command goes on, from the last whole trial",
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
        "help": "show where an error came from",
    }
    parser.add_argument("--debug", **debug)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, purpose) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose)
        module.add_options(command)
        command.add_argument("--debug", **debug, default=argparse.SUPPRESS)
        command.set_defaults(command=module.run)
    return parser
