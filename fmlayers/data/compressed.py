"""Reading of compressed files, within limits that stop a decompression bomb."""

import bz2
import gzip
import io
import lzma
import re
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path, PureWindowsPath
from typing import IO, Any

from fmlayers.data.errors import DataError

MAX_BYTES = 16 * 2**30  # of one uncompressed file
# Text of ratings shrinks to a tenth. A file that exceeds MIN_LIMITED_BYTES may be at
# most MAX_RATIO times as large as its compressed form.
MAX_RATIO = 200
MIN_LIMITED_BYTES = 64 * 2**20
_PIECE = 2**20
_MAX_START = 10  # bytes that identify a format
_MAX_END_BYTES = 22 + 2**16  # the last record of a zip file, with its comment
# What the standard library raises for damaged, encrypted and unsupported files.
_DAMAGE = (
    zipfile.BadZipFile,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,  # encryption and, as NotImplementedError, unknown methods
    ValueError,
    lzma.LZMAError,
    struct.error,
    zlib.error,
)
_REMEDY = "Download it again, or pass the folder of the unpacked files."


def uncompressed(data: bytes, name: str) -> bytes:
    """Returns the contents of a gzip, bzip2, xz or Zstandard file.

    The format is recognized by the contents. Other data are returned as they are.

    Args:
        data: The contents of the file.
        name: Name of the file, for error messages.

    Raises:
        DataError: If the file is damaged or exceeds the limits.
        ImportError: If it is a Zstandard file, and pyarrow is not installed.
    """
    contents = io.BytesIO()
    is_compressed = uncompress(io.BytesIO(data), len(data), name, contents)
    return contents.getvalue() if is_compressed else data


def uncompress(file: IO[bytes], size: int, name: str, into: IO[bytes]) -> bool:
    """Writes the contents of a compressed file to another; see `uncompressed`.

    Args:
        file: The file.
        size: Integer, its size in bytes.
        name: Name of the file, for error messages.
        into: The file to write to.

    Returns:
        Whether the file is compressed. Otherwise, nothing is written.
    """
    start = file.read(_MAX_START)
    file.seek(0)
    opened = next((f for x, f in _OPENED.items() if re.match(x, start)), None)
    if opened is None:
        return False
    try:
        with opened(file) as stream:
            _write_within_limits(stream, size, name, into)
    except DataError:
        raise
    except ImportError as error:
        raise ImportError(
            f"{name} needs pyarrow: install it with `pip install fmlayers[parquet]`."
        ) from error
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # such as a full disk
        raise DataError(
            f"{name} is truncated or damaged ({error}). Download it again."
        ) from error
    return True


def _open_zstandard(file: IO[bytes]) -> Any:
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd")


# By the bytes with which the files start.
_OPENED: Mapping[bytes, Callable[[IO[bytes]], Any]] = {
    rb"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    rb"BZh[1-9](1AY&SY|\x17rE8P\x90)": bz2.BZ2File,
    rb"\xfd7zXZ\x00": lzma.LZMAFile,
    rb"\x28\xb5\x2f\xfd": _open_zstandard,
}


def names_in_zip(path: Path) -> list[str]:
    """Returns the names of the files in a zip file.

    Raises:
        DataError: If the file is not a zip file, or a name is damaged, absolute, leads
            out of the archive or occurs twice.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if not _has_count(path, len(names)):
                raise zipfile.BadZipFile("its directory is damaged")
            for name in names:
                # Opening compares the name in the directory with that before the file.
                with suppress(RuntimeError):  # encryption or an unknown method
                    archive.open(name).close()
    except _DAMAGE as error:
        raise DataError(
            f"{path} is truncated or not a zip file: {error}. {_REMEDY}"
        ) from error
    for name, count in Counter(names).items():
        place = PureWindowsPath(name)  # also splits at "/"
        if place.anchor or ".." in place.parts:
            raise DataError(
                f"{path} has a file with the path {name!r}, outside the archive. "
                f"{_REMEDY}"
            )
        if count > 1:
            raise DataError(f"{path} has {count} files named {name!r}. {_REMEDY}")
    return names


def _has_count(path: Path, count: int) -> bool:
    """Returns whether the end of a zip file states this number of files.

    `zipfile` does not compare it: damage to an entry can hide the one after it.
    """
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, io.SEEK_END) - _MAX_END_BYTES))
        end = file.read()
    start = end.rfind(b"PK\x05\x06")
    stated = int.from_bytes(end[start + 10 : start + 12], "little")
    return stated in (count, 0xFFFF)  # the latter: more than 16 bits can hold


def read_from_zip(path: Path, name: str) -> bytes:
    """Returns the contents of a file in a zip file.

    Raises:
        DataError: If the file is damaged, encrypted, compressed by an unknown method, a
            symbolic link, or exceeds the limits.
    """
    place = f"{name} in {path}"
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(name)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise DataError(f"{place} is a symbolic link. {_REMEDY}")
            if member.flag_bits & 1:
                raise DataError(
                    f"{place} is encrypted. Unpack it, and pass the folder."
                )
            with archive.open(member) as stream:
                return _within_limits(stream, member.compress_size, place)
    except DataError:
        raise
    except NotImplementedError as error:
        raise DataError(f"{place} cannot be unpacked: {error}. {_REMEDY}") from error
    except (*_DAMAGE, KeyError) as error:
        raise DataError(f"{place} is damaged: {error}. {_REMEDY}") from error


def fault_of_zip(path: Path) -> str | None:
    """Returns what is wrong with a zip file, by its checksums, or `None`."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except _DAMAGE as error:
        return f"is truncated or not a zip file ({error})"
    return f"is damaged at {broken}" if broken else None


def _within_limits(stream: Any, compressed: int, name: str) -> bytes:
    contents = io.BytesIO()
    _write_within_limits(stream, compressed, name, contents)
    return contents.getvalue()


def _write_within_limits(
    stream: Any, compressed: int, name: str, into: IO[bytes]
) -> None:
    """Reads a stream piece by piece, so that a bomb stops at the limit."""
    most = min(MAX_BYTES, max(MIN_LIMITED_BYTES, MAX_RATIO * compressed))
    size = 0
    while piece := stream.read(_PIECE):
        into.write(piece)
        size += len(piece)
        if size > most:
            raise DataError(
                f"{name} is larger than {most:,} bytes, the limit for {compressed:,} "
                "compressed bytes. If you trust it, unpack it and pass the result."
            )
