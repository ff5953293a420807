"""`fmlayers train`."""

import argparse
import os
import re
import sys
from pathlib import Path

from fmlayers.cli.options import add_training_options, settings_in


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", required=True, metavar="RUN", help="folder to write the run to")
    add("--resume", action="store_true", help="resume an interrupted run")
    add("--overwrite", action="store_true", help="replace the run at RUN")
    add(
        "--launch",
        metavar="WHERE",
        help="train in several processes with the JAX backend: 'local:N' starts N "
        "processes on this machine; 'ray:N' starts N Ray workers, and restarts them "
        "all if one dies; 'environment' joins the processes that SLURM, Open MPI, "
        "MPICH or Kubernetes has started",
    )
    add(
        "--coordinator",
        metavar="HOST:PORT",
        help="join a group of --processes processes at this address of process 0",
    )
    add("--processes", type=int, metavar="N", help="number of processes")
    add("--process", type=int, metavar="I", help="index of this process, from 0")
    add_training_options(parser)


def run(options: argparse.Namespace) -> int:
    from fmlayers import _hosts
    from fmlayers.runs import TrainingConfig, train

    launcher, count = _launcher(options)
    if launcher == "local" and "FMLAYERS_PROCESS" not in os.environ:
        from fmlayers.distributed.launch import launch

        return launch([sys.executable, "-m", "fmlayers", *options.words], count)
    config = TrainingConfig.of_options(settings_in(options))
    kept = {"resume": options.resume, "overwrite": options.overwrite}
    if launcher == "ray":
        from fmlayers.runs.ray_training import train_with_ray

        _print(train_with_ray(config, options.out, count, **kept), options.out)
        return 0
    parts = options.coordinator, options.processes, options.process
    if launcher is not None or any(part is not None for part in parts):
        from fmlayers.distributed import start

        start(*parts)
    finished = train(config, options.out, **kept)
    if _hosts.is_first():
        _print(finished.summary(), options.out)
    return 0


def _print(summary: str, out: str) -> None:
    print(summary, end="")
    print(f"\nwritten to {out}")


def _launcher(options: argparse.Namespace) -> tuple[str | None, int]:
    """Returns the launcher and the number of processes that it starts, or 0.

    Raises:
        ValueError: If the options contradict each other.
    """
    if options.launch in (None, "environment"):
        return options.launch, 0
    match = re.fullmatch(r"(local|ray):([1-9]\d*)", options.launch)
    if not match:
        raise ValueError(
            "`--launch` must be 'local:N' or 'ray:N', with the number of processes, or "
            f"'environment'. Received: --launch {options.launch}."
        )
    for name in ("coordinator", "processes", "process"):
        if getattr(options, name) is not None:
            raise ValueError(
                f"`--{name}` must be left out with `--launch {match[1]}:N`."
            )
    return match[1], int(match[2])


def resumption(options: argparse.Namespace) -> str:
    """Returns how to resume the command after an interruption, or `""`."""
    from fmlayers.runs.folder import partial_path

    partial = partial_path(Path(options.out).resolve())
    return "resume with --resume" if (partial / "config.json").is_file() else ""
