import importlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fmlayers._json_files import read_json, write_json

fcntl: Any
try:
    fcntl = importlib.import_module("fcntl")
except ImportError:  # on Windows, folders are not locked
    fcntl = None


class RunError(ValueError):
    """Raised if the folder of a run is missing, taken, unfinished or damaged."""


def is_run(path: Path) -> bool:
    return (path / "metrics.json").is_file() and (path / "model.keras").is_file()


def partial_path(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def begin(path: Path, config: dict[str, Any], *, resume: bool, overwrite: bool) -> Path:
    """Returns the folder to train in, next to that of the finished run.

    Args:
        path: The folder of the finished run, which stays as it is.
        config: The configuration, a dict of JSON values.
        resume: Whether to return the folder of an interrupted run.
        overwrite: Whether a run at `path` may be replaced later.

    Raises:
        RunError: If `path` is taken, there is no run to resume, or the interrupted run
            has another configuration.
    """
    partial = partial_path(path)
    if (
        path.exists()
        and not is_run(path)
        and (not path.is_dir() or any(path.iterdir()))
    ):
        raise RunError(f"{path} exists and is not a run. Choose another folder.")
    if partial.exists() and not (partial / "config.json").is_file():
        raise RunError(f"{partial} exists and is not a run. Move it away.")
    resumable = resume and partial.exists()
    if is_run(path) and not overwrite and not resumable:
        raise RunError(
            f"{path} holds a finished run. Choose another folder, or replace the run "
            "with `--overwrite`."
        )
    if partial.exists():
        with locked(partial):
            pass
    if partial.exists() and not resume:
        if not overwrite:
            raise RunError(
                f"{partial} holds an interrupted run. Resume it with `--resume`, or "
                "start again with `--overwrite`."
            )
        shutil.rmtree(partial)
    if resume:
        if not partial.exists():
            raise RunError(f"There is no interrupted run to resume at {partial}.")
        previous = read_json(partial / "config.json", RunError)
        changed = [
            f"{name} {previous.get(name)!r} (now {config.get(name)!r})"
            for name in sorted({*previous, *config})
            if previous.get(name) != config.get(name)
        ]
        if changed:
            raise RunError(
                f"{partial} has another configuration: {', '.join(changed)}."
            )
        return partial
    partial.mkdir(parents=True)
    write_json(partial / "config.json", config)
    return partial


@contextmanager
def locked(partial: Path) -> Iterator[None]:
    """Locks a folder against other processes.

    Raises:
        RunError: If another process holds the lock.
    """
    if fcntl is None:
        yield
        return
    with (partial / "config.json").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"Another process is writing to {partial}.") from error
        yield
