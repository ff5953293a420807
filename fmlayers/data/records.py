"""Records of a text file, each with the line on which it starts."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterable, Iterator
from mmap import mmap
from pathlib import Path

from fmlayers.data.errors import DataError

# One at a time: `io.StringIO` would take four bytes per character.
_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_LINE_ENDS = re.compile(rb"\r\n|\r|\n")
_UTF_8 = ("utf-8", "utf-8-sig")


def shown(text: str) -> str:
    """Returns text in quotation marks, shortened to fit in an error message."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


def one_line(error: object) -> str:
    """Returns the text of an error on one line."""
    return " ".join(str(error).split())


def decode(data: bytes, name: str, encoding: str = "utf-8") -> str:
    """Returns the text of a file, without its byte order mark.

    Args:
        data: The contents of the file.
        name: Name of the file, for error messages.
        encoding: Name of the encoding. Defaults to `"utf-8"`.

    Raises:
        DataError: If the data are not in this encoding. The message names the first
            such line.
    """
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode(encoding, "replace")
        line = len((before + ".").splitlines())
        is_utf_8 = codecs.lookup(encoding).name in _UTF_8
        remedy = "Save the file as UTF-8, or name" if is_utf_8 else "Name"
        raise DataError(
            f"{name}, line {line}: expected {'UTF-8' if is_utf_8 else encoding}, read "
            f"the byte 0x{error.object[error.start]:02x}. {remedy} its encoding with "
            "`encoding`."
        ) from None


def as_utf_8(data: bytes, name: str, encoding: str) -> bytes:
    """Returns the contents of a text file in UTF-8; see `decode`.

    Data in UTF-8 are returned as they are, also if they are damaged.

    Raises:
        DataError: If the data are not in this encoding, or contain a null character.
    """
    if codecs.lookup(encoding).name not in _UTF_8:
        data = decode(data, name, encoding).encode()
    check_null(data, name)
    return data


def check_null(data: bytes | mmap, name: str) -> None:
    """Raises `DataError` if a text file contains a null character."""
    position = data.find(b"\0")
    if position >= 0:
        raise DataError(
            f"{name}, line {line_at(data, position)}: a null character. Name the "
            "encoding of the file with `encoding`, such as utf-16, unless the file is "
            "damaged."
        )


def line_at(data: bytes | mmap, position: int) -> int:
    """Returns the number of the line that contains a position."""
    return len(_LINE_ENDS.findall(data, 0, position)) + 1


def lines_of(path: Path, name: str) -> Iterator[str]:
    """Yields the lines of a UTF-8 file with their line ends, without a BOM.

    Raises:
        DataError: If the file is not in UTF-8. The message names the line.
    """
    # Each byte that is not UTF-8 becomes a surrogate, which valid text cannot contain.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        for number, line in enumerate(file, start=1):
            if not line.isascii():
                try:
                    line.encode()
                except UnicodeEncodeError as error:
                    byte = ord(line[error.start]) - 0xDC00
                    raise DataError(
                        f"{name}, line {number}: expected UTF-8, read the byte "
                        f"0x{byte:02x}. Save the file as UTF-8, or name its encoding "
                        "with `encoding`."
                    ) from None
            yield line


def records(
    text: str | Iterable[str], name: str, separator: str, *, quoted: bool = True
) -> Iterator[tuple[int, list[str]]]:
    """Yields the line on which each record starts, and its fields.

    Blank lines are skipped, as in pandas.

    Args:
        text: The contents of the file, or its lines.
        name: Name of the file, for error messages.
        separator: Delimiter between two fields; one character if `quoted`.
        quoted: Whether quotation marks may enclose a field, which can then contain
            delimiters and line breaks. `check_quotes` must have passed. Defaults to
            `True`.

    Raises:
        DataError: If a record is not valid CSV.
    """
    lines = iter(text)
    if isinstance(text, str):
        lines = (match.group() for match in _LINES.finditer(text))
    if not quoted:
        for line, written in enumerate(lines, start=1):
            if not _is_blank(written, separator):
                yield line, written.rstrip("\r\n").split(separator)
        return
    last = ""

    def remembered() -> Iterator[str]:
        nonlocal last
        for content in lines:
            last = content
            yield content

    csv.field_size_limit(2**31 - 1)  # 131,072 by default
    reader = csv.reader(remembered(), delimiter=separator)
    line = 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{name}, line {line}: {error}") from error
        if reader.line_num > line or not _is_blank(last, separator):
            yield line, fields
        line = reader.line_num + 1


def _is_blank(line: str, separator: str) -> bool:
    return not line.strip(" \t\r\n") and separator not in line


def check_width(
    name: str, line: int, fields: list[str], width: int, separator: str
) -> None:
    """Raises `DataError` unless the record has `width` fields."""
    if len(fields) != width:
        raise DataError(
            f"{name}, line {line}: expected {width} fields separated by "
            f"{separator!r}, read {len(fields)}: {shown(separator.join(fields))}"
        )
