"""Reading of compressed files, within limits that stop a decompression bomb."""

import gzip
import io
import lzma
import stat
import struct
import zipfile
import zlib
from collections import Counter
from pathlib import Path, PureWindowsPath
from typing import IO

from fmlayers.data.errors import DataError

MAX_BYTES = 16 * 2**30  # of one uncompressed file
# Text of ratings shrinks to a tenth. A file that exceeds MIN_LIMITED_BYTES may be at
# most MAX_RATIO times as large as its compressed form.
MAX_RATIO = 200
MIN_LIMITED_BYTES = 64 * 2**20
_PIECE = 2**20
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


def gunzip(data: bytes, name: str) -> bytes:
    """Returns the uncompressed contents of a gzip file.

    Args:
        data: The compressed contents.
        name: Name of the file, for error messages.

    Raises:
        DataError: If the file is damaged or exceeds the limits.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            return _within_limits(stream, len(data), name)
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(
            f"{name} is truncated or damaged ({error}). Download it again."
        ) from error


def names_in_zip(path: Path) -> list[str]:
    """Returns the names of the files in a zip file.

    Raises:
        DataError: If the file is not a zip file, or a name is absolute, leads out of
            the archive or occurs twice.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
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


def _within_limits(
    stream: IO[bytes] | gzip.GzipFile, compressed: int, name: str
) -> bytes:
    """Reads a stream piece by piece, so that a bomb stops at the limit."""
    most = min(MAX_BYTES, max(MIN_LIMITED_BYTES, MAX_RATIO * compressed))
    contents = io.BytesIO()
    while piece := stream.read(_PIECE):
        contents.write(piece)
        if contents.tell() > most:
            raise DataError(
                f"{name} is larger than {most:,} bytes, the limit for {compressed:,} "
                "compressed bytes. If you trust it, unpack it and pass the result."
            )
    return contents.getvalue()
