"""Datasets: reading tables, splitting them, and encoding them as model inputs."""

from typing import TYPE_CHECKING

from fmlayers import _lazy

__all__ = [
    "DataError",
    "Dataset",
    "Encoder",
    "ShardedBatches",
    "ShuffledBatches",
    "Split",
    "SyntheticClicks",
    "SyntheticDataset",
    "TableFiles",
    "TableFormat",
    "download_movielens",
    "infer_columns",
    "load",
    "load_movielens",
    "random_split",
    "read_ratings",
    "read_table",
    "split_rows",
    "synthetic",
    "synthetic_clicks",
    "time_split",
    "user_split",
    "without_padding",
    "write_counts",
    "write_csv",
    "write_shards",
    "write_sparse",
]

if TYPE_CHECKING:
    from fmlayers.data.batches import ShuffledBatches
    from fmlayers.data.dataset import Dataset, split_rows
    from fmlayers.data.encoder import Encoder
    from fmlayers.data.errors import DataError
    from fmlayers.data.file_counts import write_counts
    from fmlayers.data.generated_clicks import SyntheticClicks, synthetic_clicks
    from fmlayers.data.generated_ratings import SyntheticDataset, synthetic
    from fmlayers.data.movielens import download_movielens, load_movielens
    from fmlayers.data.ragged import without_padding
    from fmlayers.data.ratings import read_ratings
    from fmlayers.data.sharded_batches import ShardedBatches
    from fmlayers.data.shards import write_shards
    from fmlayers.data.sources import infer_columns, load
    from fmlayers.data.sparse_export import write_sparse
    from fmlayers.data.splits import Split, random_split, time_split, user_split
    from fmlayers.data.table_format import TableFormat
    from fmlayers.data.tables import read_table, write_csv
    from fmlayers.data.tables_on_disk import TableFiles
else:
    __getattr__, __dir__ = _lazy.lazy_names(
        __name__,
        {
            "DataError": "fmlayers.data.errors",
            "Dataset": "fmlayers.data.dataset",
            "Encoder": "fmlayers.data.encoder",
            "ShardedBatches": "fmlayers.data.sharded_batches",
            "ShuffledBatches": "fmlayers.data.batches",
            "Split": "fmlayers.data.splits",
            "SyntheticClicks": "fmlayers.data.generated_clicks",
            "SyntheticDataset": "fmlayers.data.generated_ratings",
            "TableFiles": "fmlayers.data.tables_on_disk",
            "TableFormat": "fmlayers.data.table_format",
            "download_movielens": "fmlayers.data.movielens",
            "infer_columns": "fmlayers.data.sources",
            "load": "fmlayers.data.sources",
            "load_movielens": "fmlayers.data.movielens",
            "random_split": "fmlayers.data.splits",
            "read_ratings": "fmlayers.data.ratings",
            "read_table": "fmlayers.data.tables",
            "split_rows": "fmlayers.data.dataset",
            "synthetic": "fmlayers.data.generated_ratings",
            "synthetic_clicks": "fmlayers.data.generated_clicks",
            "time_split": "fmlayers.data.splits",
            "user_split": "fmlayers.data.splits",
            "without_padding": "fmlayers.data.ragged",
            "write_counts": "fmlayers.data.file_counts",
            "write_csv": "fmlayers.data.tables",
            "write_shards": "fmlayers.data.shards",
            "write_sparse": "fmlayers.data.sparse_export",
        },
    )
