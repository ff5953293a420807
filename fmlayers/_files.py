"""Atomic writing of files and folders."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Writes a file atomically.

    The context manager yields a temporary path to write to, with the same suffix, since
    some writers depend on it. At the end of the block it replaces `path`. If the block
    raises an error, `path` stays unchanged.

    Args:
        path: Path of the file.
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(
        prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent
    )
    os.close(handle)
    written = Path(name)
    try:
        yield written
        written.chmod(0o666 & ~_umask())
        written.replace(target)
    finally:
        written.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Writes a folder atomically.

    The context manager yields a temporary folder to fill. At the end of the block it
    replaces `path`, which may be a folder or a file. If the block raises an error,
    `path` stays unchanged.

    Args:
        path: Path of the folder.
    """
    target = Path(path)
    written = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield written
        written.chmod(0o777 & ~_umask())
        put_in_place(written, target)
    finally:
        shutil.rmtree(written, ignore_errors=True)


def put_in_place(written: Path, path: Path) -> None:
    """Moves a finished folder to `path` and then removes what it replaces."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        written.replace(path)
        return
    replaced = path.with_name(path.name + ".replaced")
    _remove(replaced)
    path.replace(replaced)
    try:
        written.replace(path)
    except BaseException:
        replaced.replace(path)
        raise
    _remove(replaced)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
