import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
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
    set_of,
)
from fmlayers.data.numbers import as_numbers
from fmlayers.data.pipelines import PIECE, stream
from fmlayers.data.ragged import Batch, Column, length, take
from fmlayers.data.records import one_line


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
    pa, parquet = _pyarrow()
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


class ShardedBatches:
    """Shuffled batches of data larger than memory, read from Parquet files.

    Each epoch shuffles the row groups of all files, reads `mixed` of them at a time
    and shuffles their rows. The batches depend only on `seed`, `epoch` and `batch`, so
    an interrupted run can resume at any batch. With several workers, the row groups
    are distributed among them anew each epoch. All workers get the same number of
    batches; the rows left over at the end of an epoch are skipped.

    Memory use is a few times the size of `mixed` row groups.

    Args:
        folder: Folder of Parquet files as written by `write_shards`, with columns of
            ids (integers), lists of ids or of their weights, numbers (floats), and
            vectors (lists of a fixed size). The files of `write_shards` are compared
            with its manifest and the checksums of their pages. Parquet files of other
            origin, and those of version 0.1.0, are read without a manifest.
        batch_size: Positive integer, rows per batch of one worker.
        seed: Non-negative integer, the random seed.
        epoch: Non-negative integer, the number of epochs already completed. Defaults
            to 0.
        batch: Non-negative integer, the number of batches already completed in the
            epoch. Defaults to 0.
        target: Name of the target column. Defaults to `"rating"`.
        mixed: Positive integer, the number of row groups shuffled together. Defaults
            to 16.
        worker: Index of this worker, from 0 to `workers - 1`. Defaults to 0.
        workers: Positive integer, the number of workers. Defaults to 1.

    Raises:
        DataError: If a file cannot be used (the message names it), or the files
            contain less than one batch per worker.
        ValueError: If an argument violates its constraint.
        ImportError: If pyarrow is not installed.

    Example:

    >>> import tempfile
    >>> table = pd.DataFrame({"user": [7, 8, 8, 9], "rating": [4.0, 3.0, 5.0, 1.0]})
    >>> encoder = fmlayers.data.Encoder({"user": "categorical"}).fit(table)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rows = fmlayers.data.write_shards(table, folder, encoder)
    ...     batches = fmlayers.data.ShardedBatches(folder, batch_size=2, seed=0)
    ...     rows, len(batches)
    (4, 2)

    Train with `model.fit(batches.stream(), steps_per_epoch=len(batches),
    shuffle=False)`. This works on every backend, since Keras reads TensorFlow's input
    pipelines on all of them.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        batch_size: int,
        *,
        seed: int,
        epoch: int = 0,
        batch: int = 0,
        target: str = "rating",
        mixed: int = 16,
        worker: int = 0,
        workers: int = 1,
    ) -> None:
        batch_size, mixed, workers = (
            integer(name, value, "at least 1")
            for name, value in (
                ("batch_size", batch_size),
                ("mixed", mixed),
                ("workers", workers),
            )
        )
        seed, epoch, batch = (
            integer(name, value, "at least 0", least=0)
            for name, value in (("seed", seed), ("epoch", epoch), ("batch", batch))
        )
        rule = f"one of 0 ... {workers - 1}"
        worker = integer("worker", worker, rule, least=0, most=workers - 1)
        self._parquet = _pyarrow()[1]
        self._manifest = Manifest.read(Path(folder))
        self.paths = sorted(Path(folder).glob("*.parquet"))
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = epoch
        self.batch = batch
        self.target = target
        self.mixed = mixed
        self.worker = worker
        self.workers = workers
        self._groups = self._find_groups(Path(folder))
        # In some epoch a worker may get the smallest groups.
        sizes = sorted(rows for _, _, rows in self._groups)
        self._batches = sum(sizes[: len(sizes) // workers]) // batch_size
        if self._batches < 1:
            raise DataError(
                f"{folder} contains too few rows for one batch of {batch_size:,} per "
                f"worker ({workers}): {sum(sizes):,} rows in {len(sizes)} row groups. "
                "Lower `batch_size`, or write the shards with a smaller `group_size`."
            )
        if batch >= self._batches:
            raise ValueError(
                f"`batch` must be less than {self._batches:,}, the number of batches "
                f"per epoch. Received: batch={batch}."
            )

    def __len__(self) -> int:
        """Returns the number of batches per epoch and worker."""
        return self._batches

    def stream(self) -> Any:
        """Returns an endless `tf.data.Dataset` of the batches of successive epochs.

        Call `fit()` with `steps_per_epoch=len(batches)` and with `shuffle=False`, to
        avoid a warning of Keras. If the model has `steps_per_execution`, choose a
        divisor of `steps_per_epoch`: otherwise Keras runs more steps per epoch.
        """
        inputs, targets = next(self._pieces())[:2]
        example = {
            name: (x[0][0], x[1][0]) if isinstance(x, tuple) else x[0]
            for name, x in inputs.items()
        }
        return stream(self._pieces, (example, targets[0]))

    def _pieces(self) -> Iterator[Batch]:
        batch = self.batch
        for epoch in itertools.count(self.epoch):
            yield from self._epoch(epoch, batch)
            batch = 0

    def _epoch(self, epoch: int, batch: int) -> Iterator[Batch]:
        """Yields stacks of the batches of an epoch, starting at `batch`."""
        rest, missing = None, len(self) - batch
        for table in self._pools(epoch, batch * self.batch_size):
            columns = table if rest is None else _joined(rest, table)
            rows = np.arange(length(columns[self.target]))
            whole = min(len(rows) // self.batch_size, missing)
            pieces = rows[: whole * self.batch_size].reshape(whole, self.batch_size)
            for start in range(0, whole, PIECE):
                piece = pieces[start : start + PIECE]
                taken: Any = {name: take(x, piece) for name, x in columns.items()}
                targets = taken.pop(self.target)
                yield taken, targets
            missing -= whole
            if not missing:
                return
            over = rows[whole * self.batch_size :]
            rest = {name: _from(x, over) for name, x in columns.items()}

    def _pools(self, epoch: int, skipped: int) -> Iterator[dict[str, Column]]:
        """Yields the shuffled rows of `mixed` row groups at a time.

        Args:
            epoch: Index of the epoch.
            skipped: Number of rows to skip at the start of the epoch.
        """
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self._groups))[self.worker :: self.workers]
        for start in range(0, len(order), self.mixed):
            groups = [self._groups[i] for i in order[start : start + self.mixed]]
            size = sum(rows for _, _, rows in groups)
            if skipped >= size:
                skipped -= size
                continue
            rng = np.random.default_rng((self.seed, epoch, self.worker, start))
            rows = rng.permutation(size)[skipped:]
            skipped = 0
            yield self._read(groups, rows)

    def _read(
        self, groups: list[tuple[Path, int, int]], rows: npt.NDArray[np.int64]
    ) -> dict[str, Column]:
        import pyarrow as pa

        tables = []
        for path, group, _ in groups:
            try:
                with self._open(path) as file:
                    tables.append(file.read_row_group(group))
            except (OSError, ValueError, pa.ArrowException) as error:
                raise DataError(_damaged(path, error)) from error
        table = pa.concat_tables(tables).take(rows)
        return {name: _column(table[name]) for name in table.column_names}

    def _find_groups(self, folder: Path) -> list[tuple[Path, int, int]]:
        """Checks all files; returns path, index and size of each row group."""
        if not self.paths:
            raise DataError(
                f"{folder} contains no Parquet files: write them with `write_shards`."
            )
        import pyarrow as pa

        self._check_set(folder)
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
                (path, i, metadata.row_group(i).num_rows)
                for i in range(metadata.num_row_groups)
            ]
        return groups

    def _check_set(self, folder: Path) -> None:
        """Raises `DataError` unless the files are those of the manifest, if any."""
        manifest = self._manifest
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


def _pyarrow() -> tuple[Any, Any]:
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


def _types(schema: Any) -> dict[str, str]:
    return {field.name: str(field.type) for field in schema}


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


def _from(column: Column, rows: npt.NDArray[np.int64]) -> Column:
    """Returns the last `len(rows)` rows of a column, whose indices are `rows`."""
    if not isinstance(column, tuple):
        return column[rows]
    values, splits = column
    splits = splits[len(splits) - 1 - len(rows) :]
    return values[splits[0] :], splits - splits[0]


def _joined(first: dict[str, Column], second: dict[str, Column]) -> dict[str, Column]:
    joined: dict[str, Column] = {}
    for name, one in first.items():
        other = second[name]
        if isinstance(one, tuple) and isinstance(other, tuple):
            splits = np.concatenate([one[1], one[1][-1] + other[1][1:]])
            joined[name] = np.concatenate([one[0], other[0]]), splits
        else:
            joined[name] = np.concatenate([one, other])
    return joined
