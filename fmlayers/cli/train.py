"""`fmlayers train`."""

import argparse
from pathlib import Path

from fmlayers.cli.options import add_training_options, settings_in


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", required=True, metavar="RUN", help="folder to write the run to")
    add("--resume", action="store_true", help="resume an interrupted run")
    add("--overwrite", action="store_true", help="replace the run at RUN")
    add_training_options(parser)


def run(options: argparse.Namespace) -> int:
    from fmlayers.runs import TrainingConfig, train

    finished = train(
        TrainingConfig.of_options(settings_in(options)),
        options.out,
        resume=options.resume,
        overwrite=options.overwrite,
    )
    print(finished.summary(), end="")
    print(f"\nwritten to {options.out}")
    return 0


def resumption(options: argparse.Namespace) -> str:
    """Returns how to resume the command after an interruption, or `""`."""
    from fmlayers.runs.folder import partial_path

    partial = partial_path(Path(options.out).resolve())
    return "resume with --resume" if (partial / "config.json").is_file() else ""
