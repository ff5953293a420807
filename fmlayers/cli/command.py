"""The command line: its parser, and the one sentence about an error."""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from fmlayers import __version__
from fmlayers._logs import import_keras
from fmlayers.cli import (
    convert,
    evaluate,
    explain,
    export,
    inspect,
    plot,
    predict,
    recommend,
    signals,
    similar,
    train,
    tune,
)

COMMANDS = {
    "inspect": (inspect, "describe the columns of data, without training"),
    "train": (train, "train, evaluate and save a model"),
    "tune": (tune, "search for the hyperparameters of a model and train the best one"),
    "predict": (predict, "predict the ratings of the rows of a table"),
    "evaluate": (evaluate, "evaluate ratings and recommendations on the test rows"),
    "recommend": (recommend, "recommend items to users"),
    "similar": (similar, "list the items that are most similar to an item"),
    "explain": (explain, "explain ratings by fields and pairs of fields"),
    "export": (export, "export the model for TensorFlow Serving, LiteRT or ONNX"),
    "plot": (plot, "draw the pictures of a run"),
    "convert": (convert, "write data in the format of libFFM, libFM or libsvm"),
}


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    See `fmlayers.cli.main`.
    """
    options = argparse.Namespace(debug=False)
    signals.set_hint(None)
    try:
        options = parser().parse_args(arguments)
        options.words = sys.argv[1:] if arguments is None else list(arguments)
        signals.set_hint(partial(options.resumption, options))
        _import_keras()
        signals.begin()
        code: int = options.command(options)
        sys.stdout.flush()
        signals.end()
    except (Exception, KeyboardInterrupt) as error:
        signals.end()
        _discard_output()
        if isinstance(error, KeyboardInterrupt) or signals.received():
            with contextlib.suppress(OSError):  # the terminal is closed
                print(signals.sentence(), file=sys.stderr)
            return signals.exit_code()
        if isinstance(error, BrokenPipeError):  # from `fmlayers predict ... | head`
            return 1
        if options.debug:
            raise
        print(f"fmlayers: {_sentence(error)}", file=sys.stderr)
        return 1
    return code


def _import_keras() -> None:
    try:
        import_keras()
    except MemoryError:
        raise
    except Exception as error:
        raise ImportError(
            f"Keras cannot be imported: {_sentence(error)}. Its backend must be "
            "tensorflow, jax or torch, and installed. `KERAS_BACKEND`, or keras.json "
            "in the folder ~/.keras, names the backend."
        ) from error


def _discard_output() -> None:
    """Keeps Python from writing again, at its end, what cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _sentence(error: Exception) -> str:
    """Returns the message of an error in one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    text = " ".join(filter(None, lines))
    if isinstance(error, MemoryError):
        return f"There is not enough memory. {text}".rstrip()
    if text and isinstance(error, ValueError | OSError | ImportError):
        return text
    # An error of a backend has more lines, about its operations.
    first = next(filter(None, lines), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    command_line = argparse.ArgumentParser(
        prog="fmlayers", description="Factorization machines as Keras 3 layers."
    )
    command_line.add_argument(
        "--version", action="version", version=f"fmlayers {__version__}"
    )
    debug: dict[str, Any] = {
        "action": "store_true",
        "help": "show the traceback of an error",
    }
    command_line.add_argument("--debug", **debug)
    commands = command_line.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, purpose) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose)
        module.add_options(command)
        command.add_argument("--debug", **debug, default=argparse.SUPPRESS)
        resumption = getattr(module, "resumption", lambda options: "")
        command.set_defaults(command=module.run, resumption=resumption)
    return command_line
