from pathlib import Path

from fmlayers.data import sources, write_sparse
from fmlayers.data.sparse_export import SparseFormat
from fmlayers.runs.config import TrainingConfig
from fmlayers.runs.targets import with_targets
from fmlayers.runs.training import columns_of


def convert(config: TrainingConfig, path: str | Path, format: SparseFormat) -> Path:
    """Writes the data of a configuration to a file of libsvm, libFM or libFFM.

    Args:
        config: The configuration. Only its settings of the data are used.
        path: See `fmlayers.data.write_sparse`.
        format: See `fmlayers.data.write_sparse`.

    Returns:
        The path of the file that says what each index means.
    """
    loaded = sources.load(config.data, **config.columns_of_a_table())
    dataset = with_targets(loaded, config)
    columns = columns_of(config, dataset)
    return write_sparse(dataset, path, columns, format, **config.written_lists)
