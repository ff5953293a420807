import importlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from fmlayers._files import (
    MARK,
    discard,
    naming,
    publish,
    put_in_place,
    remove_leftovers,
    temporary_path,
)
from fmlayers._json_files import read_json, write_json

fcntl: Any
try:
    fcntl = importlib.import_module("fcntl")
except ImportError:  # on Windows, folders are not locked
    fcntl = None

PROGRESS = "progress.json"
H5, NPZ = ".weights.h5", ".state.npz"  # endings of the names of checkpoints
BACKUP = "backup"  # the folder of an interrupted run with samples
# The files whose digests `metrics.json` records.
FILES = frozenset(
    {
        "config.json",
        "history.csv",
        "history.png",
        "items.csv",
        "model.keras",
        "samples.npz",
        "summary.txt",
        "users.csv",
    }
)
# The temporary files of version 0.1.0.
_OLD_TEMPORARY = re.compile(r"\.[a-z]+-\w+\.(json|csv|txt|png|keras)")


class RunError(ValueError):
    """Raised if the folder of a run is missing, taken, unfinished or damaged."""


class DivergenceError(RunError):
    """Raised if a loss, a metric, a weight or a score is NaN or infinite."""


def is_run(path: Path) -> bool:
    return (path / "metrics.json").is_file() and (path / "model.keras").is_file()


def partial_path(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


@contextmanager
def begin(
    path: Path, config: dict[str, Any], *, resume: bool, overwrite: bool
) -> Iterator[Path | None]:
    """Yields the folder to train in, which stands next to that of the finished run.

    The folder is locked against other processes.

    Args:
        path: The folder of the finished run, which stays as it is.
        config: The configuration, a dict of JSON values.
        resume: Whether to yield the folder of an interrupted run.
        overwrite: Whether a run at `path` may be replaced later.

    Yields:
        The folder, or `None` if the run to resume is at `path` and finished.

    Raises:
        RunError: If `path` is taken, there is no run to resume, or the interrupted run
            has another configuration.
    """
    remove_leftovers(path.parent)
    complete(path)
    if (
        path.exists()
        and not is_run(path)
        and (not path.is_dir() or any(path.iterdir()))
    ):
        raise RunError(f"{path} exists and is not a run. Choose another folder.")
    partial = partial_path(path)
    with ExitStack() as stack:
        previous = None
        if _is_begun(partial):
            stack.enter_context(locked(partial))
            previous = read_json(partial / "config.json", RunError)
        elif resume and _is_finished(path, config):
            yield None
            return
        if is_run(path) and not overwrite and not (resume and previous is not None):
            raise RunError(
                f"{path} holds a finished run. Choose another folder, or replace the "
                "run with `--overwrite`."
            )
        if resume and not partial.exists():
            raise RunError(f"There is no interrupted run to resume at {partial}.")
        if previous is None:
            yield stack.enter_context(_created(partial, config))
            return
        if resume:
            _check_same(partial, previous, config)
            yield partial
            return
        if not overwrite:
            raise RunError(
                f"{partial} holds an interrupted run. Resume it with `--resume`, or "
                "start again with `--overwrite`."
            )
        drop(partial)
        yield stack.enter_context(_created(partial, config))


def finish(partial: Path, path: Path) -> None:
    """Puts a finished run in place, and then removes its checkpoints.

    If the process is killed in between, the next call of `begin` does the rest.
    """
    put_in_place(partial, path)
    _remove_checkpoints(path)


def complete(path: Path) -> None:
    """Does what a killed process left to do after it had put a run in place.

    If the run replaced another, the other one has the name of the partial folder.
    """
    if not is_run(path) or not (path / PROGRESS).exists():
        return
    with locked(path):
        replaced = partial_path(path)
        if is_run(replaced):
            drop(replaced)
        _remove_checkpoints(path)
        if (path / PROGRESS).exists():
            raise RunError(f"{path / PROGRESS} must be removed: {path} is finished.")


def drop(partial: Path) -> None:
    """Removes a folder in one step, so that no part of it can be mistaken for a run."""
    removed = temporary_path(partial)
    partial.replace(removed)
    discard(removed)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks a folder with a `config.json` against other processes.

    Raises:
        RunError: If another process holds the lock.
    """
    if fcntl is None:
        yield
        return
    path = folder / "config.json"
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"Another process is writing to {folder}.") from error
        if not path.exists() or not os.path.samestat(
            os.fstat(file.fileno()), path.stat()
        ):
            raise RunError(f"Another process is writing to {folder}.")
        yield


def _is_begun(partial: Path) -> bool:
    """Returns whether a folder contains an interrupted run, or `False` if it is free.

    Raises:
        RunError: If it contains anything else.
    """
    if not partial.exists():
        return False
    path = partial / "config.json"
    if path.exists() and "fingerprint" in read_json(path, RunError):
        if _is_finished_elsewhere(partial):
            raise RunError(f"{partial} holds a finished run. Move it away.")
        return True
    if path.exists() or not partial.is_dir() or _content(partial):
        raise RunError(f"{partial} exists and is not a run. Move it away.")
    return False


def _is_finished_elsewhere(partial: Path) -> bool:
    """Returns whether the folder has become a run under its present name."""
    if not is_run(partial) or (partial / PROGRESS).exists():
        return False
    # Version 0.1.0 removed the progress before it put a run in place.
    return "files" in read_json(partial / "metrics.json", RunError)


def _content(folder: Path) -> list[Path]:
    """Returns the entries of a folder that are not temporary."""
    return [
        path
        for path in folder.iterdir()
        if MARK not in path.name and not _OLD_TEMPORARY.fullmatch(path.name)
    ]


def _is_finished(path: Path, config: dict[str, Any]) -> bool:
    with suppress(RunError):
        return is_run(path) and read_json(path / "config.json", RunError) == config
    return False


def _check_same(
    partial: Path, previous: dict[str, Any], config: dict[str, Any]
) -> None:
    changed = [
        f"{name} {previous.get(name)!r} (now {config.get(name)!r})"
        for name in sorted({*previous, *config})
        if previous.get(name) != config.get(name)
    ]
    if changed:
        raise RunError(f"{partial} has another configuration: {', '.join(changed)}.")


@contextmanager
def _created(partial: Path, config: dict[str, Any]) -> Iterator[Path]:
    """Yields the new folder. It is locked and has its configuration when it appears."""
    written = temporary_path(partial)
    try:
        with naming(partial):
            written.mkdir(parents=True)
            write_json(written / "config.json", config)
        with locked(written):
            if partial.exists():
                _remove_temporary(partial)
            try:
                publish(written, partial)
            except FileExistsError as error:
                raise RunError(f"Another process is writing to {partial}.") from error
            yield partial
    finally:
        shutil.rmtree(written, ignore_errors=True)


def checkpoints_in(folder: Path) -> list[Path]:
    """Returns the checkpoints of an interrupted run."""
    return [path for suffix in (H5, NPZ) for path in folder.glob(f"*{suffix}")]


def _remove_checkpoints(path: Path) -> None:
    _remove_temporary(path)
    for checkpoint in checkpoints_in(path):
        discard(checkpoint)
    if (path / BACKUP).exists():
        discard(path / BACKUP)
    discard(path / PROGRESS)  # last: it says that there is something to remove


def _remove_temporary(folder: Path) -> None:
    remove_leftovers(folder)
    for path in folder.iterdir():
        if _OLD_TEMPORARY.fullmatch(path.name):
            discard(path)
