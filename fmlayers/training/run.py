import importlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers._files import whole_file
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
from fmlayers.data.pipelines import in_order

fcntl: Any
try:
    fcntl = importlib.import_module("fcntl")
except ImportError:  # Windows, where a folder goes without a lock
    fcntl = None


class RunError(ValueError):
    """A run's folder that is not as a command needs it."""


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
    def model(self) -> keras.Model:
        """The trained model."""
        path = self.path / "model.keras"
        try:
            model = keras.models.load_model(path, safe_mode=True)
        except Exception as error:  # zipfile's, h5py's, json's, Keras' own, ...
            raise RunError(f"{path} is not a model that loads: {error}") from error
        if not isinstance(getattr(model, "encoder", None), Encoder):
            raise RunError(
                f"{path} is not the model of a run: there is no encoder in it."
            )
        return model

    @property
    def encoder(self) -> Encoder:
        """The encoder, fitted on the training rows."""
        encoder: Encoder = self.model.encoder
        return encoder

    def dataset(self, data: str | None = None) -> Dataset:
        """Returns the data of the run, read again from where it was.

        Args:
            data: Optional source to read in place of the one that the run names,
                which may have moved.

        Raises:
            DataError: If they are gone, or no longer the same.
        """
        config = self.metrics["config"]
        names = ("user", "item", "rating", "timestamp", "separator")
        source = data or config["data"]
        dataset = load(source, **{name: config[name] for name in names})
        if dataset.fingerprint() != config["fingerprint"]:
            raise DataError(
                f"{source} no longer holds the ratings that {self.path} was trained "
                "on. Give those with `--data`."
            )
        return dataset

    def split(self, dataset: Dataset) -> Split:
        """Returns the training and test rows of the run, as rows of `dataset`."""
        config = self.metrics["config"]
        return split_rows(
            dataset, config["split"], config["test_fraction"], config["seed"]
        )

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
        config = self.metrics["config"]
        names = {config["user"]: "user", config["item"]: "item"}
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


def predict(
    model: keras.Model, inputs: dict[str, npt.NDArray[Any]], batch_size: int = 8192
) -> npt.NDArray[np.float32]:
    """Returns the model's predictions `(rows,)`; none for no rows."""
    if len(next(iter(inputs.values()))) == 0:
        return np.empty(0, np.float32)
    if keras.backend.backend() == "tensorflow":
        ratings = model.predict(in_order(inputs, batch_size), verbose=0)
    else:
        ratings = model.predict(inputs, batch_size=batch_size, verbose=0)
    flat: npt.NDArray[np.float32] = np.asarray(ratings, np.float32)[:, 0]
    return flat


def is_run(path: Path) -> bool:
    return (path / "metrics.json").is_file() and (path / "model.keras").is_file()


def partial_path(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def begin(path: Path, config: dict[str, Any], *, resume: bool, overwrite: bool) -> Path:
    """Returns the folder to work in, made or found; touches no finished run.

    Raises:
        RunError: If `path` is taken, there is nothing to resume, or what is there
            was begun with another configuration.
    """
    partial = partial_path(path)
    if (
        path.exists()
        and not is_run(path)
        and (not path.is_dir() or any(path.iterdir()))
    ):
        raise RunError(f"{path} exists and is not a run: choose another folder.")
    if partial.exists() and not (partial / "config.json").is_file():
        raise RunError(f"{partial} exists and is not a run: move it away.")
    resumable = resume and partial.exists()
    if is_run(path) and not overwrite and not resumable:
        raise RunError(
            f"{path} holds a finished run: choose another folder, or replace it with "
            "`--overwrite`."
        )
    if partial.exists():
        with locked(partial):
            pass
    if partial.exists() and not resume:
        if not overwrite:
            raise RunError(
                f"{partial} holds an interrupted run: go on with `--resume`, or begin "
                "anew with `--overwrite`."
            )
        shutil.rmtree(partial)
    if resume:
        if not partial.exists():
            raise RunError(f"There is no interrupted run to resume at {partial}.")
        begun = read_json(partial / "config.json")
        changed = [
            f"{name} {begun.get(name)!r} (now {config.get(name)!r})"
            for name in sorted({*begun, *config})
            if begun.get(name) != config.get(name)
        ]
        if changed:
            raise RunError(
                f"{partial} was begun with another configuration: {', '.join(changed)}."
            )
        return partial
    partial.mkdir(parents=True)
    write_json(partial / "config.json", config)
    return partial


@contextmanager
def locked(partial: Path) -> Iterator[None]:
    """Holds a folder to work in against other processes.

    Raises:
        RunError: If another process works in it.
    """
    if fcntl is None:
        yield
        return
    with (partial / "config.json").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"{partial} is being written by another process.") from error
        yield


def read_json(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} must hold a JSON object. It holds {content!r:.60}.")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    with whole_file(path) as written:
        written.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
