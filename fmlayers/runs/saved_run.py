from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers.data import (
    DataError,
    Dataset,
    Encoder,
    Split,
    TableFormat,
    split_rows,
)
from fmlayers.data.cells import as_text
from fmlayers.data.errors import named_places
from fmlayers.data.kind_names import Kind, is_weighted, reads_numbers
from fmlayers.data.kinds import MISSING, UNKNOWN
from fmlayers.data.lists import split_lists
from fmlayers.data.tables import read_with_places
from fmlayers.features import Feature, Vector
from fmlayers.runs.checkpoint import is_finite
from fmlayers.runs.config import TrainingConfig
from fmlayers.runs.folder import DivergenceError, RunError, is_run, partial_path
from fmlayers.runs.prediction import batch_size_of, predict, probabilities
from fmlayers.runs.run_data import Data, RunData, Tables
from fmlayers.runs.run_files import RunFiles
from fmlayers.runs.share import Share
from fmlayers.scoring_model import ScoringModel

# The columns that `history.csv` must have, by method.
_HISTORY: Mapping[str, Mapping[str, Kind | None]] = {
    "gradient": {
        "phase": None,
        "epoch": "numeric",
        "seconds": "numeric",
        "loss": "numeric",
    },
    "gibbs": {"sweep": "numeric", "seconds": "numeric", "alpha": "numeric"},
}


