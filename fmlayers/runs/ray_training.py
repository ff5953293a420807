"""Runs that Ray workers train together."""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmlayers._logs import import_keras
from fmlayers.distributed import launch_with_ray
from fmlayers.runs.folder import partial_path

if TYPE_CHECKING:
    from fmlayers.runs.config import TrainingConfig


def train_with_ray(
    config: "TrainingConfig",
    out: str | Path,
    workers: int,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> str:
    """Trains in Ray workers, as `train` does, and resumes if a worker dies.

    Args:
        config: The configuration.
        out: Folder of the run. All workers must have access to it and to the data.
        workers: Positive integer, the number of workers.
        resume: Whether to resume an interrupted run. Defaults to `False`.
        overwrite: Whether to replace a run at `out`. Defaults to `False`.

    Returns:
        The summary of the run.
    """
    out = Path(out).resolve()
    args = (Path.cwd(), config.to_dict(), out, resume, overwrite, _versions(out))
    return launch_with_ray(_train, workers, args=args)[0]


def _train(
    folder: Path,
    config: dict[str, Any],
    out: Path,
    resume: bool,
    overwrite: bool,
    former: set[tuple[int, int]],
) -> str:
    # A worker unpickles this function and its arguments without importing Keras.
    import_keras()
    from fmlayers.distributed import start
    from fmlayers.runs import TrainingConfig, train

    with contextlib.suppress(FileNotFoundError):  # absolute paths do not need it
        os.chdir(folder)
    start()
    # Earlier workers, which these replace, may have begun the run.
    resume = resume or bool(_versions(out) - former)
    settings = TrainingConfig.from_dict(config)
    return train(settings, out, resume=resume, overwrite=overwrite).summary()


def _versions(out: Path) -> set[tuple[int, int]]:
    """Returns what identifies the interrupted and the finished run at `out`."""
    found = set()
    for folder in (partial_path(out), out):
        with contextlib.suppress(FileNotFoundError):
            status = (folder / "config.json").stat()
            found.add((status.st_ino, status.st_mtime_ns))
    return found
