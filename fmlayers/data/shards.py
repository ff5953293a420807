import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from fmlayers._checks import integer
from fmlayers._files import whole_files
from fmlayers.data.arrow_tables import arrow_table, types_of
from fmlayers.data.encoder import Encoder
from fmlayers.data.errors import DataError, named_places
from fmlayers.data.file_shards import FileShards
from fmlayers.data.manifest import (
    MANIFEST,
    SET_KEY,
    Manifest,
    Shard,
    prepare_folder,
    remove_incomplete,
)
from fmlayers.data.shard_files import pyarrow
from fmlayers.data.tables_on_disk import TableFiles


def write_shards(
    tables: pd.DataFrame | Iterable[pd.DataFrame] | TableFiles,
    folder: str | os.PathLike[str],
    encoder: Encoder,
    *,
    target: str = "rating",
    group_size: int = 65_536,
    worker: int = 0,
    workers: int = 1,
) -> int:
    """Encodes tables and writes them to Parquet files, for `ShardedBatches`.

    Encoding in advance saves the lookup of the ids in each epoch. A multi-valued
    column is stored as a list column without padding, and a vector as a list of a fixed
    size.

    The set of files is complete when `manifest.json` says so. Until then,
    `ShardedBatches` does not read the files of an interrupted call.

    For a `DataFrame` or an iterable, all files appear at the end, and a call after an
    interruption starts over. For `TableFiles`, each input file becomes one file of the
    set, which appears when it is complete. A call after an interruption writes only the
    remaining files, and several processes can write different files. The process that
    writes the last file completes the set. Repeat a call with the same arguments: with
    another encoder, for example, the set is a different one.

    Args:
        tables: A `DataFrame` or, for data larger than memory, `TableFiles` or an
            iterable of `DataFrame`s, such as `pd.read_csv(path, chunksize=1_000_000)`.
            Each `DataFrame` is written to one file.
        folder: Output folder, created if necessary. It must not contain Parquet files
            other than those of an interrupted call.
        encoder: An `Encoder`, fitted on the training rows.
        target: Name of the target column. Defaults to `"rating"`.
        group_size: Positive integer, rows per row group, the unit of reading.
            Defaults to 65,536.
        worker: Index of this process, from 0 to `workers - 1`. Used with `TableFiles`.
            Defaults to 0.
        workers: Positive integer, the number of processes. Used with `TableFiles`.
            Defaults to 1.

    Returns:
        The number of rows in the files of this process.

    Raises:
        DataError: If the folder contains other Parquet files, a table lacks a column,
            or a target is missing or not a number.
        ImportError: If pyarrow is not installed.
    """
    _, parquet = pyarrow()
    group_size = integer("group_size", group_size)
    folder = Path(folder)
    if isinstance(tables, TableFiles):
        share = tables.share(worker, workers)
        return FileShards(tables, folder, encoder, target, group_size).write(share)
    if (worker, workers) != (0, 1):
        raise ValueError(
            "`worker` and `workers` need `TableFiles`, whose files the processes share."
            f" Received: worker={worker!r} and workers={workers!r} without them."
        )
    prepare_folder(folder)
    tables = [tables] if isinstance(tables, pd.DataFrame) else tables
    manifest = Manifest.start(encoder.digest())
    manifest.write(folder / MANIFEST)
    shards, schema = {}, {}
    try:
        with whole_files(folder / MANIFEST) as last:
            for number, table in enumerate(tables):
                columns = _columns(number, table, encoder, target)
                schema = types_of(columns.schema)
                columns = columns.replace_schema_metadata({SET_KEY: manifest.set})
                path = last.with_name(f"{number:05}.parquet")
                parquet.write_table(
                    columns, path, row_group_size=group_size, write_page_checksum=True
                )
                shards[path.name] = Shard.of(path, len(table))
            whole = replace(manifest, complete=True, shards=shards, schema=schema)
            whole.write(last)
    except BaseException:
        remove_incomplete(folder, manifest)
        raise
    return whole.rows


def _columns(number: int, table: pd.DataFrame, encoder: Encoder, target: str) -> Any:
    """Returns the encoded columns of a table."""
    if target not in table:
        raise DataError(f"The table {number} lacks the column {target!r}.")
    with named_places(lambda _, row: f"The table {number}, row {row}"):
        return arrow_table(table, encoder, target)
