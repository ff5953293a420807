import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a path to write to; what is there at the end becomes `path`.

    The file appears whole or, if the block raises, not at all, and what stood at
    `path` before stays. The suffix is kept, since some writers go by it.
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
    """Yields a folder to fill; what is in it at the end becomes `path`.

    As `whole_file`: it appears whole or not at all, and what stood there before, a
    folder or a file, is gone only when the new one is in its place.
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
    """Makes a finished folder `path`; what is there is gone only thereafter."""
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
