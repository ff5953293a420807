"""`fmlayers tune`."""

import argparse
from collections.abc import Sequence
from typing import Any

from fmlayers.cli.options import add_training_options, training_config
from fmlayers.models.specs import find
from fmlayers.runs.config import SETTINGS


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--out",
        required=True,
        metavar="STUDY",
        help="folder of the study; one that is there is gone on with, or extended",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace the study at STUDY, once the new one is done",
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
        help="trials in all (default: 20; hyperband: as many as it needs)",
    )
    add(
        "--max-minutes",
        type=float,
        metavar="M",
        help="after which no trial begins (default: no limit)",
    )
    add(
        "--objective",
        default="",
        metavar="NAME",
        help="what is best on the validation rows: val_rmse, or by lists of their "
        "users val_ndcg or val_map (default: val_rmse; clicks: val_bce or val_bpr)",
    )
    add("--top", type=int, default=10, metavar="K", help="length of a list")
    add(
        "--search",
        nargs="+",
        action=Search,
        metavar="NAME[=VALUES]",
        help="search these alone, each with the VALUES LOW:HIGH or A,B,C or all that "
        "it may have; --list names them (default: all but what an option below sets)",
    )
    add("--list", action="store_true", help="print what would be searched, and stop")
    add("--tuner-seed", type=int, default=0, metavar="SEED", help="of the trials")
    add(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes of this machine that run trials (default: 1)",
    )
    add(
        "--worker-timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="of silence after which a worker counts as gone (default: 120)",
    )
    add(
        "--memory-limit",
        type=int,
        metavar="MB",
        help="of a trial's weights and its optimizer's numbers (default: half of the "
        "machine's memory, parted among the workers)",
    )
    add_training_options(parser, several_models=True)


class Search(argparse.Action):
    """Reads NAME[=VALUES] ... into a dict."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        parted = [text.partition("=") for text in values or ()]
        setattr(namespace, self.dest, {name: told for name, _, told in parted})


def run(options: argparse.Namespace) -> int:
    from fmlayers.tuning import TuningConfig, searched, tune

    models = getattr(options, "models", ())
    given = [name for name in SETTINGS if name in vars(options)]
    if models:
        # The default one: the first that takes all settings, if there is any.
        takers = [m for m in models if all(find(m).takes(name) for name in given)]
        options.model = (takers or models)[0]
    if len(models) == 1:
        given.append("model")
    given += [f"l2/{feature}" for feature in getattr(options, "l2_of", {})]
    config = TuningConfig(
        training=training_config(options),
        models=models,
        search=options.search,
        fixed=given,
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
