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
    load,
    read_table,
    split_rows,
)
from fmlayers.data.encoder import MISSING, UNKNOWN, as_text
from fmlayers.runs.config import TrainingConfig
from fmlayers.runs.folder import RunError, is_run, partial_path, read_json
from fmlayers.runs.prediction import predict
from fmlayers.scoring_model import ScoringModel


class SavedRun:
    """The folder of a finished run, read: its model, data and rows.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not is_run(self.path):
            hint = ""
            if partial_path(self.path).exists():
                hint = " It was begun: go on with `fmlayers train ... --resume`."
            raise RunError(f"{self.path} is not a finished run.{hint}")
        self.metrics: dict[str, Any] = read_json(self.path / "metrics.json")

    @cached_property
    def config(self) -> TrainingConfig:
        """The configuration that the run was trained by.

        Raises:
            RunError: If it is none, or its model is not registered.
        """
        try:
            return TrainingConfig.from_dict(self.metrics["config"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{self.path} has no configuration that can be used: {error}"
            ) from error

    @cached_property
    def model(self) -> ScoringModel:
        """The trained model."""
        path = self.path / "model.keras"
        try:
            model = keras.models.load_model(path, safe_mode=True)
        except Exception as error:  # zipfile's, h5py's, json's, Keras' own, ...
            raise RunError(f"{path} is not a model that loads: {error}") from error
        if not isinstance(model, ScoringModel) or model.encoder is None:
            raise RunError(
                f"{path} is not the model of a run: there is no encoder in it."
            )
        return model

    @property
    def encoder(self) -> Encoder:
        """The encoder, fitted on the training rows."""
        encoder = self.model.encoder
        assert encoder is not None  # see `model`
        return encoder

    def dataset(self, data: str | None = None) -> Dataset:
        """Returns the data of the run, read again from where it was.

        Args:
            data: Optional source to read in place of the one that the run names,
                which may have moved.

        Raises:
            DataError: If they are gone, or no longer the same.
        """
        source = data or self.config.data
        dataset = load(source, **self.config.columns_of_a_table())
        if dataset.fingerprint() != self.metrics["config"]["fingerprint"]:
            raise DataError(
                f"{source} no longer holds the ratings that {self.path} was trained "
                "on. Give those with `--data`."
            )
        return dataset

    def split(self, dataset: Dataset) -> Split:
        """Returns the training and test rows of the run, as rows of `dataset`."""
        config = self.config
        return split_rows(dataset, config.split, config.test_fraction, config.seed)

    def side_table(self, name: str) -> pd.DataFrame | None:
        """Returns `"users"` or `"items"` as the training data had them."""
        path = self.path / f"{name}.csv"
        if not path.exists():
            return None
        return read_table(path, text_columns={name[:-1], *self._text_columns()})

    def read_rows(self, path: str | Path, separator: str = ",") -> pd.DataFrame:
        """Reads rows to predict, their columns named as in the training data.

        Raises:
            DataError: Naming the file, and the line, that cannot be used.
        """
        names = {self.config.user: "user", self.config.item: "item"}
        text = {*names, *self._text_columns()}
        table = read_table(path, separator=separator, text_columns=text)
        for given, name in names.items():
            if given != name and given in table and name in table:
                raise DataError(
                    f"{path} has the columns {given!r} and {name!r}, which mean the "
                    "same in this run. Leave one out."
                )
        return table.rename(columns=names)

    def with_side_columns(self, table: pd.DataFrame) -> pd.DataFrame:
        """Returns a table with all columns that the model needs.

        Those that it lacks are looked up among the run's own users and items; what
        remains unknown counts as missing.

        Raises:
            DataError: If neither has a column that the model needs.
        """
        table = table.reset_index(drop=True)
        for key in ("user", "item"):
            side = self.side_table(f"{key}s")
            wanted = set(self.encoder.columns) - set(table.columns)
            if side is None or key not in table or not wanted & set(side.columns):
                continue
            columns = sorted(wanted & set(side.columns))
            known = side.set_index(key)[columns].reindex(table[key].map(as_text))
            table[columns] = known.to_numpy()
        for column in self.encoder.columns:
            if column not in table:
                raise DataError(
                    f"The rows lack the column {column!r}, which the run's own users "
                    f"and items do not have either. They have {list(table.columns)}."
                )
        return table

    def inputs(self, table: pd.DataFrame) -> dict[str, npt.NDArray[Any]]:
        """Returns the model's inputs for the rows of a table, as of `predict`."""
        return self.encoder.transform(self.with_side_columns(table))

    def predict(self, table: pd.DataFrame) -> npt.NDArray[np.float32]:
        """Returns a rating for each row, on the scale of the data.

        Columns that the model needs and the table lacks are looked up among the
        run's own users and items; what remains unknown counts as missing.

        Raises:
            DataError: If neither has a column that the model needs.
        """
        return predict(self.model, self.inputs(table))

    def is_unknown(self, column: str, table: pd.DataFrame) -> npt.NDArray[np.bool_]:
        """Tells of each row whether its value is missing or not in the vocabulary."""
        if column not in table or column not in self.encoder.columns:
            return np.zeros(len(table), bool)
        unseen: npt.NDArray[np.bool_] = np.isin(
            self.encoder.encode(column, table[column]), (MISSING, UNKNOWN)
        )
        return unseen

    def _text_columns(self) -> set[str]:
        columns: dict[str, str] = self.metrics["config"]["columns"]
        return {name for name, kind in columns.items() if kind != "numeric"}
