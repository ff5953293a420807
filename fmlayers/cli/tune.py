"""`fmlayers tune`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fmlayers.cli.options import add_training_options, settings_in


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--out",
        required=True,
        metavar="STUDY",
        help="folder of the study; an existing study is resumed or extended",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace the study at STUDY when the new one is finished",
    )
    add(
        "--tuner",
        choices=["random", "bayesian", "hyperband"],
        default="random",
        help="how trials are chosen (default: random)",
    )
    add(
        "--max-trials",
        type=int,
        metavar="N",
        help="total number of trials (default: 20; hyperband: as many as it needs)",
    )
    add(
        "--max-minutes",
        type=float,
        metavar="M",
        help="minutes after which no trial starts (default: no limit)",
    )
    add(
        "--objective",
        default="",
        metavar="NAME",
        help="metric of the validation rows to optimize: val_rmse, val_ndcg or val_map "
        "(default: val_rmse; for implicit feedback the loss, val_bce or val_bpr)",
    )
    add(
        "--top",
        type=int,
        default=10,
        metavar="K",
        help="number of recommendations for val_ndcg and val_map (default: 10)",
    )
    add(
        "--search",
        nargs="+",
        action=Search,
        metavar="NAME[=VALUES]",
        help="hyperparameters to search, each with optional VALUES LOW:HIGH or A,B,C; "
        "--list prints them (default: all except those that an option below sets)",
    )
    add("--list", action="store_true", help="print the search space and exit")
    add("--tuner-seed", type=int, default=0, metavar="SEED", help="seed of the trials")
    add(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="number of local processes that run trials (default: 1)",
    )
    add(
        "--worker-timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="seconds without a sign of life after which a worker counts as lost "
        "(default: 120)",
    )
    add(
        "--memory-limit",
        type=int,
        metavar="MB",
        help="memory for the weights and the optimizer of a trial (default: half of "
        "the machine's memory, divided among the workers)",
    )
    add_training_options(parser, several_models=True)


class Search(argparse.Action):
    """Parses NAME[=VALUES] ... into a dict."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        pairs = [text.partition("=") for text in values or ()]
        setattr(namespace, self.dest, {name: values for name, _, values in pairs})


def run(options: argparse.Namespace) -> int:
    from fmlayers.tuning import TuningConfig, searched, tune

    config = TuningConfig.from_settings(
        settings_in(options),
        vars(options).get("models", ()),
        vars(options).get("methods", ()),
        search=options.search,
        tuner=options.tuner,
        objective=options.objective,
        k=options.top,
        seed=options.tuner_seed,
        memory_limit=options.memory_limit and options.memory_limit * 10**6,
    )
    if options.list:
        print(searched(config), end="")
        return 0
    study = tune(
        config,
        options.out,
        max_trials=options.max_trials,
        max_minutes=options.max_minutes,
        workers=options.workers,
        worker_timeout=options.worker_timeout,
        overwrite=options.overwrite,
    )
    if study is not None:
        print(study.summary(), end="")
        print(f"\nwritten to {options.out}")
    return 0


def resumption(options: argparse.Namespace) -> str:
    """Returns how to resume the command after an interruption, or `""`."""
    from fmlayers.tuning.study_folder import former_studies, is_study

    out = Path(options.out).resolve()
    if not is_study(out):
        return ""
    if not options.overwrite:
        return "resume with the same command"
    # Without a former study, the one at `out` has not been replaced yet.
    has_begun = bool(former_studies(out))
    return "resume with the same command without --overwrite" if has_begun else ""
