"""What a bad file says: the error, and the pass that finds the line to name."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator


class DataError(ValueError):
    """A file or a table that can't be used as it is.

    The message names the file and the line as an editor counts it, or the column,
    and what was read there.
    """


def shown(text: str) -> str:
    """Quote what was read, shortened to what fits in a message."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


def decode(data: bytes, name: str) -> str:
    """Decode UTF-8, with or without a byte order mark.

    Raises:
        DataError: naming the first line that isn't UTF-8.
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
    """Yield the line on which each record starts, and its fields.

    Blank lines are passed over, as pandas does.

    Args:
        text: the contents of the file.
        name: the file's name, for errors.
        separator: what stands between two fields; one character if `quoted`.
        quoted: whether quotation marks enclose fields, which may then hold
            separators and line ends.
    """
    lines = io.StringIO(text, newline="")
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
    """Raise `DataError` unless the record has `width` fields."""
    if len(fields) != width:
        raise DataError(
            f"{name}, line {line}: expected {width} fields separated by "
            f"{separator!r}, read {len(fields)}: {shown(separator.join(fields))}"
        )
