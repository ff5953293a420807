import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fmlayers._checks import is_number
from fmlayers._digests import check_digest
from fmlayers._json_files import read_json
from fmlayers.data import TableFormat, read_table
from fmlayers.data.kind_names import is_kind, reads_numbers
from fmlayers.runs.folder import RunError

# What `write_csv` writes; no text but the empty cell stands for a missing value.
_FORMAT = TableFormat(format="csv", quoting="always", missing=())
# Of each task, the metrics that a run must have.
_METRICS = {
    "regression": ("rmse", "mae", "mean_predictor_rmse", "mean_predictor_mae"),
    "binary": ("log_loss", "mean_predictor_log_loss"),
}
_TYPES: Mapping[str, type] = {
    "config": dict,
    "rows": dict,
    "epochs": int,
    "batch_size": int,
}
_CONFIG_TYPES: Mapping[str, type] = {
    "data": str,
    "columns": dict,
    "fingerprint": str,
}


class RunFiles:
    """The files of a finished run. Each is checked before it is read.

    `metrics.json` contains the digests of the others. In runs of version 0.1.0 it
    contains none, and only what makes a file unreadable is noticed.

    Args:
        path: The folder of the run.

    Attributes:
        metrics: The content of `metrics.json`.

    Raises:
        RunError: If `metrics.json` is damaged or is not that of a run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        metrics_path = path / "metrics.json"
        self.metrics: dict[str, Any] = read_json(metrics_path, RunError)
        reason = _fault(self.metrics)
        if reason:
            raise RunError(f"{metrics_path} is not the record of a run: {reason}.")
        self._digests: dict[str, str] | None = self.metrics.get("files")
        self._checked: set[str] = set()

    def check(self) -> None:
        """Checks all files whose digests are recorded.

        Raises:
            RunError: If one is missing or damaged.
        """
        for name in self._digests or ():
            self.find(name)

    def find(self, name: str) -> Path | None:
        """Returns the path of a file, or `None` if the run has no such file.

        Raises:
            RunError: If the file is missing or damaged.
        """
        path = self.path / name
        if self._digests is None:
            return path if path.exists() else None
        if name not in self._digests:
            return None
        if name not in self._checked:
            check_digest(path, self._digests[name], RunError)
            self._checked.add(name)
        return path

    def require(self, name: str) -> Path:
        """Returns the path of a file that every run has.

        Raises:
            RunError: If the file is missing or damaged.
        """
        path = self.find(name)
        if path is None:
            raise RunError(f"{self.path / name} is missing.")
        return path

    def text(self, name: str) -> str:
        """Returns the content of a text file; see `require`."""
        path = self.require(name)
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error

    def table(
        self,
        name: str,
        *,
        kinds: Mapping[str, str | None],
        key: str | None = None,
    ) -> pd.DataFrame | None:
        """Returns a CSV file as a table, or `None` if the run has no such file.

        Args:
            name: Name of the file.
            kinds: Dict from the names of columns to their kinds. Columns of numbers
                must have numbers; others, and those of the kind `None`, are read as
                text.
            key: Optional column that must exist and whose values must differ. Defaults
                to `None`.

        Raises:
            RunError: If the file is missing or damaged.
        """
        path = self.find(name)
        if path is None:
            return None
        text = {
            column
            for column, kind in kinds.items()
            if kind is None or not reads_numbers(kind)
        }
        text |= set(filter(None, [key]))
        try:
            table = read_table(path, text_columns=text, table_format=_FORMAT)
        except Exception as error:  # errors of pandas and the file system
            raise RunError(f"{path} cannot be read as a table: {error}") from error
        for column in set(table.columns) & set(kinds) - text:
            if not pd.api.types.is_numeric_dtype(table[column]):
                raise RunError(f"{path}: the column {column!r} must contain numbers.")
        if key is None:
            return table
        if key not in table:
            raise RunError(
                f"{path} lacks the column {key!r}. It has {list(table.columns)}."
            )
        if not table[key].is_unique:
            twice = table[key][table[key].duplicated()].iloc[0]
            raise RunError(f"{path} has two rows of the {key} {twice!r}.")
        return table

    def model(self) -> Path:
        """Returns the path of the model.

        Raises:
            RunError: If the file is missing or damaged.
        """
        path = self.require("model.keras")
        if not zipfile.is_zipfile(path):
            raise RunError(
                f"{path} is not a model that loads: it is cut short, or is not a "
                "`.keras` file."
            )
        if self._digests is None:
            try:
                with zipfile.ZipFile(path) as archive:
                    broken = archive.testzip()
            except Exception as error:  # errors of zipfile, zlib and the file system
                raise RunError(f"{path} is not a model that loads: {error}") from error
            if broken is not None:
                raise RunError(
                    f"{path} is not a model that loads: its part {broken} is damaged."
                )
        return path


def _fault(metrics: Mapping[str, Any]) -> str:
    """Returns why the content of `metrics.json` is none, or `""` if it is."""
    reason = _of_types(metrics, _TYPES)
    if reason:
        return reason
    config, rows, files = metrics["config"], metrics["rows"], metrics.get("files", {})
    reason = _of_types(config, _CONFIG_TYPES)
    if reason:
        return f"in its configuration, {reason}"
    if not all(map(is_kind, config["columns"].values())):
        return f"in its configuration, 'columns' is {config['columns']!r}"
    for name in ("train", "validation", "test"):
        if not isinstance(rows.get(name), int):
            return f"the number of {name} rows is {rows.get(name)!r}"
    texts = isinstance(files, dict) and all(map(_is_text, files.values()))
    if not texts or ("files" in metrics and "model.keras" not in files):
        return f"'files' is {files!r:.60}"
    of_loss = "regression" if config.get("loss", "mse") == "mse" else "implicit"
    for name in _METRICS.get(config.get("task", of_loss), ()):
        if not is_number(metrics.get(name)):
            return f"{name!r} must be a finite number. Received: {metrics.get(name)!r}"
    for name, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            return f"{name!r} must be finite. Received: {value}"
    return ""


def _of_types(record: Mapping[str, Any], types: Mapping[str, type]) -> str:
    for name, kind in types.items():
        if name not in record:
            return f"it lacks {name!r}"
        if not isinstance(record[name], kind):
            return f"{name!r} is {record[name]!r:.60}"
    return ""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
