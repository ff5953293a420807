"""DuckDB queries on Parquet files, in bounded memory."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_BATCH = 1_000_000  # rows


class Queries:
    """Runs DuckDB queries on Parquet files and Arrow tables.

    Args:
        connection: The DuckDB connection.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def table(
        self, query: str, tables: Mapping[str, Any] | None = None, **values: Any
    ) -> Any:
        """Returns the result of a query as an Arrow table.

        Args:
            query: The query. It refers to each value as `$NAME`.
            tables: Optional dict from the names of tables to Arrow tables.
            **values: The values. Paths are escaped for `read_parquet`.
        """
        with self._registered(tables or {}), memory_errors():
            return self._relation(query, values).to_arrow_table()

    def batches(self, query: str, **values: Any) -> Iterator[Any]:
        """Yields the result of a query as Arrow record batches, in order.

        Args:
            query: Same as in `table`.
            **values: Same as in `table`.
        """
        with memory_errors():
            yield from self._relation(query, values).to_arrow_reader(_BATCH)

    def write(
        self,
        query: str,
        path: Path,
        metadata: Mapping[str, str] | None = None,
        *,
        ordered: bool = False,
        **values: Any,
    ) -> None:
        """Writes the result of a query to a Parquet file.

        Args:
            query: Same as in `table`.
            path: Path of the file.
            metadata: Optional dict of entries for the metadata of the file.
            ordered: Whether the rows of the file must be in the order of the query.
                Defaults to `False`.
            **values: Same as in `table`.
        """
        options = "format parquet, compression zstd, use_tmp_file false"
        if metadata:
            entries = (f"{_quoted(key)}: {_quoted(x)}" for key, x in metadata.items())
            options += f", kv_metadata {{{', '.join(entries)}}}"
        params = {name: _plain(value) for name, value in values.items()}
        with memory_errors():
            self._connection.execute(f"SET preserve_insertion_order = {ordered}")
            self._connection.execute(
                f"COPY ({query}) TO {_quoted(str(path))} ({options})", params
            )

    def _relation(self, query: str, values: Mapping[str, Any]) -> Any:
        params = {name: _plain(value) for name, value in values.items()}
        return self._connection.sql(query, params=params)

    @contextmanager
    def _registered(self, tables: Mapping[str, Any]) -> Iterator[None]:
        for name, table in tables.items():
            self._connection.register(name, table)
        try:
            yield
        finally:
            for name in tables:
                self._connection.unregister(name)


@contextmanager
def queries(
    memory_limit: str = "1GB", temp_folder: Path | None = None
) -> Iterator[Queries]:
    """Connects to DuckDB.

    Args:
        memory_limit: String such as `"2GB"`. Beyond this size, DuckDB uses temporary
            files. Defaults to `"1GB"`.
        temp_folder: Optional folder for temporary files. Defaults to `None` (that of
            the system).

    Raises:
        ImportError: If DuckDB is not installed.
        ValueError: If `memory_limit` is not a size.
    """
    try:
        import duckdb
    except ImportError as error:
        raise ImportError(
            "Counting the values of files requires DuckDB. Install it with "
            "`pip install fmlayers[scale]`."
        ) from error
    with tempfile.TemporaryDirectory(dir=temp_folder) as spill:
        config = {
            "memory_limit": memory_limit,
            "temp_directory": spill,
            # Queries that need an order state it.
            "preserve_insertion_order": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
        try:
            connection = duckdb.connect(config=config)
        except (duckdb.Error, TypeError) as error:
            raise ValueError(
                '`memory_limit` must be the text of a size, such as "2GB". Received: '
                f"memory_limit={memory_limit!r}."
            ) from error
        try:
            yield Queries(connection)
        finally:
            connection.close()


@contextmanager
def memory_errors() -> Iterator[None]:
    """Converts DuckDB's out-of-memory errors to `MemoryError`."""
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException as error:
        reason = str(error).splitlines()[0]
        raise MemoryError(
            "DuckDB needs a higher `memory_limit`, or more space in `temp_folder`: "
            f"{reason}"
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return glob.escape(str(value))  # `read_parquet` takes a pattern
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
