"""Datasets: reading tables, splitting them, and encoding them as model inputs."""

from fmlayers.data.batches import ShuffledBatches
from fmlayers.data.dataset import Dataset, split_rows
from fmlayers.data.encoder import Encoder
from fmlayers.data.errors import DataError
from fmlayers.data.movielens import download_movielens, load_movielens
from fmlayers.data.ragged import without_padding
from fmlayers.data.ratings import read_ratings
from fmlayers.data.shards import ShardedBatches, write_shards
from fmlayers.data.sources import infer_columns, load
from fmlayers.data.sparse_export import write_sparse
from fmlayers.data.splits import Split, random_split, time_split, user_split
from fmlayers.data.synthetic import SyntheticDataset, synthetic
from fmlayers.data.synthetic_clicks import SyntheticClicks, synthetic_clicks
from fmlayers.data.table_format import TableFormat
from fmlayers.data.tables import read_table, write_csv

__all__ = [
    "DataError",
    "Dataset",
    "Encoder",
    "ShardedBatches",
    "ShuffledBatches",
    "Split",
    "SyntheticClicks",
    "SyntheticDataset",
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
    "write_csv",
    "write_shards",
    "write_sparse",
]
