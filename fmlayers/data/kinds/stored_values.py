from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fmlayers._digests import digest_of
from fmlayers.data.duckdb_queries import queries
from fmlayers.data.errors import DataError
from fmlayers.data.kinds.column import UNKNOWN, Ids
from fmlayers.data.shard_files import pyarrow

_IDS = """
SELECT texts.place, stored.file_row_number + 1 AS id
FROM texts JOIN read_parquet($path, file_row_number = true) AS stored USING (value)
"""


class StoredValues:
    """The values of the training rows in a Parquet file, in order of their ids.

    Texts are looked up by a join with the file, so that only the texts must fit in
    memory.

    Args:
        path: Path of the file, with the values in the column `value`.
        memory_limit: See `TableFiles`.
        temp_folder: See `TableFiles`.
    """

    def __init__(
        self, path: Path, memory_limit: str, temp_folder: Path | None = None
    ) -> None:
        _, parquet = pyarrow()
        self.path = path
        self.memory_limit = memory_limit
        self.temp_folder = temp_folder
        self.size = int(parquet.read_metadata(path).num_rows)
        most = np.iinfo(np.int32).max - 1
        if self.size > most:
            raise DataError(
                f"{path}: a vocabulary must have at most {most:,} values, since ids "
                f"are int32. Received: {self.size:,}. Raise `min_count`, or use the "
                'kind "hash=N".'
            )

    def ids(self, texts: Sequence[str]) -> Ids:
        import pyarrow as pa

        codes, distinct = pd.factorize(np.array(texts, dtype=object))
        values = pa.array(map(_storable, distinct.tolist()), pa.string())
        table = {"place": np.arange(len(distinct)), "value": values}
        with queries(self.memory_limit, self.temp_folder) as run:
            known = run.table(_IDS, {"texts": pa.table(table)}, path=self.path)
        ids = np.full(len(distinct), UNKNOWN, np.int32)
        ids[known["place"].to_numpy()] = known["id"].to_numpy()
        return ids[codes]

    def texts(self) -> list[str]:
        """Returns all values, which must fit in memory."""
        _, parquet = pyarrow()
        values: list[str] = parquet.read_table(self.path)["value"].to_pylist()
        return values

    def digest(self) -> str:
        """Returns a digest of the values."""
        return digest_of(self.path)


def _storable(text: str) -> str | None:
    """Returns a text, or `None` if it cannot be stored in a file."""
    try:
        text.encode()
    except UnicodeEncodeError:  # an unpaired surrogate
        return None
    return text
