from collections.abc import Mapping, Sequence
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
from fmlayers.explain import Measure
from fmlayers.export.exporter import Weights
from fmlayers.runs.config import TrainingConfig
from fmlayers.runs.evaluation import Evaluation, evaluate
from fmlayers.runs.explanation import (
    FieldReport,
    PairReport,
    explain_fields,
    explain_pair,
)
from fmlayers.runs.folder import RunError, is_run, partial_path, read_json
from fmlayers.runs.model_export import export_run
from fmlayers.runs.pictures import write_pictures
from fmlayers.runs.prediction import predict
from fmlayers.runs.recommender import Recommender, catalogue_of
from fmlayers.runs.catalogue import Catalogue
from fmlayers.scoring_model import ScoringModel


class Run:
    """A finished run: a folder with the model and all that is known of it.

    The folder holds `model.keras` (the encoder inside), `metrics.json`,
    `config.json`, `history.csv`, `history.png`, `summary.txt`, and `users.csv` and
    `items.csv` where the data had them. It appears as a whole when the run is done;
    until then there is a folder beside it whose name ends in `.partial`.

    Args:
        path: The folder.

    Loading runs no code of the folder: configurations and weights are data, classes
    are those of Keras and of fmlayers, and a model with a `Lambda` is refused.

    Raises:
        RunError: If there is no finished run, or a file of it is not what it should be.
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

    def evaluate(
        self,
        data: str | None = None,
        *,
        k: int = 25,
        quantile: float = 0.85,
        threshold: float | None = None,
        candidates: int | None = None,
    ) -> Evaluation:
        """Evaluates the ratings and the top-N recommendations on the test rows.

        Args:
            data: See `dataset`.
            k: Positive integer, the number of recommendations per user. Defaults to 25.
            quantile: An item of a user's test rows is relevant if its rating is at
                least this quantile of the user's test ratings. Defaults to 0.85.
            threshold: Optional rating from which on an item is relevant, instead of
                `quantile`.
            candidates: See `fmlayers.retrieval.retrieve`.

        Raises:
            DataError: If the data are missing or have changed.
            ValueError: If an argument breaks its constraint.
        """
        return evaluate(
            self,
            self.dataset(data),
            k=k,
            quantile=quantile,
            threshold=threshold,
            candidates=candidates,
        )

    def catalogue(self) -> Catalogue:
        """Returns the items that the model knows, with their titles and other columns."""
        return catalogue_of(self)

    def recommender(
        self, data: str | None = None, *, candidates: int | None = None
    ) -> Recommender:
        """Returns a `Recommender` that knows which items each user has rated.

        Args:
            data: See `dataset`.
            candidates: See `fmlayers.retrieval.retrieve`.
        """
        return Recommender(self, self.dataset(data), candidates=candidates)

    def recommend(
        self,
        users: Sequence[object],
        k: int = 10,
        *,
        data: str | None = None,
        include_seen: bool = False,
        known: Mapping[str, Any] | None = None,
        candidates: int | None = None,
    ) -> pd.DataFrame:
        """Returns the top-N recommendations of some users.

        For new users, filters and repeated calls use `recommender`.

        Args:
            users: Users as in the data.
            k: Positive integer, the number of recommendations per user. Defaults to 10.
            data: See `dataset`.
            include_seen: Whether items that the user rated in the training rows may be
                recommended. Defaults to `False`.
            known: Optional values of columns, instead of those that the data have for
                the users, such as `{"day": 3}`.
            candidates: See `fmlayers.retrieval.retrieve`.

        Returns:
            A row per recommendation: `user`, `rank` (from 1), `item`, the columns of
            the run's table of items, the `rating` if the model has a scaler, and the
            raw `score`.

        Raises:
            ValueError: If the data do not have a user.
        """
        recommender = self.recommender(data, candidates=candidates)
        keys = [as_text(user) for user in users]
        for key in keys:
            recommender.check_user(key)
        scores, positions = recommender.lists(
            keys, k, include_seen=include_seen, known=known
        )
        tables = []
        for user, *row in zip(users, scores, positions, strict=True):
            table = recommender.table(*row)
            table.insert(0, "user", [user] * len(table))
            tables.append(table)
        if not tables:
            return pd.DataFrame({"user": [], "rank": [], "item": [], "score": []})
        return pd.concat(tables, ignore_index=True)

    def explain(self, user: object, item: object) -> PairReport:
        """Explains the rating of a user and an item by fields and pairs of fields.

        Args:
            user: The user, as in the data.
            item: The item, as in the data.

        Raises:
            ValueError: If the model defines no `terms`.
        """
        return explain_pair(self, as_text(user), as_text(item))

    def explain_fields(
        self, data: str | None = None, *, measure: Measure = "std"
    ) -> FieldReport:
        """Measures how much each field and each pair matters on the test rows.

        Args:
            data: See `dataset`.
            measure: `"std"` or `"abs"`; see `fmlayers.explain.term_sizes`.

        Raises:
            ValueError: If the model defines no `terms`.
        """
        return explain_fields(self, data, measure=measure)

    def export(
        self,
        path: str | Path,
        format: str = "saved_model",
        *,
        overwrite: bool = False,
        weights: Weights = "float32",
    ) -> Path:
        """Exports the model with its encoder, the catalog of items and the metrics.

        Args:
            path: See `fmlayers.export.export`, and for item vectors
                `fmlayers.export.write_item_vectors`.
            format: `"saved_model"`, `"litert"`, `"onnx"` or `"item_vectors"`.
            overwrite: Whether to replace an existing export. Defaults to `False`.
            weights: See `fmlayers.export.export`.

        Returns:
            The path.

        Raises:
            ValueError: If an argument breaks its constraint, or the model has no item
                vectors.
            FileExistsError: If `path` exists and must not be replaced.
        """
        return export_run(self, path, format, overwrite=overwrite, weights=weights)

    def plot(
        self, folder: str | Path, data: str | None = None
    ) -> tuple[list[Path], list[str]]:
        """Draws the pictures of the run.

        Args:
            folder: The folder to write to, created if it does not exist.
            data: See `dataset`.

        Returns:
            The files, and a sentence for each picture that cannot be drawn.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        return write_pictures(self, folder, data)

    def _text_columns(self) -> set[str]:
        columns: dict[str, str] = self.metrics["config"]["columns"]
        return {name for name, kind in columns.items() if kind != "numeric"}


