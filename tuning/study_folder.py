"""The folder of a study, and how one study replaces another."""

import re
import secrets
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmlayers._files import (
    MARK,
    discard,
    naming,
    publish,
    remove_leftovers,
    temporary_path,
)
from fmlayers._json_files import read_json, write_json
from fmlayers.runs.folder import is_run

RECORD = "config.json"
TRIALS = "trials"  # KerasTuner's folder in the folder of a study
BEST = "best"  # folder of the best run
# A study that another one replaces has this, and a random part, at the end of its name.
# `remove_leftovers` keeps it, as it is no temporary name.
_FORMER = f"{MARK}former-"


class StudyError(ValueError):
    """Raised if the folder of a study cannot be used, or a search has no result."""


def is_study(path: Path) -> bool:
    """Returns whether a folder is a study, whose record may be damaged.

    Raises:
        StudyError: If its `config.json` cannot be read.
    """
    file = path / RECORD
    return file.is_file() and "study" in read_json(file, StudyError)


def former_studies(path: Path) -> list[Path]:
    """Returns the folders of the studies that the one at `path` is to replace."""
    name = re.compile(re.escape(path.name + _FORMER) + "[0-9a-f]{8}")
    try:
        entries = sorted(path.parent.iterdir())
    except OSError:
        return []
    return [x for x in entries if name.fullmatch(x.name) and (x / RECORD).is_file()]


def create(path: Path, record: Mapping[str, Any]) -> None:
    """Makes the folder of a study, which has its record when it appears.

    Raises:
        OSError: If that is not possible. The error names `path`.
    """
    written = temporary_path(path)
    with naming(path):
        try:
            written.mkdir(parents=True)
            write_json(written / RECORD, record)
            publish(written, path)
        finally:
            shutil.rmtree(written, ignore_errors=True)


def recover(path: Path) -> None:
    """Does what a killed process left to do.

    If it has moved a study aside, and no other has taken its place, the study is moved
    back.
    """
    remove_leftovers(path.parent)
    former = former_studies(path)
    if former and not path.exists():
        former[-1].replace(path)


def set_aside(path: Path) -> None:
    """Moves a study aside until the next one at `path` has its best run.

    If it has itself replaced another and has no best run, it is removed, and the other
    one is kept.
    """
    former = former_studies(path)
    if former and not is_run(path / BEST):
        drop(path)
        return
    drop_former(path)
    path.replace(path.with_name(f"{path.name}{_FORMER}{secrets.token_hex(4)}"))


def drop_former(path: Path) -> None:
    """Removes the studies that the one at `path` has replaced. A failure only warns."""
    for former in former_studies(path):
        try:
            drop(former)
        except OSError as error:
            warnings.warn(
                f"{former} is no longer needed and could not be removed: {error}",
                stacklevel=2,
            )


def drop(path: Path) -> None:
    """Removes a study in one step, so that no part of it can be mistaken for one."""
    removed = temporary_path(path)
    path.replace(removed)
    discard(removed)
