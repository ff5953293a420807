"""How the cells of a table are written in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

from fmlayers._checks import choice

FileFormat = Literal["auto", "csv", "libsvm", "libfm", "libffm"]
Quoting = Literal["auto", "always", "never"]

# The suffixes of table files.
TABLE_SUFFIXES = (
    ".csv",
    ".tsv",
    ".txt",
    ".parquet",
    ".pq",
    ".gz",
    ".bz2",
    ".xz",
    ".zst",
)
# Texts that can only be missing values in a column whose other cells are numbers.
NUMBER_MARKERS = (
    *("NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN"),
    *("NULL", "Null", "null", "None", "none", r"\N", "?"),
)


@dataclass(frozen=True, kw_only=True)
class TableFormat:
    r"""The format of a file: how the cells of its table are written.

    Parquet files describe themselves: of this format, only `missing`, `thousands`,
    `decimal` and `list_separator` apply to their texts.

    Args:
        separator: Character between the fields of a CSV file. Defaults to `","`.
        encoding: Encoding of a CSV file, such as `"latin-1"`, `"cp1252"` or
            `"utf-16"`. A byte order mark is skipped. Defaults to `"utf-8"`.
        columns: Optional names of the columns of a CSV file without a header. Defaults
            to `None`: the first line has the names.
        quoting: Meaning of quotation marks in a CSV file. `"never"`: they are ordinary
            characters. `"always"`: a field that begins with one ends with the next one
            that is not doubled, and may contain separators and line breaks. `"auto"`
            is the same, but a field that spans several lines which could be rows of
            their own raises an error. Defaults to `"auto"`.
        missing: Optional texts that stand for a missing value, in all columns but those
            of users and items. Defaults to `None`: `NA`, `N/A`, `NaN`, `NULL`, `None`,
            `\N` and `?`, if all other cells of the column are numbers. An empty cell is
            missing in any case.
        thousands: Optional character between groups of three digits, such as `","` for
            `1,200.50`. Defaults to `None`.
        decimal: Character before the decimal places. Defaults to `"."`.
        list_separator: Text between the values of a list, such as `Drama|War`.
            Defaults to `"|"`.
        format: `"csv"`, or a sparse format: `"libsvm"`, `"libfm"` or `"libffm"`.
            Defaults to `"auto"`: determined from the first line.

    Raises:
        ValueError: If an argument violates its constraint.
    """

    separator: str = ","
    encoding: str = "utf-8"
    columns: Sequence[str] | None = None
    quoting: Quoting = "auto"
    missing: Sequence[str] | None = None
    thousands: str | None = None
    decimal: str = "."
    list_separator: str = "|"
    format: FileFormat = "auto"

    def __post_init__(self) -> None:
        _character("separator", self.separator, '"\r\n')
        if not self.separator.isascii():
            raise ValueError(
                "`separator` must be one ASCII character. "
                f"Received: separator={self.separator!r}."
            )
        _character("decimal", self.decimal, _IN_NUMBERS)
        if self.thousands is not None:
            _character("thousands", self.thousands, _IN_NUMBERS + self.decimal)
        if not isinstance(self.list_separator, str) or not self.list_separator:
            raise ValueError(
                "`list_separator` must be a string that is not empty. "
                f"Received: list_separator={self.list_separator!r}."
            )
        choice("quoting", self.quoting, get_args(Quoting))
        choice("format", self.format, get_args(FileFormat))
        _check_encoding(self.encoding)
        for name in ("columns", "missing"):
            texts = getattr(self, name)
            if texts is not None:
                object.__setattr__(self, name, _texts(name, texts))
        columns = self.columns
        if columns is not None and (
            not columns or "" in columns or len(set(columns)) < len(columns)
        ):
            raise ValueError(
                "`columns` must be names that differ and are not empty. "
                f"Received: columns={list(columns)}."
            )

    @classmethod
    def of(cls, table_format: Self | None, separator: str | None) -> Self:
        """Returns a format, by default the usual one, with another separator."""
        known = cls() if table_format is None else table_format
        return known if separator is None else replace(known, separator=separator)

    @property
    def has_header(self) -> bool:
        return self.columns is None

    @property
    def quoted(self) -> bool:
        """Whether quotation marks may enclose a field."""
        return self.quoting != "never"


_IN_NUMBERS = '0123456789+-eE"\r\n'


def _character(name: str, value: object, forbidden: str) -> None:
    if not isinstance(value, str) or len(value) != 1 or value in forbidden:
        raise ValueError(
            f"`{name}` must be one character, and none of {forbidden!r}. "
            f"Received: {name}={value!r}."
        )


def _check_encoding(name: object) -> None:
    try:
        if not isinstance(name, str):
            raise LookupError
        "".encode(name)
    except LookupError:
        raise ValueError(
            "`encoding` must be an encoding of text that Python knows, such as "
            f'"utf-8", "latin-1" or "utf-16". Received: encoding={name!r}.'
        ) from None


def _texts(name: str, values: Any) -> tuple[str, ...]:
    is_sequence = isinstance(values, Sequence) and not isinstance(values, str)
    if not is_sequence or not all(isinstance(value, str) for value in values):
        raise ValueError(
            f"`{name}` must be a list of strings. Received: {name}={values!r}."
        )
    return tuple(values)
