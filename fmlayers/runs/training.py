import importlib.metadata
import platform
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

import fmlayers
from fmlayers import plots
from fmlayers._files import put_in_place, whole_file
from fmlayers._json_files import write_json
from fmlayers.data import (
    Dataset,
    Split,
    sources,
    split_rows,
    write_csv,
)
from fmlayers.data.columns import describe_columns
from fmlayers.data.encoder import Kind
from fmlayers.models.specs import find
from fmlayers.runs.checkpoint import Checkpoint, EarlyStop, Progress
from fmlayers.runs.config import TrainingConfig
from fmlayers.runs.epoch_progress import EpochProgress
from fmlayers.runs.evaluation import target_metrics
from fmlayers.runs.examples import (
    Examples,
    Rows,
    default_batch_size,
    split_validation,
)
from fmlayers.runs.fitting import compiled_model, fit
from fmlayers.runs.folder import begin, locked
from fmlayers.runs.run import Run
from fmlayers.runs.summary import summary
from fmlayers.runs.targets import positives, with_targets
from fmlayers.runs.unit import to_unit_of_data


def train(
    config: TrainingConfig,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Run:
    """Trains and evaluates a model, and writes the run to a folder.

    1. Reads the data and splits it into training and test rows.
    2. Holds out validation rows from the training rows and trains with early stopping.
    3. Trains a new model on all training rows, for the best number of epochs, unless
       `config.refit` is `False`.
    4. Evaluates the model on the test rows, which no earlier step reads.

    Args:
        config: The configuration.
        out: Folder of the run. It appears when the run is finished.
        resume: Whether to resume an interrupted run. Defaults to `False`.
        overwrite: Whether to replace a finished or interrupted run at `out`. A finished
            run stays until the new one is finished. Defaults to `False`.

    Returns:
        The `Run`.

    Raises:
        DataError: If the data are invalid.
        RunError: If `out` is taken, or there is no interrupted run to resume with this
            configuration.
    """
    out = Path(out).resolve()
    loaded = sources.load(config.data, **config.columns_of_a_table())
    dataset = with_targets(loaded, config)
    columns = columns_of(config, dataset)
    split = split_rows(dataset, config.split, config.test_fraction, config.seed)
    record = {
        **config.to_dict(),
        "columns": columns,
        "fingerprint": loaded.fingerprint(),
        "backend": keras.backend.backend(),
    }
    folder = begin(out, record, resume=resume, overwrite=overwrite)
    with locked(folder):
        return _train_in(folder, out, config, dataset, split, record)


def _train_in(
    folder: Path,
    out: Path,
    config: TrainingConfig,
    dataset: Dataset,
    split: Split,
    record: dict[str, Any],
) -> Run:
    started = time.perf_counter()
    described = describe_columns(dataset, record["columns"])
    print(*described, sep="\n", file=sys.stderr)
    trainer = Trainer(config, record["columns"], dataset, folder)
    try:
        model = trainer.run(split.train)
    except BaseException:
        if not trainer.progress.history:
            shutil.rmtree(folder)  # it contains no epoch to resume from
        raise
    metrics = {
        **target_metrics(config, model, model.encoder, dataset, split),
        f"validation_{trainer.metric}": trainer.best,
        "epochs": trainer.epochs,
        "batch_size": trainer.batch_size,
        "rows": trainer.rows | {"test": len(split.test)},
        "seconds": round(time.perf_counter() - started, 1),
        "described": described,
        "repairs": list(dataset.repairs),
        "versions": _versions(),
        "config": record,
    }
    _write(folder, model, dataset, metrics, trainer.progress)
    put_in_place(folder, out)
    return Run(out)


class Trainer:
    """Trains the model of a run in two phases.

    The phase "search" finds the number of epochs by early stopping, and the phase
    "refit" trains on all training rows.

    Args:
        config: The configuration.
        columns: Dict from the names of the columns to encode to their kinds.
        dataset: The data.
        folder: The folder in which the progress is saved and from which it is resumed.
    """

    def __init__(
        self,
        config: TrainingConfig,
        columns: Mapping[str, Kind],
        dataset: Dataset,
        folder: Path,
    ) -> None:
        self.config = config
        self.columns = columns
        self.dataset = dataset
        self.folder = folder
        self.metric = metric_of(config)
        self.progress = Progress.read(folder, self.metric)
        self.rows: dict[str, int] = {}
        self.batch_size = 0
        self.epochs = config.max_epochs
        self.best: float | None = None

    def run(self, train: Rows) -> keras.Model:
        """Returns the model, trained on the rows `train` of the ratings."""
        model = self._trained(train)
        to_unit_of_data(model)
        return model

    def _trained(self, train: Rows) -> keras.Model:
        config = self.config
        train = positives(config, self.dataset, train)
        fitting, validation = split_validation(config, train)
        self.rows = {"train": len(train), "validation": len(validation)}
        self.batch_size = config.batch_size or default_batch_size(len(fitting))
        if not len(validation):
            return self._fit("refit", train, self.epochs)
        model = self._fit("search", fitting, self.epochs, validation)
        self.epochs = self.progress.best_epoch()
        best = self.progress.epochs("search")[self.epochs - 1]
        self.best = float(best[f"val_{self.metric}"])
        if config.refit:
            return self._fit("refit", train, self.epochs)
        model.load_weights(self.folder / str(self.progress.best))
        return model

    def _fit(
        self, phase: str, fitting: Rows, epochs: int, validation: Rows | None = None
    ) -> keras.Model:
        config = self.config
        batch_size = min(self.batch_size, len(fitting))
        examples = Examples(config, self.columns, self.dataset, fitting, validation)
        model = compiled_model(config, examples, batch_size)
        done = len(self.progress.epochs(phase))
        if done:
            model.load_weights(self.folder / self.progress.weights[phase])
        searching = validation is not None
        if done == epochs or (searching and self.progress.is_stale(config.patience)):
            return model
        callbacks = [
            Checkpoint(
                self.folder,
                self.progress,
                phase,
                keep_best=searching and not config.refit,
            ),
            EpochProgress(phase, epochs, done, metric=self.metric),
        ]
        if searching:
            callbacks.append(EarlyStop(self.progress, config.patience))
        fit(
            model,
            examples,
            batch_size,
            epochs=epochs,
            initial_epoch=done,
            callbacks=callbacks,
        )
        return model


def metric_of(config: TrainingConfig) -> str:
    """Returns the name of the metric for early stopping, the loss without L2."""
    return "rmse" if config.task == "regression" else str(config.loss)


def columns_of(config: TrainingConfig, dataset: Dataset) -> dict[str, Kind]:
    """Returns the kinds of the columns that the model reads, by name."""
    features = config.features
    if features is None and find(config.model).columns == "user and item":
        features = ("user", "item")
    return sources.infer_columns(dataset, features)


def _write(
    folder: Path,
    model: keras.Model,
    dataset: Dataset,
    metrics: dict[str, Any],
    progress: Progress,
) -> None:
    for name, table in (("users", dataset.users), ("items", dataset.items)):
        if table is not None:
            write_csv(table, folder / f"{name}.csv")
    history = pd.DataFrame(progress.history)
    write_csv(history, folder / "history.csv")
    plotted = _plotted(history, folder / "history.png")
    with whole_file(folder / "model.keras") as written:
        model.save(written)
    with whole_file(folder / "summary.txt") as written:
        written.write_text(summary(metrics, plotted), "utf-8")
    write_json(folder / "metrics.json", metrics)
    for pattern in ("progress.json", "*.weights.h5", ".*"):
        for leftover in folder.glob(pattern):
            leftover.unlink()


def _plotted(history: pd.DataFrame, path: Path) -> bool:
    """Draws the history. Returns `False` if matplotlib is not installed."""
    try:
        plots.learning_curves(history, path)
    except ImportError:
        return False
    return True


def _versions() -> dict[str, str]:
    backend = keras.backend.backend()
    return {
        "fmlayers": fmlayers.__version__,
        "keras": keras.__version__,
        backend: importlib.metadata.version(backend),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
