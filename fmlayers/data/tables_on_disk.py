from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pandas as pd

from fmlayers._checks import integer
from fmlayers.data.column_values import is_one_of
from fmlayers.data.csv_parts import CsvParts
from fmlayers.data.errors import CellError, DataError
from fmlayers.data.manifest import digest_of_config
from fmlayers.data.parquet_files import SUFFIXES, keys_of, parts_of
from fmlayers.data.parquet_parts import parquet_parts
from fmlayers.data.table_format import TABLE_SUFFIXES, TableFormat


class TableFiles:
    """The rows of many CSV or Parquet files, read in parts of bounded size.

    Pass `TableFiles` to `Encoder.fit` and `write_shards` in place of tables. They then
    need memory for a part of a file only, and several processes can share the files.

    The files are read one after the other, in the order of `paths`. All cells of a CSV
    file are text, and empty cells are missing, as in `read_table` with `text_columns`.
    For example, the id `007` keeps its zeros, and `1.0` and `1` are different values.
    The cells of a Parquet file have the types of the file. If Parquet files are in a
    folder with a name such as `day=7`, they get a column `day`.

    Iterate over `TableFiles` to get the parts as `DataFrame`s.

    Args:
        source: Path of a folder, a pattern such as `"clicks/*.parquet"`, or a list of
            paths. The files of a folder or pattern are sorted by path. In a folder,
            names that begin with `_` or `.` are ignored.
        table_format: Optional `TableFormat` of the files. The texts of its `missing`
            count as missing in all columns. It must not set `thousands` or `decimal`.
            Lists are split by the `separator` of the encoder. Defaults to `None`
            (`TableFormat()`).
        part_rows: Positive integer, the maximum number of rows per part. Defaults to
            262,144.
        memory_limit: String such as `"2GB"`, the memory in which DuckDB counts, sorts
            and joins values. Beyond this limit, DuckDB uses temporary files. Defaults
            to `"1GB"`.
        temp_folder: Optional folder for temporary files. Defaults to `None` (that of
            the system).

    Attributes:
        paths: List of the paths of the files.

    Raises:
        DataError: If there are no files.
        ValueError: If an argument violates its constraint.

    Example:

    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> for day in "ab":
    ...     text = f"user,rating\\n007,4\\n{day},3\\n"
    ...     _ = (folder / f"{day}.csv").write_text(text)
    >>> files = fmlayers.data.TableFiles(folder)
    >>> encoder = fmlayers.data.Encoder({"user": "categorical"}).fit(files)
    >>> encoder.vocabulary("user")
    ['007', 'a', 'b']
    >>> fmlayers.data.write_shards(files, folder / "shards", encoder)
    4
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        table_format: TableFormat | None = None,
        part_rows: int = 262_144,
        memory_limit: str = "1GB",
        temp_folder: str | os.PathLike[str] | None = None,
    ) -> None:
        table_format = TableFormat() if table_format is None else table_format
        for name in ("thousands", "decimal"):
            value = getattr(table_format, name)
            if value != getattr(TableFormat(), name):
                raise ValueError(
                    f"`table_format` must not set `{name}` for many files: write the "
                    f"numbers with a decimal point first. Received: {name}={value!r}."
                )
        self.table_format = table_format
        self.part_rows = integer("part_rows", part_rows)
        self.memory_limit = memory_limit
        self.temp_folder = None if temp_folder is None else Path(temp_folder)
        self._folder: Path | None = None
        if isinstance(source, str | os.PathLike):
            self.paths = self._found(Path(source))
        else:
            self.paths = [Path(path) for path in source]
            for path in self.paths:
                if not path.is_file():
                    raise DataError(f"{path}: there is no such file.")
        if not self.paths:
            raise DataError(f"{source} has no CSV or Parquet files.")

    def __len__(self) -> int:
        """Returns the number of files."""
        return len(self.paths)

    def __iter__(self) -> Iterator[pd.DataFrame]:
        for number in range(len(self)):
            yield from self.parts(number)

    def parts(
        self, number: int, columns: Collection[str] | None = None
    ) -> Iterator[pd.DataFrame]:
        """Yields the rows of a file, up to `part_rows` at a time.

        Args:
            number: Integer, the position of the file in `paths`.
            columns: Optional names of the columns to read. Defaults to all columns.

        Raises:
            DataError: If the file cannot be read or lacks a column. The message names
                the file.
        """
        for part in self._read(number, columns):
            if columns is not None:
                absent = [name for name in columns if name not in part]
                if absent:
                    raise DataError(
                        f"{self.paths[number]} lacks the columns {absent}. It has "
                        f"{list(part)}."
                    )
                part = part[list(dict.fromkeys(columns))]
            yield self._with_missing(part)

    def place(self, number: int, row: int) -> str:
        """Returns the location of a row in a file, for error messages."""
        path = self.paths[number]
        if _is_parquet(path):
            return f"{path}, row {row + 1}"
        return f"{path}, line {self._csv(path).line(row)}"

    def located(self, number: int, start: int, error: CellError) -> DataError:
        """Returns an error that names the location of a cell.

        Args:
            number: Integer, the position of the file in `paths`.
            start: Integer, the number of rows of the file before the part.
            error: The error in the part.
        """
        place = self.place(number, start + error.row)
        return DataError(f"{place}: column {error.column!r} {error.reason}")

    def share(self, worker: int, workers: int) -> range:
        """Returns the positions of the files for one of several processes."""
        workers = integer("workers", workers, "at least 1")
        rule = f"one of 0 ... {workers - 1}"
        worker = integer("worker", worker, rule, least=0, most=workers - 1)
        return range(worker, len(self), workers)

    def digest(self) -> str:
        """Returns a digest of the names, sizes and modification times of the files."""
        stats = [(path.name, path.stat()) for path in self.paths]
        described = [[name, x.st_size, x.st_mtime_ns] for name, x in stats]
        return digest_of_config({"files": described, "format": repr(self.table_format)})

    def _found(self, source: Path) -> list[Path]:
        if not source.is_dir():
            found = map(Path, glob.glob(str(source), recursive=True))  # noqa: PTH207
            return sorted(path for path in found if path.is_file())
        self._folder = source
        return parts_of(source) or _texts_in(source)

    def _read(
        self, number: int, columns: Collection[str] | None
    ) -> Iterator[pd.DataFrame]:
        path = self.paths[number]
        if not _is_parquet(path):
            yield from self._csv(path).read(self.part_rows)
            return
        keys = {} if self._folder is None else self._keys(path)
        for part in parquet_parts(path, str(path), self.part_rows, columns):
            for key, value in keys.items():
                if key in part:
                    raise DataError(f"{path} has a column {key!r}, as its folder has.")
                part[key] = pd.Series([value] * len(part), dtype="str")
            yield part

    def _keys(self, path: Path) -> dict[str, str | None]:
        assert self._folder is not None
        return dict(keys_of(path.relative_to(self._folder)))

    def _csv(self, path: Path) -> CsvParts:
        return CsvParts(path, str(path), self.table_format, self.temp_folder)

    def _with_missing(self, part: pd.DataFrame) -> pd.DataFrame:
        missing = self.table_format.missing
        if missing is None:
            return part
        return pd.DataFrame(
            {x: part[x].mask(is_one_of(part[x], missing)) for x in part}
        )


def _texts_in(folder: Path) -> list[Path]:
    """Returns the text files of tables in a folder, sorted by name."""
    files = sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(("_", "."))
    )
    others = [path for path in files if path.suffix.lower() not in TABLE_SUFFIXES]
    if others:
        raise DataError(
            f"{others[0]} is not a table, by its name. Move it to another folder, or "
            'pass a pattern such as "FOLDER/*.csv".'
        )
    return files


def _is_parquet(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"
