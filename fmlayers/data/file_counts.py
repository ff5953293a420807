"""Parquet files with what encoders learn from each of many input files."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fmlayers._files import whole_file
from fmlayers.data.duckdb_queries import Queries, queries
from fmlayers.data.errors import CellError, DataError
from fmlayers.data.kinds import ColumnEncoder
from fmlayers.data.kinds.categorical import CategoricalColumn
from fmlayers.data.kinds.column import ValueCounts
from fmlayers.data.kinds.quantiles import QuantilesColumn
from fmlayers.data.kinds.stored_values import StoredValues
from fmlayers.data.manifest import digest_of_config
from fmlayers.data.shard_files import pyarrow
from fmlayers.data.tables_on_disk import TableFiles

if TYPE_CHECKING:
    from fmlayers.data.encoder import Encoder

_KEY = "fmlayers.counts"

_SUM = """
SELECT "column", value, number, sum(count)::BIGINT AS count
FROM read_parquet($parts)
GROUP BY "column", value, number
"""

_VOCABULARY = """
SELECT value
FROM read_parquet($paths)
WHERE "column" = $column AND value IS NOT NULL
GROUP BY value
HAVING sum(count) >= $min_count
ORDER BY sum(count) DESC, value
"""

_NUMBERS = """
SELECT number, sum(count)::BIGINT AS count
FROM read_parquet($paths)
WHERE "column" = $column AND number IS NOT NULL
GROUP BY number
ORDER BY number
"""


def write_counts(
    files: TableFiles,
    folder: str | os.PathLike[str],
    encoder: Encoder,
    *,
    worker: int = 0,
    workers: int = 1,
) -> int:
    """Counts the values of files, for `Encoder.fit_counts`.

    For each input file, this function writes a Parquet file with the distinct values,
    their counts, and the exact sums of numeric columns. The Parquet file appears when
    it is complete. Several processes can count different files. After an interruption,
    repeat the call to count the remaining files.

    Args:
        files: `TableFiles` of the training rows.
        folder: Output folder, created if necessary. It must be empty or contain counts
            of the same files from an earlier call or another process.
        encoder: An `Encoder` of the columns. It is not changed.
        worker: Index of this process, from 0 to `workers - 1`. Defaults to 0.
        workers: Positive integer, the number of processes. Defaults to 1.

    Returns:
        The number of files that this call counted.

    Raises:
        DataError: If a cell cannot be encoded (the message names the file and the
            line), or if the folder contains counts of other files.
        ImportError: If pyarrow or DuckDB is not installed.

    Example:

    In practice, the two calls of `write_counts` would be in two processes.

    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name, user in (("a", 7), ("b", 8), ("c", 8)):
    ...     _ = (folder / f"{name}.csv").write_text(f"user\\n{user}\\n")
    >>> files = fmlayers.data.TableFiles(folder)
    >>> encoder = fmlayers.data.Encoder({"user": "categorical"})
    >>> for worker in range(2):
    ...     fmlayers.data.write_counts(
    ...         files, folder / "counts", encoder, worker=worker, workers=2
    ...     )
    2
    1
    >>> encoder.fit_counts(folder / "counts").vocabulary("user")
    ['8', '7']
    """
    share = files.share(worker, workers)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    source = {
        "files": len(files),
        "digest": files.digest(),
        "encoder": _digest_of(encoder),
    }
    for path in _paths(folder):
        if _source(path) != source:
            raise DataError(
                f"{path} has the counts of other files, columns or formats. Choose "
                "another folder, or remove it."
            )
    counted = 0
    for number in share:
        path = folder / f"{number:05}.parquet"
        if not path.exists():
            _write_file(files, number, path, encoder, source)
            counted += 1
    return counted


class FileCounts:
    """The counts of all files, as `write_counts` writes them.

    Args:
        folder: The folder.
        encoder: The `Encoder` of the columns.
        memory_limit: See `TableFiles`.
        temp_folder: See `TableFiles`.

    Raises:
        DataError: If the folder lacks the counts of a file or has counts of other
            files.
    """

    def __init__(
        self,
        folder: Path,
        encoder: Encoder,
        memory_limit: str,
        temp_folder: Path | None,
    ) -> None:
        self.folder = folder
        self.paths = _paths(folder)
        self.memory_limit = memory_limit
        self.temp_folder = temp_folder
        if not self.paths:
            raise DataError(f"{folder} has no counts. Write them with `write_counts`.")
        self._check(_digest_of(encoder))

    def learn(
        self,
        encoders: Mapping[str, ColumnEncoder],
        min_count: int,
        vocabularies: Path | None = None,
    ) -> None:
        """Fits new encoders of the columns to the counts.

        Args:
            encoders: Dict from the columns to their encoders.
            min_count: Integer, the minimum number of rows of a value in a vocabulary.
            vocabularies: Optional folder for the vocabularies. Defaults to `None` (in
                memory).
        """
        metadata = [_metadata(path) for path in self.paths]
        with queries(self.memory_limit, self.temp_folder) as run:
            for number, (name, encoder) in enumerate(encoders.items()):
                values: dict[str, Any] = {"paths": self.paths, "column": name}
                if isinstance(encoder, CategoricalColumn) and encoder.number is None:
                    values["min_count"] = min_count
                    if vocabularies is None:
                        table = run.table(_VOCABULARY, **values)
                        encoder.restore({"vocabularies": table["value"].to_pylist()})
                    else:
                        path = vocabularies / f"{number:05}.parquet"
                        encoder.store(self._stored(run, path, values))
                    continue
                if isinstance(encoder, QuantilesColumn):
                    for batch in run.batches(_NUMBERS, **values):
                        counts = ValueCounts(
                            batch["number"].to_numpy(), batch["count"].to_numpy()
                        )
                        encoder.add_counts(counts)
                for sums in (each["sums"][name] for each in metadata):
                    if sums is not None:
                        encoder.add_sums(sums)
                encoder.finish()

    def _stored(
        self, run: Queries, path: Path, values: Mapping[str, Any]
    ) -> StoredValues:
        """Returns a vocabulary in a file, which is written if it does not exist."""
        needed = [values["column"], values["min_count"]]
        source = {"counts": _source(self.paths[0]), "vocabulary": needed}
        if path.exists() and _source(path) != source:
            raise DataError(
                f"{path} is not the vocabulary of these counts and this `min_count`. "
                "Choose another folder for the vocabularies."
            )
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as written:
                metadata = {_KEY: json.dumps({"source": source})}
                run.write(_VOCABULARY, written, metadata, ordered=True, **values)
        return StoredValues(path, self.memory_limit, self.temp_folder)

    def _check(self, encoder: str) -> None:
        first = _source(self.paths[0])
        for path in self.paths:
            source = _source(path)
            if source is None or source != first or source["encoder"] != encoder:
                raise DataError(
                    f"{path} has the counts of other files, columns or formats. Count "
                    "them again in another folder with `write_counts`."
                )
        assert first is not None
        expected = {f"{number:05}.parquet" for number in range(first["files"])}
        missing = sorted(expected - {path.name for path in self.paths})
        if missing:
            raise DataError(
                f"{self.folder} lacks the counts of {len(missing)} of {len(expected)} "
                f"files, starting with {missing[0]}. Call `write_counts` again for "
                "each worker."
            )


def _write_file(
    files: TableFiles,
    number: int,
    path: Path,
    encoder: Encoder,
    source: Mapping[str, Any],
) -> None:
    with (
        whole_file(path) as written,
        tempfile.TemporaryDirectory(dir=files.temp_folder) as folder,
    ):
        parts = Path(folder, "parts.parquet")
        sums = _write_parts(files, number, parts, encoder)
        metadata = {_KEY: json.dumps({"source": source, "sums": sums})}
        with queries(files.memory_limit, files.temp_folder) as run:
            run.write(_SUM, written, metadata, parts=[parts])


def _write_parts(
    files: TableFiles, number: int, path: Path, encoder: Encoder
) -> dict[str, Any]:
    """Writes the counts of each part of a file. Returns the sums of its columns."""
    pa, parquet = pyarrow()
    text = pa.dictionary(pa.int32(), pa.string())
    kinds = {"column": text, "value": pa.string(), "number": pa.float64()}
    schema = pa.schema({**kinds, "count": pa.int64()})
    encoders = encoder.new_columns()
    names = encoder.table_columns
    start = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for part in files.parts(number, names):
            for name, column in encoders.items():
                cells = [part[each] for each in column.columns]
                try:
                    counts = column.counts(*cells)
                    if counts is None:
                        column.learn(*cells)
                except CellError as error:
                    raise files.located(number, start, error) from None
                if counts is not None:
                    writer.write_table(_table(name, counts, schema))
            start += len(part)
    return {name: column.sums() for name, column in encoders.items()}


def _table(column: str, counts: ValueCounts, schema: Any) -> Any:
    import pyarrow as pa

    size = len(counts.counts)
    nothing, entries = pa.nulls(size), {}
    is_number = isinstance(counts.values, np.ndarray)
    entries["column"] = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(size, np.int32)), pa.array([column])
    )
    values = pa.array(counts.values, pa.float64() if is_number else pa.string())
    entries["value"] = nothing.cast(pa.string()) if is_number else values
    entries["number"] = values if is_number else nothing.cast(pa.float64())
    entries["count"] = pa.array(counts.counts, pa.int64())
    return pa.table(entries, schema=schema)


def _digest_of(encoder: Encoder) -> str:
    """Returns a digest of the settings that affect the counts."""
    names = ("columns", "separator", "weights")
    return digest_of_config({name: getattr(encoder, name) for name in names})


def _paths(folder: Path) -> list[Path]:
    """Returns the Parquet files in a folder, except for those being written."""
    return sorted(folder.glob("[!.]*.parquet"))


def _metadata(path: Path) -> Any:
    _, parquet = pyarrow()
    try:
        metadata = parquet.read_schema(path).metadata or {}
        return json.loads(metadata[_KEY.encode()])
    except (OSError, ValueError, KeyError):
        return {"source": None}


def _source(path: Path) -> dict[str, Any] | None:
    source: dict[str, Any] | None = _metadata(path)["source"]
    return source
