"""`fmlayers inspect`."""

import argparse

from fmlayers.cli.options import add_training_options, settings_in


def add_options(parser: argparse.ArgumentParser) -> None:
    add_training_options(parser, groups=("data", "file"))


def run(options: argparse.Namespace) -> int:
    from fmlayers.runs import TrainingConfig, inspect

    print(inspect(TrainingConfig(**settings_in(options))), end="")
    return 0
