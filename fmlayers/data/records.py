"""Records of a text file, each with the line on which it starts."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

from fmlayers.data.errors import DataError

# One at a time: `io.StringIO` would take four bytes per character.
_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


def shown(text: str) -> str:
    """Returns text in quotation marks, shortened to fit in an error message."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


def decode(data: bytes, name: str) -> str:
    """Returns the text of UTF-8 data, without its byte order mark.

    Args:
        data: The contents of the file.
        name: Name of the file, for error messages.

    Raises:
        DataError: If the data are not UTF-8. The message names the first such line.
    """
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = len((data[: error.start] + b".").splitlines())
        raise DataError(
            f"{name}, line {line}: expected UTF-8, read the byte "
            f"0x{data[error.start]:02x}. Save the file as UTF-8."
        ) from None


def records(
    text: str, name: str, separator: str, *, quoted: bool = True
) -> Iterator[tuple[int, list[str]]]:
    """Yields the line on which each record starts, and its fields.

    Blank lines are skipped, as in pandas.

    Args:
        text: The contents of the file.
        name: Name of the file, for error messages.
        separator: Delimiter between two fields; one character if `quoted`.
        quoted: Whether quotation marks may enclose a field, which can then contain
            delimiters and line breaks. Defaults to `True`.

    Raises:
        DataError: If a record is not valid CSV.
    """
    lines = (match.group() for match in _LINES.finditer(text))
    if not quoted:
        for line, content in enumerate(lines, start=1):
            if content.strip(" \t\r\n"):
                yield line, content.rstrip("\r\n").split(separator)
        return
    reader = csv.reader(lines, delimiter=separator)
    line = 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{name}, line {line}: {error}") from error
        if len(fields) > 1 or (fields and fields[0].strip(" \t")):
            yield line, fields
        line = reader.line_num + 1


def check_width(
    name: str, line: int, fields: list[str], width: int, separator: str
) -> None:
    """Raises `DataError` unless the record has `width` fields."""
    if len(fields) != width:
        raise DataError(
            f"{name}, line {line}: expected {width} fields separated by "
            f"{separator!r}, read {len(fields)}: {shown(separator.join(fields))}"
        )
