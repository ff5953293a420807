"""The Parquet files that `write_shards` writes, as a set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fmlayers.data.errors import DataError
from fmlayers.data.manifest import MANIFEST, Manifest, footer_digest, set_of
from fmlayers.data.ragged import Column
from fmlayers.data.records import one_line


class RowGroup(NamedTuple):
    """A row group of a file.

    Attributes:
        path: The file.
        number: Integer, the index of the row group in the file.
        rows: Integer, the number of its rows.
    """

    path: Path
    number: int
    rows: int


class ShardFiles:
    """The Parquet files of a folder, compared with their manifest if there is one.

    Args:
        folder: The folder.
        target: Name of the target column.

    Attributes:
        groups: List of the row groups of all files.

    Raises:
        DataError: If a file cannot be used. The message names it.
        ImportError: If pyarrow is not installed.
    """

    def __init__(self, folder: Path, target: str) -> None:
        self._parquet = pyarrow()[1]
        self.folder = folder
        self.target = target
        self.paths = sorted(folder.glob("*.parquet"))
        self.groups = self._find_groups()

    def read(
        self, groups: Sequence[RowGroup], rows: npt.NDArray[np.int64]
    ) -> dict[str, Column]:
        """Returns some of the rows of row groups.

        Args:
            groups: The row groups, one after the other.
            rows: Integers, the positions of the rows in the row groups.

        Raises:
            DataError: If a file is damaged.
        """
        import pyarrow as pa

        tables = []
        for group in groups:
            try:
                with self._open(group.path) as file:
                    tables.append(file.read_row_group(group.number))
            except (OSError, ValueError, pa.ArrowException) as error:
                raise DataError(_damaged(group.path, error)) from error
        table = pa.concat_tables(tables).take(rows)
        return {name: _column(table[name]) for name in table.column_names}

    def _find_groups(self) -> list[RowGroup]:
        """Checks all files and returns their row groups."""
        if not self.paths:
            raise DataError(
                f"{self.folder} contains no Parquet files: write them with "
                "`write_shards`."
            )
        import pyarrow as pa

        self._check_set()
        groups, first = [], None
        for path in self.paths:
            try:
                with self._open(path) as file:
                    schema, metadata = file.schema_arrow, file.metadata
            except (OSError, ValueError, pa.ArrowException) as error:
                raise DataError(
                    f"{path} is not a Parquet file: {one_line(error)}"
                ) from error
            schema = schema.remove_metadata()
            self._check_schema(path, schema)
            if first is not None and not schema.equals(first):
                raise DataError(
                    f"All files must have the same columns. {path} has "
                    f"{_described(schema)}; {self.paths[0]} has {_described(first)}."
                )
            first = schema
            groups += [
                RowGroup(path, i, metadata.row_group(i).num_rows)
                for i in range(metadata.num_row_groups)
            ]
        return groups

    def _check_set(self) -> None:
        """Raises `DataError` unless the files are those of the manifest, if any."""
        folder = self.folder
        manifest = Manifest.read(folder)
        rewrite = "Write the shards again with `write_shards`."
        if manifest is None:
            for path in self.paths:
                if set_of(path) is not None:
                    raise DataError(
                        f"{folder} has no {MANIFEST}, to which {path.name} belongs: it "
                        f"is not a complete set of shards. {rewrite}"
                    )
            return
        if not manifest.complete:
            raise DataError(
                f"{folder} has only a part of a set of shards: `write_shards` was "
                f"interrupted. {rewrite}"
            )
        names = {path.name for path in self.paths}
        missing = sorted(set(manifest.shards) - names)
        if missing:
            raise DataError(f"{folder / missing[0]} is missing. {rewrite}")
        others = sorted(names - set(manifest.shards))
        if others:
            raise DataError(
                f"{folder / others[0]} does not belong to the set of shards of "
                f"{folder / MANIFEST}: move it to another folder."
            )
        for path in self.paths:
            try:
                is_same = footer_digest(path) == manifest.shards[path.name].footer
            except OSError as error:
                raise DataError(_damaged(path, error)) from error
            if not is_same:
                raise DataError(_damaged(path, f"it differs from {MANIFEST}"))

    def _open(self, path: Path) -> Any:
        return self._parquet.ParquetFile(path, page_checksum_verification=True)

    def _check_schema(self, path: Path, schema: Any) -> None:
        from pyarrow import types

        if self.target not in schema.names:
            raise DataError(
                f"{path} lacks the column {self.target!r}. It has {schema.names}."
            )
        for field in schema:
            is_list = types.is_list(field.type) or types.is_fixed_size_list(field.type)
            kind = field.type.value_type if is_list else field.type
            if not (types.is_integer(kind) or types.is_floating(kind)):
                raise DataError(
                    f"{path}: column {field.name!r} must contain ids, lists of ids or "
                    f"numbers. Received: {field.type}. Encode it with `write_shards`."
                )


def pyarrow() -> tuple[Any, Any]:
    """Returns the modules `pyarrow` and `pyarrow.parquet`."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(
            "Parquet needs pyarrow: install it with `pip install fmlayers[parquet]`."
        ) from error
    return pa, parquet


def _damaged(path: Path, reason: object) -> str:
    rewrite = "Write the shards again with `write_shards`."
    return f"{path} is damaged: {one_line(reason)}. {rewrite}"


def _described(schema: Any) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)


def _column(chunks: Any) -> Column:
    from pyarrow import types

    column = chunks.combine_chunks()
    if types.is_list(column.type):
        lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        splits = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        return column.flatten().to_numpy(zero_copy_only=False), splits
    if types.is_fixed_size_list(column.type):
        return _vectors(column)
    numbers: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return numbers


def _vectors(column: Any) -> npt.NDArray[Any]:
    """Returns the vectors of a column, with NaN for null."""
    shape = len(column) - column.null_count, column.type.list_size
    flat: npt.NDArray[Any] = column.flatten().to_numpy(zero_copy_only=False)
    if not column.null_count:
        return flat.reshape(shape)
    dtype = np.result_type(flat, np.float32)
    vectors = np.full((len(column), column.type.list_size), np.nan, dtype)
    vectors[column.is_valid().to_numpy(zero_copy_only=False)] = flat.reshape(shape)
    return vectors
