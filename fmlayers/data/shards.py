import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fmlayers._checks import integer
from fmlayers._digests import digest_of
from fmlayers._files import whole_files
from fmlayers.data.encoder import Encoder
from fmlayers.data.errors import DataError
from fmlayers.data.manifest import (
    MANIFEST,
    SET_KEY,
    Manifest,
    Shard,
    digest_of_config,
    footer_digest,
    prepare_folder,
    remove_incomplete,
)
from fmlayers.data.numbers import as_numbers
from fmlayers.data.shard_files import pyarrow


def write_shards(
    tables: pd.DataFrame | Iterable[pd.DataFrame],
    folder: str | os.PathLike[str],
    encoder: Encoder,
    *,
    target: str = "rating",
    group_size: int = 65_536,
) -> int:
    """Encodes tables and writes them to Parquet files, for `ShardedBatches`.

    Encoding in advance saves the lookup of the ids in each epoch. A multi-valued
    column is stored as a list column without padding, and a vector as a list of a fixed
    size.

    Args:
        tables: A `DataFrame` or, for data larger than memory, an iterable of
            `DataFrame`s, such as `pd.read_csv(path, chunksize=1_000_000)`. Each
            `DataFrame` is written to one file.
        folder: Output folder, created if necessary. It must not contain Parquet files,
            except those of an interrupted call, which are removed: the new call starts
            over. The files appear there once all of them are written, and last
            `manifest.json`, without which the set does not exist.
        encoder: An `Encoder`, fitted on the training rows.
        target: Name of the target column. Defaults to `"rating"`.
        group_size: Positive integer, rows per row group, the unit of reading.
            Defaults to 65,536.

    Returns:
        The number of rows written.

    Raises:
        DataError: If the folder contains Parquet files, a table lacks a column, or a
            target is missing or not a number.
        ImportError: If pyarrow is not installed.
    """
    pa, parquet = pyarrow()
    group_size = integer("group_size", group_size)
    folder = Path(folder)
    prepare_folder(folder)
    tables = [tables] if isinstance(tables, pd.DataFrame) else tables
    manifest = Manifest.start(digest_of_config(encoder.get_config()))
    manifest.write(folder / MANIFEST)
    shards, schema = {}, {}
    try:
        with whole_files(folder / MANIFEST) as last:
            for number, table in enumerate(tables):
                columns = pa.table(_encoded(f"table {number}", table, encoder, target))
                schema = _types(columns.schema)
                columns = columns.replace_schema_metadata({SET_KEY: manifest.set})
                path = last.with_name(f"{number:05}.parquet")
                parquet.write_table(
                    columns, path, row_group_size=group_size, write_page_checksum=True
                )
                shards[path.name] = Shard(
                    len(table), digest_of(path), footer_digest(path)
                )
            whole = replace(manifest, complete=True, shards=shards, schema=schema)
            whole.write(last)
    except BaseException:
        remove_incomplete(folder, manifest)
        raise
    return whole.rows


def _encoded(
    name: str, table: pd.DataFrame, encoder: Encoder, target: str
) -> dict[str, Any]:
    """Returns the encoded columns of a table as Arrow arrays."""
    import pyarrow as pa

    if target not in table:
        raise DataError(f"The {name} lacks the column {target!r}.")
    targets = as_numbers(target, table[target]).astype(np.float32)
    if np.isnan(targets).any():
        row = int(np.flatnonzero(np.isnan(targets))[0])
        raise DataError(f"The {name}, row {row}: column {target!r} is missing.")
    columns: dict[str, Any] = {}
    for column, x in encoder.without_padding(encoder.transform(table)).items():
        if isinstance(x, tuple):
            values, splits = x
            columns[column] = pa.ListArray.from_arrays(
                pa.array(splits, pa.int32()), pa.array(values)
            )
        elif x.ndim == 2:
            vectors = pa.array(np.ravel(x))
            columns[column] = pa.FixedSizeListArray.from_arrays(vectors, x.shape[1])
        else:
            columns[column] = pa.array(x)
    return {**columns, target: pa.array(targets)}


def _types(schema: Any) -> dict[str, str]:
    return {field.name: str(field.type) for field in schema}
