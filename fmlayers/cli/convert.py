"""`fmlayers convert`."""

import argparse

from fmlayers.cli.options import add_training_options, settings_in


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", required=True, metavar="FILE", help="file to write")
    add(
        "--test-out",
        metavar="FILE",
        help="file for the test rows, which --out then lacks (default: all rows are in "
        "--out)",
    )
    add(
        "--to",
        choices=["libffm", "libfm", "libsvm"],
        default="libffm",
        help="format of the file (default: libffm)",
    )
    add_training_options(parser, groups=("data", "file"))


def run(options: argparse.Namespace) -> int:
    from fmlayers.runs import TrainingConfig
    from fmlayers.runs.conversion import convert

    config = TrainingConfig(**settings_in(options))
    names = convert(config, options.out, options.to, test=options.test_out)
    for path, index in zip((options.out, options.test_out), names, strict=False):
        print(f"written to {path}, and what each index means to {index}")
    return 0
