"""Atomic writing of files and folders.

A file or folder is written under a temporary name beside its path, flushed to the disk
and renamed. The temporary name carries `MARK` and the process that writes, so that what
a killed process leaves behind is recognized and removed by the next write to the same
folder. Nothing else is ever removed.
"""

import contextlib
import ctypes
import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MARK = ".fmlayers-"
# A folder that was moved aside has this at the end of its temporary name.
_ASIDE = ".aside"
_TEMPORARY = re.compile(
    rf"\.(?P<name>.+){re.escape(MARK)}(?P<host>[0-9a-f]{{8}})-(?P<process>\d+)-"
    rf"[0-9a-f]{{8}}(?P<end>\..*)?"
)
# A process on another host may still be writing, but hardly for so long.
_MAX_FOREIGN_SECONDS = 7 * 24 * 3600
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF, errno.EROFS)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Writes a file atomically.

    The context manager yields a temporary path to write to, with the same suffix, since
    some writers depend on it. At the end of the block it replaces `path`. If the block
    raises an error, `path` stays unchanged.

    Args:
        path: Path of the file.

    Raises:
        OSError: If the disk is full or `path` cannot be written. The error names
            `path`.
    """
    target = Path(path)
    with naming(target):
        remove_leftovers(target.parent)
        written = temporary_path(target, target.suffix)
        written.touch()
        try:
            yield written
            _sync(written)
            written.replace(target)
        finally:
            written.unlink(missing_ok=True)
        _sync(target.parent)


@contextmanager
def whole_files(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Writes a file and those next to it, each of them atomically.

    The context manager yields the temporary path of the file, in a folder of its own.
    At the end of the block, all files of that folder are moved next to `path`, and the
    file itself last. If the process is killed in between, old files are next to new
    ones, so one of them should contain the digests of the others.

    Args:
        path: Path of the file.

    Raises:
        OSError: If the disk is full or a file cannot be written. The error names
            `path`.
    """
    target = Path(path)
    with naming(target):
        remove_leftovers(target.parent)
        folder = temporary_path(target)
        folder.mkdir()
        try:
            yield folder / target.name
            _sync_tree(folder)
            for file in sorted(folder.iterdir(), key=lambda x: x.name == target.name):
                file.replace(target.with_name(file.name))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        _sync(target.parent)


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Writes a folder atomically.

    The context manager yields a temporary folder to fill. At the end of the block it
    replaces `path`, which may be a folder or a file. If the block raises an error,
    `path` stays unchanged.

    Args:
        path: Path of the folder.

    Raises:
        OSError: If the disk is full or `path` cannot be written. The error names
            `path`.
    """
    target = Path(path)
    with naming(target):
        remove_leftovers(target.parent)
        written = temporary_path(target)
        written.mkdir()
        try:
            yield written
            put_in_place(written, target)
        finally:
            shutil.rmtree(written, ignore_errors=True)


def put_in_place(written: Path, path: Path) -> None:
    """Moves a finished folder to `path` and then removes what it replaces.

    On Linux the two change places in one step, where the file system can do that.
    Elsewhere, what was at `path` is moved aside first; `remove_leftovers` moves it back
    if the process is killed in between.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        publish(written, path)
        return
    _sync_tree(written)
    replaced = temporary_path(path, _ASIDE)
    if _exchange(written, path):
        # Under a temporary name, it can be removed even after a kill.
        replaced = temporary_path(path)
        written.replace(replaced)
    else:
        path.replace(replaced)
        try:
            written.replace(path)
        except BaseException:
            replaced.replace(path)
            raise
    _sync(path.parent)
    discard(replaced)


def publish(written: Path, path: Path) -> None:
    """Moves a finished folder to `path`, which must be free or an empty folder.

    Raises:
        FileExistsError: If another process has put something at `path`.
    """
    _sync_tree(written)
    try:
        with contextlib.suppress(OSError):
            path.rmdir()  # Windows replaces no folder
        written.replace(path)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        raise FileExistsError(
            errno.EEXIST, os.strerror(errno.EEXIST), str(path)
        ) from error
    _sync(path.parent)


def discard(path: Path) -> None:
    """Removes a file or folder that is no longer needed. A failure only warns."""
    try:
        _remove(path)
    except OSError as error:
        warnings.warn(
            f"{path} is no longer needed and could not be removed: {error}",
            stacklevel=2,
        )


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes left behind in a folder, as far as possible.

    A folder that was moved aside is moved back if nothing has taken its place.
    """
    for path in _marked(folder):
        match = _TEMPORARY.fullmatch(path.name)
        if match is None or _is_alive(match, path):
            continue
        with contextlib.suppress(OSError):
            original = path.with_name(match["name"])
            if match["end"] == _ASIDE and not original.exists():
                path.replace(original)
            else:
                _remove(path)


def temporary_path(path: Path, end: str = "") -> Path:
    """Returns a new temporary name beside a path, which ends in `end`."""
    name = path.name.removesuffix(end) if end == path.suffix else path.name
    process = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{name}{MARK}{process}{end}")


def _marked(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if MARK in path.name]
    except OSError:
        return []


def _is_alive(match: re.Match[str], path: Path) -> bool:
    """Returns whether the process that made a temporary path may still write to it."""
    if match["host"] != _host() or os.name == "nt":
        try:
            return time.time() - path.stat().st_mtime < _MAX_FOREIGN_SECONDS
        except OSError:
            return False
    try:
        os.kill(int(match["process"]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # a process of another user
        return True
    return True


def _host() -> str:
    """Returns a digest of the host and, in a container, of its process numbers."""
    name = platform.node()
    with contextlib.suppress(OSError):
        name += str(Path("/proc/self/ns/pid").stat().st_ino)
    return hashlib.sha256(name.encode()).hexdigest()[:8]


@contextmanager
def naming(target: Path) -> Iterator[None]:
    """Names the target in the errors of a full disk and of temporary paths."""
    try:
        yield
    except OSError as error:
        is_temporary = MARK in str(error.filename)
        if error.errno is None or not (error.errno in _FULL or is_temporary):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(target)) from error


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two paths in one step. Returns `False` where that is not possible."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of <fcntl.h>
    first, second = os.fsencode(one), os.fsencode(other)
    return bool(rename(here, first, here, second, exchange) == 0)


def _sync_tree(folder: Path) -> None:
    for name, _, files in os.walk(folder):
        for file in files:
            _sync(Path(name, file))
        _sync(Path(name))


def _sync(path: Path) -> None:
    """Flushes a file, or the names in a folder, to the disk where that is possible."""
    try:
        number = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno in _NO_SYNC:  # a folder on Windows
            return
        raise
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(number)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
