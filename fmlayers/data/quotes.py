"""The rule by which quotation marks enclose a field of a CSV file."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from mmap import mmap

from fmlayers.data.errors import DataError
from fmlayers.data.records import line_at

_QUOTED = re.compile(rb'"(?:[^"]++|"")*+"')
_LINE_END = re.compile(rb"\r\n|\r|\n")
_BLANK = re.compile(rb"(?:[ \t]*(?:\r\n|\r|\n))*+")
_ENDS = (b"", b"\r", b"\n")
_BYTE_ORDER = b"\xef\xbb\xbf"
_REMEDY = 'If quotation marks are ordinary characters here, set `quoting` to "never".'


def check_quotes(
    data: bytes | mmap,
    name: str,
    separator: str,
    width: int | None = None,
    *,
    strict: bool = True,
) -> None:
    """Checks that quotation marks enclose fields of a CSV file, or are part of them.

    A field that begins with a quotation mark must end with the next one that is not
    doubled. A quotation mark after another character is an ordinary character. For
    files that pass, pandas and the module `csv` read the same fields.

    Args:
        data: The contents of the file, in UTF-8 or another superset of ASCII.
        name: Name of the file, for error messages.
        separator: Delimiter between two fields, one ASCII character.
        width: Number of fields of a row. Defaults to `None`: that of the first record.
        strict: Whether to refuse a quoted field that spans several lines if each of
            them has `width` fields, so that they may be rows of their own. Defaults to
            `True`.

    Raises:
        DataError: If a quotation mark is never closed, text follows a closing one, or a
            field spans lines that may be rows. The message names the line.
    """
    mark = separator.encode()
    between = re.escape(mark)
    plain = rb"(?!\")[^\r\n%s]*+" % between
    rest = re.compile(plain)
    # The fields of a line, if those in quotation marks end on the line.
    line = re.compile(
        rb'(?:(?:"(?:[^"\r\n]++|"")*+"|%s)(?:%s|(?=[\r\n])|\Z))*+' % (plain, between)
    )
    start = end = len(_BYTE_ORDER) if data[:3] == _BYTE_ORDER else 0
    position = data.find(b'"', end)
    while position >= 0:
        last = max(data.rfind(x, end, position) for x in (b"\n", b"\r"))
        begin = max(end, last + 1)
        end = _end(line, data, begin)
        if data[end : end + 1] not in _ENDS:
            fields, end = _record(data, begin, name, mark, rest)
            if strict:
                if width is None:
                    first = _end(_BLANK, data, start)
                    width = len(_record(data, first, name, mark, rest)[0])
                place = partial(line_at, data, begin)
                _refuse_rows(fields, name, place, separator, width)
        position = data.find(b'"', end)


def _record(
    data: bytes | mmap,
    begin: int,
    name: str,
    separator: bytes,
    rest: re.Pattern[bytes],
) -> tuple[list[bytes], int]:
    """Returns the fields of the record that begins at a position, and its end."""
    fields = []
    end = begin
    while True:
        begin, end = end, _end(rest, data, end)
        if data[end : end + 1] == b'"':
            end = _end(_QUOTED, data, begin)
            if end == begin:
                raise DataError(
                    f"{name}, line {line_at(data, begin)}: a quotation mark is never "
                    f"closed. {_REMEDY}"
                )
            if data[end : end + 1] not in (*_ENDS, separator):
                raise DataError(
                    f"{name}, line {line_at(data, end)}: text follows the closing "
                    f"quotation mark of a field that begins on line "
                    f"{line_at(data, begin)}. {_REMEDY}"
                )
        fields.append(data[begin:end])
        if data[end : end + 1] in _ENDS:
            return fields, end
        end += len(separator)


def _refuse_rows(
    fields: list[bytes],
    name: str,
    line: Callable[[], int],
    separator: str,
    width: int,
) -> None:
    """Raises `DataError` if each line of a record has the number of fields of a row."""
    parts = []
    for field in fields:
        is_one_line = field.startswith(b'"') and not _LINE_END.search(field)
        parts.append(b"" if is_one_line else field)
    lines = _LINE_END.split(separator.encode().join(parts))
    if len(lines) > 1 and all(x.count(separator.encode()) + 1 == width for x in lines):
        raise DataError(
            f"{name}, line {line()}: a field in quotation marks spans {len(lines)} "
            f"lines that may be rows, since each has {width} fields. {_REMEDY} If the "
            'field has line breaks, set it to "always".'
        )


def _end(pattern: re.Pattern[bytes], data: bytes | mmap, begin: int) -> int:
    match = pattern.match(data, begin)
    return match.end() if match else begin
