from pathlib import Path

from fmlayers.data import DataError, write_sparse
from fmlayers.data.sparse_export import SparseFormat
from fmlayers.runs.config import TrainingConfig
from fmlayers.runs.examples import Rows
from fmlayers.runs.run_data import RunData
from fmlayers.runs.training import columns_of


def convert(
    config: TrainingConfig,
    path: str | Path,
    format: SparseFormat,
    *,
    test: str | Path | None = None,
) -> list[Path]:
    """Writes the data of a configuration to files of libsvm, libFM or libFFM.

    Args:
        config: The configuration. Only its settings of the data are used.
        path: Path of the file of all rows or, with `test`, of the training rows.
        format: See `fmlayers.data.write_sparse`.
        test: Optional path of the file of the test rows. Both files use the same
            indices.

    Returns:
        The paths of the files that say what each index means.

    Raises:
        DataError: If the data cannot be used, or have test rows in a file of their own
            and `test` is `None`.
    """
    data = RunData.read(config)
    dataset = data.dataset
    if dataset.parts and test is None:
        raise DataError(
            f"{dataset.name} has rows in files of their own: name a file for the test "
            "rows, too, with `test_out`."
        )
    files: dict[str | Path, Rows | None] = {path: None}
    if test is not None:
        split = data.split(config)
        files = {path: split.train, test: split.test}
    columns = columns_of(config, dataset)
    return [
        write_sparse(dataset, file, columns, format, rows=rows, **config.written_lists)
        for file, rows in files.items()
    ]