class SavedRun:
    """A finished run, read from its folder: its model, its data and its predictions.

    Args:
        path: The folder.
        dataset: Optional data in memory on which the run was trained; see `train`.

    Attributes:
        path: The folder.
        metrics: The content of `metrics.json`.
        files: The `RunFiles`, which compare each file with its recorded digest.

    Raises:
        RunError: If there is no finished run, or `metrics.json` is invalid.
    """

    def __init__(self, path: str | Path, *, dataset: Tables | None = None) -> None:
        self.path = Path(path)
        self._tables = dataset
        if not is_run(self.path):
            raise RunError(_why_not(self.path))
        self.files = RunFiles(self.path)
        self.metrics = self.files.metrics

    def check(self) -> None:
        """Checks all files of the run.

        The methods check each file when they first read it.

        Raises:
            RunError: If one is missing, damaged or replaced. The error names it.
        """
        self.files.check()
        _ = self.config, self.model
        for name in ("users", "items"):
            self.side_table(name)
        self.history()
        self.summary()

    @cached_property
    def config(self) -> TrainingConfig:
        """The configuration of the run.

        Raises:
            RunError: If it is invalid, or its model is not registered.
        """
        try:
            return TrainingConfig.from_dict(self.metrics["config"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{self.path / 'metrics.json'} has no valid configuration: {error}"
            ) from error

    @cached_property
    def model(self) -> ScoringModel:
        """The trained model.

        Raises:
            RunError: If the file is missing or damaged, or does not contain a model of
                a run.
            DivergenceError: If a weight is NaN or infinite.
        """
        path = self.files.model()
        try:
            model = keras.models.load_model(path, safe_mode=True)
        except Exception as error:  # errors of zipfile, h5py, json and Keras
            raise RunError(f"{path} is not a model that loads: {error}") from error
        if not isinstance(model, ScoringModel) or model.encoder is None:
            raise RunError(f"{path} is not the model of a run: it has no encoder.")
        columns = self.metrics["config"]["columns"]
        fault = _fault(model, model.encoder, columns)
        if fault:
            raise RunError(f"{path} is not the model of a run: {fault}.")
        broken = [v.path for v in model.trainable_variables if not is_finite(v)]
        if broken:
            raise DivergenceError(
                f"{path} has weights that are NaN or infinite: {broken[0]}. Training "
                "diverged: train again with a lower `learning_rate`."
            )
        return model

    @property
    def encoder(self) -> Encoder:
        """The encoder, fitted on the training rows."""
        encoder = self.model.encoder
        assert encoder is not None  # `model` checks it
        return encoder

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the data; see `fmlayers.data.Dataset.fingerprint`."""
        fingerprint: str = self.metrics["config"]["fingerprint"]
        return fingerprint

    def summary(self) -> str:
        """Returns the content of `summary.txt`."""
        return self.files.text("summary.txt")

    def history(self) -> pd.DataFrame:
        """Returns the table of `history.csv`, with a row per epoch or sweep."""
        kinds = _HISTORY[self.config.method]
        table = self.files.table("history.csv", kinds=kinds)
        absent = [] if table is None else sorted(set(kinds) - set(table.columns))
        if table is None or absent:
            reason = f"lacks the columns {absent}" if absent else "is missing"
            raise RunError(f"{self.path / 'history.csv'} {reason}.")
        return table

    def dataset(self, data: Data | None = None) -> Dataset:
        """Reads the data of the run again.

        Args:
            data: Optional source, or data in memory (see `train`). Defaults to the
                `dataset` of the run or the source in the configuration. Pass the new
                source if the data have moved.

        Raises:
            DataError: If the data are missing or have changed.
            RunError: If the run was trained on data in memory, which are not there.
        """
        read = RunData.read(self.config, self._tables if data is None else data)
        read.check(self.metrics["config"], self.path)
        return read.dataset

    def split(self, dataset: Dataset) -> Split:
        """Returns the training and test rows of the run, as rows of `dataset`."""
        config = self.config
        return split_rows(dataset, config.split, config.test_fraction, config.seed)

    def test_table(self, data: Data | None = None) -> pd.DataFrame:
        """Returns the test rows, joined with the columns of their users and items.

        Args:
            data: See `dataset`.

        Raises:
            DataError: See `dataset`.
        """
        dataset = self.dataset(data)
        return dataset.table().iloc[self.split(dataset).test]

    def side_table(self, name: str) -> pd.DataFrame | None:
        """Returns the table of users or items of the training data.

        Args:
            name: `"users"` or `"items"`.

        Returns:
            The table, or `None` if the data have no such table.
        """
        return self.files.table(f"{name}.csv", key=name[:-1], kinds=self._kinds)

    def read_rows(
        self,
        path: str | Path,
        separator: str | None = None,
        *,
        table_format: TableFormat | None = None,
    ) -> pd.DataFrame:
        """Reads rows to predict. The columns get the names `user` and `item`.

        Args:
            path: Path of a file, of any format that `read_table` reads.
            separator: Optional character between the fields of a CSV file, instead of
                that of `table_format`.
            table_format: Optional `TableFormat` of the file. Defaults to that of the
                data, `config.table_format`.

        Raises:
            DataError: If the file cannot be read. The message names the line.
        """
        table, _ = self._read_rows(path, separator, table_format)
        rows = self._renamed(table, path)
        return split_lists(
            rows, self.encoder, self._format(table_format).list_separator
        )

    def predicted_rows(
        self,
        path: str | Path,
        separator: str | None = None,
        *,
        table_format: TableFormat | None = None,
        stddev: Callable[[dict[str, Any]], Any] | None = None,
        share: Share | None = None,
    ) -> tuple[pd.DataFrame, dict[str, int]]:
        """Returns the rows of a file with their predictions.

        Args:
            path: See `read_rows`.
            separator: See `read_rows`.
            table_format: See `read_rows`.
            stddev: Optional function of the model's inputs that returns a number per
                row, for a column `std`, such as `PosteriorSamples(run).stddev`.
            share: Optional `Share`, the part of the rows to predict and return.
                Defaults to `None` (all rows).

        Returns:
            The rows under the names that the columns have in the file, with a column
            `prediction`; and the numbers of rows of an unknown user and item, as
            `count_unknown` returns them.

        Raises:
            DataError: See `read_rows`; or if the file has a column `prediction`, or
                `std` with `stddev`.
        """
        table, place = self._read_rows(path, separator, table_format)
        for column in ("prediction", *(["std"] if stddev is not None else [])):
            if column in table:
                raise DataError(
                    f"{path} has a column {column!r}, which the result would replace. "
                    "Rename it, or leave it out."
                )
        separator_of_lists = self._format(table_format).list_separator
        rows = split_lists(self._renamed(table, path), self.encoder, separator_of_lists)
        batch_size = batch_size_of(self.model)
        part = (share or Share()).rows(len(rows), batch_size)
        # All rows are encoded, because they determine the length of padded lists.
        with named_places(lambda _, row: place(row)):
            inputs = {name: x[part] for name, x in self.inputs(rows).items()}
        result = table.iloc[part].assign(prediction=self._predict(inputs))
        if stddev is not None:
            result["std"] = stddev(inputs)
        return result, self.count_unknown(rows.iloc[part])

    def with_side_columns(self, table: pd.DataFrame) -> pd.DataFrame:
        """Returns a table with all columns that the model needs.

        Missing columns are looked up in the run's tables of users and items. A user or
        an item that is not in these tables has missing values.

        Raises:
            DataError: If a column is in none of the tables.
        """
        table = table.reset_index(drop=True)
        needed = {*self.encoder.columns, *self.encoder.weights.values()}
        for key in ("user", "item"):
            side = self.side_table(f"{key}s")
            wanted = needed - set(table.columns)
            if side is None or key not in table or not wanted & set(side.columns):
                continue
            columns = sorted(wanted & set(side.columns))
            known = side.set_index(key)[columns].reindex(table[key].map(as_text))
            table[columns] = known.to_numpy()
        for column in (*self.encoder.columns, *self.encoder.weights.values()):
            if column not in table:
                raise DataError(
                    f"The rows lack the column {column!r}, which users.csv and "
                    f"items.csv in {self.path} lack, too. The rows have "
                    f"{list(table.columns)}."
                    + (" Is `separator` right?" if len(table.columns) == 1 else "")
                )
        return table

    def inputs(self, table: pd.DataFrame) -> dict[str, npt.NDArray[Any]]:
        """Returns the model's inputs for the rows of a table; see `predict`."""
        return self.encoder.transform(self.with_side_columns(table))

    def predict(self, table: pd.DataFrame) -> npt.NDArray[np.float32]:
        """Returns the predicted target of each row, on the scale of the data.

        A run on labels predicts the probability of the label 1, and a run on implicit
        feedback raw scores.

        Args:
            table: Rows with the columns of the model. Columns of users and items may be
                left out; see `with_side_columns`.

        Raises:
            DataError: See `with_side_columns`.
        """
        return self._predict(self.inputs(table))

    def is_unknown(self, column: str, table: pd.DataFrame) -> npt.NDArray[np.bool_]:
        """Returns whether the value of each row is missing or not in the vocabulary.

        Args:
            column: Name of a categorical column. All rows are known if the table or the
                model does not have it.
            table: The rows.
        """
        if column not in table or column not in self.encoder.columns:
            return np.zeros(len(table), bool)
        unknown: npt.NDArray[np.bool_] = np.isin(
            self.encoder.encode(column, table[column]), (MISSING, UNKNOWN)
        )
        return unknown

    def count_unknown(self, table: pd.DataFrame) -> dict[str, int]:
        """Returns the number of rows with an unknown user, and with an unknown item."""
        return {
            column: int(self.is_unknown(column, table).sum())
            for column in ("user", "item")
        }

    def _predict(self, inputs: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        is_binary = self.config.task == "binary"
        return (probabilities if is_binary else predict)(self.model, inputs)

    def _format(self, table_format: TableFormat | None) -> TableFormat:
        return self.config.table_format if table_format is None else table_format

    @property
    def _kinds(self) -> dict[str, str]:
        """The kinds of the columns that the model reads, also of those with weights."""
        apart = dict.fromkeys(self.config.weights_of.values(), "weighted")
        return {**self.metrics["config"]["columns"], **apart}

    def _read_rows(
        self,
        path: str | Path,
        separator: str | None,
        table_format: TableFormat | None,
    ) -> tuple[pd.DataFrame, Callable[[int], str]]:
        kinds = self._kinds
        numeric = {name for name, kind in kinds.items() if reads_numbers(kind)}
        return read_with_places(
            path,
            TableFormat.of(self._format(table_format), separator),
            text_columns=kinds.keys() - numeric,
            numeric_columns=numeric,
            weighted_columns=[
                name for name, kind in kinds.items() if is_weighted(kind)
            ],
            id_columns={*self._names(), "user", "item"},
        )

    def _renamed(self, table: pd.DataFrame, path: str | Path) -> pd.DataFrame:
        for column, name in self._names().items():
            if column != name and column in table and name in table:
                raise DataError(
                    f"{path} has the columns {column!r} and {name!r}, which mean the "
                    "same in this run. Leave one out."
                )
        return table.rename(columns=self._names())

    def _names(self) -> dict[str, str]:
        """Returns the names of the columns of users and items in the data."""
        return {self.config.user: "user", self.config.item: "item"}


def _why_not(path: Path) -> str:
    """Returns why a folder is not a finished run."""
    if partial_path(path).exists():
        hint = "It was interrupted: resume it with `fmlayers train ... --resume`."
        return f"{path} is not a finished run. {hint}"
    names = [path / name for name in ("metrics.json", "model.keras")]
    absent = [name for name in names if not name.is_file()]
    if not any(name.exists() for name in (*names, path / "config.json")):
        return f"{path} is not a finished run."
    return f"{absent[0]} is missing or not a file: {path} is not a finished run."


def _fault(model: ScoringModel, encoder: Encoder, columns: Mapping[str, str]) -> str:
    """Returns how an encoder does not fit the run, or `""` if it does."""
    if not encoder.is_fitted:
        return "its encoder is not fitted"
    if dict(encoder.columns) != dict(columns):
        return f"its columns are {list(encoder.columns)}, not {list(columns)}"
    sizes = {feature.name: _size(feature) for feature in model.features}
    for feature in encoder.features:
        size = _size(feature)
        if sizes.get(feature.name) != size:
            parts = "numbers" if columns[feature.name] == "vector" else "ids"
            return (
                f"its encoder has {size} {parts} of {feature.name!r}, not "
                f"{sizes.get(feature.name, 'none')}"
            )
    for column in map(encoder.column, columns):
        if column.scale is not None:
            mean, deviation = column.scale
            if not (np.isfinite([mean, deviation]).all() and deviation > 0):
                return f"its encoder has the deviation {deviation} of {column.name!r}"
        elif not pd.Index(column.values() or []).is_unique:
            return f"its encoder has a value of {column.name!r} twice"
    return ""


def _size(feature: Feature) -> int:
    """Returns the number of ids or the length of a feature, 0 if it is a number."""
    if isinstance(feature, Vector):
        return feature.size
    return int(getattr(feature, "vocabulary_size", 0))
