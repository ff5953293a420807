"""Shards of many files, one shard per file, written by one or several processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmlayers._files import whole_files
from fmlayers._json_files import read_json, write_json
from fmlayers.data.arrow_tables import arrow_table, types_of
from fmlayers.data.errors import CellError, DataError
from fmlayers.data.manifest import (
    MANIFEST,
    RECORD_SUFFIX,
    SET_KEY,
    Manifest,
    Shard,
    digest_of_config,
)
from fmlayers.data.shard_files import pyarrow
from fmlayers.data.tables_on_disk import TableFiles

if TYPE_CHECKING:
    from fmlayers.data.encoder import Encoder


class FileShards:
    """A set of shards with one file for each input file.

    Each file appears together with its record. When all records exist, the manifest is
    completed. The identifier of the set is a digest of the input. All processes, also
    after an interruption, use it to recognize the files of the set.

    Args:
        files: The input files.
        folder: The folder of the shards.
        encoder: The fitted encoder.
        target: Name of the target column.
        group_size: Positive integer, the number of rows per row group.
    """

    def __init__(
        self,
        files: TableFiles,
        folder: Path,
        encoder: Encoder,
        target: str,
        group_size: int,
    ) -> None:
        self.files = files
        self.folder = folder
        self.encoder = encoder
        self.target = target
        self.group_size = group_size
        digest = encoder.digest()
        parts = [files.digest(), digest, target, group_size, files.part_rows]
        identifier = digest_of_config({"set": parts})[:32]
        self._new = Manifest(identifier, False, {}, {}, digest)

    def write(self, numbers: Iterable[int]) -> int:
        """Writes the shards of some files, and completes the manifest after the last.

        Args:
            numbers: The positions of the files.

        Returns:
            The number of rows in these shards.

        Raises:
            DataError: If a file cannot be encoded, or if the folder contains other
                Parquet files.
        """
        manifest = self._start()
        if not manifest.complete:
            for number in numbers:
                if not self._record_path(number).exists():
                    self._write(number)
            manifest = self._finish()
        else:
            self._remove_records()
        shards = manifest.shards
        names = [f"{number:05}.parquet" for number in numbers]
        return sum(shards[name].rows for name in names if name in shards)

    def _start(self) -> Manifest:
        """Returns the manifest of the set, complete or not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest = Manifest.read(self.folder)
        if manifest is None:
            if any(self.folder.glob("[!.]*.parquet")):
                raise DataError(
                    f"{self.folder} already contains Parquet files. Choose another "
                    "folder."
                )
            # All processes write the same content.
            self._new.write(self.folder / MANIFEST)
            return self._new
        if manifest.set != self._new.set:
            raise DataError(
                f"{self.folder} already contains a set of shards of other files, or of "
                "another encoder, target or size of groups. Choose another folder."
            )
        return manifest

    def _write(self, number: int) -> None:
        _, parquet = pyarrow()
        names = [*self.encoder.table_columns, self.target]
        writer, rows, schema = None, 0, {}
        with whole_files(self._record_path(number)) as record:
            path = record.with_name(f"{number:05}.parquet")
            try:
                for part in self.files.parts(number, names):
                    try:
                        table = arrow_table(part, self.encoder, self.target)
                    except CellError as error:
                        raise self.files.located(number, rows, error) from None
                    if writer is None:
                        schema = types_of(table.schema)
                        metadata = {SET_KEY: self._new.set}
                        writer = parquet.ParquetWriter(
                            path,
                            table.schema.with_metadata(metadata),
                            write_page_checksum=True,
                        )
                    writer.write_table(table, row_group_size=self.group_size)
                    rows += len(part)
            finally:
                if writer is not None:
                    writer.close()
            shard = {} if writer is None else {path.name: vars(Shard.of(path, rows))}
            write_json(record, {"set": self._new.set, "files": shard, "schema": schema})

    def _finish(self) -> Manifest:
        """Completes the manifest if all files exist. Returns the current manifest."""
        records = [self._record(number) for number in range(len(self.files))]
        manifest = Manifest.read(self.folder)
        if manifest is not None and manifest.complete:  # by another process
            return manifest
        present = [record for record in records if record is not None]
        shards = {
            name: Shard(**shard)
            for record in present
            for name, shard in record["files"].items()
        }
        schemas = [record["schema"] for record in present if record["schema"]]
        whole = replace(self._new, shards=shards, schema=next(iter(schemas), {}))
        if len(present) == len(self.files):
            whole = replace(whole, complete=True)
            whole.write(self.folder / MANIFEST)
            self._remove_records()
        return whole

    def _remove_records(self) -> None:
        for number in range(len(self.files)):
            self._record_path(number).unlink(missing_ok=True)

    def _record_path(self, number: int) -> Path:
        return self.folder / f"{number:05}{RECORD_SUFFIX}"

    def _record(self, number: int) -> Mapping[str, Any] | None:
        path = self._record_path(number)
        with suppress(FileNotFoundError):
            path.stat()
            try:
                return read_json(path, DataError)
            except DataError:
                path.stat()  # another process may have removed it meanwhile
                raise
        return None
