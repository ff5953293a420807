"""The folder of a run: begun, locked against other processes, and finished."""

import importlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fmlayers._files import whole_file

fcntl: Any
try:
    fcntl = importlib.import_module("fcntl")
except ImportError:  # Windows, where a folder goes without a lock
    fcntl = None


class RunError(ValueError):
    """A run's folder that is not as a command needs it."""


def is_run(path: Path) -> bool:
    return (path / "metrics.json").is_file() and (path / "model.keras").is_file()


def partial_path(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def begin(path: Path, config: dict[str, Any], *, resume: bool, overwrite: bool) -> Path:
    """Returns the folder to work in, made or found; touches no finished run.

    Raises:
        RunError: If `path` is taken, there is nothing to resume, or what is there
            was begun with another configuration.
    """
    partial = partial_path(path)
    if (
        path.exists()
        and not is_run(path)
        and (not path.is_dir() or any(path.iterdir()))
    ):
        raise RunError(f"{path} exists and is not a run: choose another folder.")
    if partial.exists() and not (partial / "config.json").is_file():
        raise RunError(f"{partial} exists and is not a run: move it away.")
    resumable = resume and partial.exists()
    if is_run(path) and not overwrite and not resumable:
        raise RunError(
            f"{path} holds a finished run: choose another folder, or replace it with "
            "`--overwrite`."
        )
    if partial.exists():
        with locked(partial):
            pass
    if partial.exists() and not resume:
        if not overwrite:
            raise RunError(
                f"{partial} holds an interrupted run: go on with `--resume`, or begin "
                "anew with `--overwrite`."
            )
        shutil.rmtree(partial)
    if resume:
        if not partial.exists():
            raise RunError(f"There is no interrupted run to resume at {partial}.")
        begun = read_json(partial / "config.json")
        changed = [
            f"{name} {begun.get(name)!r} (now {config.get(name)!r})"
            for name in sorted({*begun, *config})
            if begun.get(name) != config.get(name)
        ]
        if changed:
            raise RunError(
                f"{partial} was begun with another configuration: {', '.join(changed)}."
            )
        return partial
    partial.mkdir(parents=True)
    write_json(partial / "config.json", config)
    return partial


@contextmanager
def locked(partial: Path) -> Iterator[None]:
    """Holds a folder to work in against other processes.

    Raises:
        RunError: If another process works in it.
    """
    if fcntl is None:
        yield
        return
    with (partial / "config.json").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"{partial} is being written by another process.") from error
        yield


def read_json(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} must hold a JSON object. It holds {content!r:.60}.")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    with whole_file(path) as written:
        written.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
