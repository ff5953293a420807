"""Tables in CSV files, read in parts of bounded size."""

from __future__ import annotations

import codecs
import csv
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from mmap import ACCESS_READ, mmap
from pathlib import Path

import pandas as pd

from fmlayers.data.compressed import uncompress
from fmlayers.data.csv_files import (
    AS_TEXT,
    LONE_RETURN,
    Records,
    check_widths,
    names_of,
)
from fmlayers.data.errors import DataError
from fmlayers.data.quotes import check_quotes
from fmlayers.data.records import check_null, decode, lines_of, one_line, records
from fmlayers.data.sparse_files import sparse_format
from fmlayers.data.table_format import TableFormat

_PIECE = 2**20
_UTF_8 = ("utf-8", "utf-8-sig")


class CsvParts:
    """A CSV file as a sequence of tables, with all cells as text.

    The cells and the errors are the same as those of `read_csv`.

    Args:
        path: Path of the file, which may be compressed.
        name: Name of the file, for error messages.
        table_format: The `TableFormat` of the file.
        temp_folder: Optional folder for the plain contents of files that are compressed
            or not in UTF-8. Defaults to `None` (the temporary folder of the system).
    """

    def __init__(
        self,
        path: Path,
        name: str,
        table_format: TableFormat,
        temp_folder: Path | None = None,
    ) -> None:
        self.path = path
        self.name = name
        self.table_format = table_format
        self.temp_folder = temp_folder

    def read(self, rows: int) -> Iterator[pd.DataFrame]:
        """Yields the rows of the file, up to `rows` at a time."""
        with self._plain() as plain:
            has_lone_return = self._check(plain)
            names = names_of(self._records(plain), self.name, self.table_format)
            if has_lone_return:
                parts = self._slow_parts(plain, rows)
            else:
                parts = self._fast_parts(plain, rows, len(names))
            skip = int(self.table_format.has_header)
            for cells in parts:
                part = cells.iloc[skip:].reset_index(drop=True)
                skip = 0
                if len(part):
                    yield part.set_axis(names, axis=1)

    def line(self, row: int) -> int:
        """Returns the line on which a row begins."""
        first = row + int(self.table_format.has_header)
        with self._plain() as plain:
            return next(islice(self._records(plain), first, None))[0]

    def _fast_parts(self, plain: Path, rows: int, width: int) -> Iterator[pd.DataFrame]:
        is_complete = False
        quoted = self.table_format.quoted
        try:
            with pd.read_csv(
                plain,
                sep=self.table_format.separator,
                encoding="utf-8",
                compression=None,
                chunksize=rows,
                quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
                **AS_TEXT,
            ) as parts:
                for cells in parts:
                    # pandas pads short rows. Only empty last cells can be padding.
                    if cells.shape[1] != width or (
                        not is_complete and cells.iloc[:, -1].isna().any()
                    ):
                        self._check_widths(plain)
                        is_complete = True
                    yield cells
        except DataError:
            raise
        except ValueError as error:
            self._check_widths(plain)
            raise DataError(f"{self.name}: {one_line(error)}") from error

    def _slow_parts(self, plain: Path, rows: int) -> Iterator[pd.DataFrame]:
        # After a blank line that ends with a carriage return, pandas drops a separator.
        self._check_widths(plain)
        fields = (fields for _, fields in self._records(plain))
        while part := list(islice(fields, rows)):
            cells = pd.DataFrame(part, dtype=str)
            yield cells.mask(cells == "")

    def _check_widths(self, plain: Path) -> None:
        check_widths(self._records(plain), self.name, self.table_format)

    def _check(self, plain: Path) -> bool:
        """Checks the contents. Returns whether a line ends with a carriage return."""
        if not plain.stat().st_size:
            raise DataError(f"{self.name} is empty.")
        table_format = self.table_format
        # The system loads pages of the file when they are used, and can drop them.
        with plain.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as x:
            check_null(x, self.name)
            layout = sparse_format(x[:_PIECE], table_format.format)
            if layout is not None:
                raise DataError(
                    f"{self.name} has the format {layout}, but `TableFiles` must be "
                    "CSV or Parquet files. Convert it: read it with `read_table`, and "
                    "write the table as CSV or Parquet."
                )
            if table_format.quoted and x.find(b'"') >= 0:
                columns = table_format.columns
                check_quotes(
                    x,
                    self.name,
                    table_format.separator,
                    None if columns is None else len(columns),
                    strict=table_format.quoting == "auto",
                )
            return LONE_RETURN.search(x) is not None

    def _records(self, plain: Path) -> Records:
        return records(
            lines_of(plain, self.name),
            self.name,
            self.table_format.separator,
            quoted=self.table_format.quoted,
        )

    @contextmanager
    def _plain(self) -> Iterator[Path]:
        """Yields the path of the contents, uncompressed and in UTF-8."""
        with tempfile.TemporaryDirectory(dir=self.temp_folder) as folder:
            plain = self.path
            unpacked, recoded = (Path(folder, x) for x in ("unpacked", "recoded"))
            with plain.open("rb") as file, unpacked.open("wb") as into:
                if uncompress(file, plain.stat().st_size, self.name, into):
                    plain = unpacked
            if codecs.lookup(self.table_format.encoding).name not in _UTF_8:
                self._recode(plain, recoded)
                plain = recoded
            yield plain

    def _recode(self, path: Path, into: Path) -> None:
        encoding = self.table_format.encoding
        try:
            with (
                path.open(encoding=encoding, newline="") as file,
                into.open("w", encoding="utf-8", newline="") as written,
            ):
                while piece := file.read(_PIECE):
                    written.write(piece)
        except UnicodeDecodeError:
            decode(path.read_bytes(), self.name, encoding)  # the error names the line
            raise
