"""The main job: from a source of ratings to a trained, evaluated, saved model."""

import importlib.metadata
import platform
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

import fmlayers
from fmlayers import plots
from fmlayers._files import put_in_place, whole_file
from fmlayers.data import (
    Dataset,
    Split,
    SyntheticDataset,
    sources,
    split_rows,
    write_csv,
)
from fmlayers.data.columns import describe_columns
from fmlayers.data.encoder import UNKNOWN, Kind
from fmlayers.training import run as runs
from fmlayers.training.checkpoint import Checkpoint, EarlyStop, Progress
from fmlayers.training.config import TrainingConfig
from fmlayers.training.examples import (
    Examples,
    Rows,
    default_batch_size,
    split_validation,
)
from fmlayers.training.fitting import ModelBuilder, compiled_model, fit
from fmlayers.training.progress import EpochProgress


def train(
    config: TrainingConfig,
    out: str | Path,
    build_model: ModelBuilder,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> runs.Run:
    """Trains as `config` says and writes the run to `out`.

    Reads and splits the data; cuts validation rows from the training rows and trains
    with early stopping on them; trains again on all training rows for the epochs
    found; evaluates on the test rows, which nothing before has seen.

    Args:
        config: What to do.
        out: Folder of the run; appears when all is done.
        build_model: Makes a model of the configuration, the fitted encoder and the
            rows to train on.
        resume: Whether to go on with an interrupted run. Defaults to `False`.
        overwrite: Whether a finished or interrupted run at `out` may be replaced. It
            stays until the new one is done. Defaults to `False`.

    Raises:
        DataError: If the data cannot be used.
        RunError: If `out` is taken, or not as `resume` needs it.
    """
    out = Path(out).resolve()
    dataset = sources.load(config.data, **config.columns_of_a_table())
    columns = columns_of(config, dataset)
    split = split_rows(dataset, config.split, config.test_fraction, config.seed)
    record = {
        **config.to_dict(),
        "columns": columns,
        "fingerprint": dataset.fingerprint(),
        "backend": keras.backend.backend(),
    }
    folder = runs.begin(out, record, resume=resume, overwrite=overwrite)
    with runs.locked(folder):
        return _train_in(folder, out, config, dataset, split, record, build_model)


def _train_in(
    folder: Path,
    out: Path,
    config: TrainingConfig,
    dataset: Dataset,
    split: Split,
    record: dict[str, Any],
    build_model: ModelBuilder,
) -> runs.Run:
    started = time.perf_counter()
    described = describe_columns(dataset, record["columns"])
    print(*described, sep="\n", file=sys.stderr)
    trainer = Trainer(config, record["columns"], dataset, build_model, folder)
    try:
        model = trainer.run(split.train)
    except BaseException:
        if not trainer.progress.history:
            shutil.rmtree(folder)  # nothing in it to go on from
        raise
    metrics = {
        **(evaluate(model, dataset, split) if config.loss == "mse" else {}),
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
    return runs.Run(out)


class Trainer:
    """The two phases of a run: search for the number of epochs, then refit.

    Args:
        config: What to do.
        columns: Kinds of the columns to encode.
        dataset: The ratings with their side tables.
        build_model: As of `train`.
        folder: Where the progress is kept, and taken up from.
    """

    def __init__(
        self,
        config: TrainingConfig,
        columns: Mapping[str, Kind],
        dataset: Dataset,
        build_model: ModelBuilder,
        folder: Path,
    ) -> None:
        self.config = config
        self.columns = columns
        self.dataset = dataset
        self.build_model = build_model
        self.folder = folder
        self.metric = metric_of(config)
        self.progress = Progress.read(folder, self.metric)
        self.rows: dict[str, int] = {}
        self.batch_size = 0
        self.epochs = config.max_epochs
        self.best: float | None = None

    def run(self, train: Rows) -> keras.Model:
        """Returns the model, trained on the rows `train` of the table."""
        config = self.config
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
        model = compiled_model(config, examples, batch_size, self.build_model)
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


def evaluate(model: keras.Model, dataset: Dataset, split: Split) -> dict[str, Any]:
    """Returns RMSE and MAE on the test rows, beside those of the mean predictor."""
    table = dataset.table().iloc[split.test]
    truth = table["rating"].to_numpy(np.float64)
    inputs = model.encoder.transform(table)
    error = runs.predict(model, inputs) - truth
    mean = float(dataset.ratings["rating"].iloc[split.train].mean())
    figures = {
        "rmse": float(np.sqrt(np.mean(error**2))),
        "mae": float(np.mean(np.abs(error))),
        "mean_predictor_rmse": float(np.sqrt(np.mean((mean - truth) ** 2))),
        "mean_predictor_mae": float(np.mean(np.abs(mean - truth))),
        "unknown_in_test": {
            column: int((inputs[column] == UNKNOWN).sum())
            for column, kind in model.encoder.columns.items()
            if kind == "categorical"
        },
    }
    if isinstance(dataset, SyntheticDataset):
        figures["floor_rmse"] = dataset.floor_rmse(split.test)
    return figures


def metric_of(config: TrainingConfig) -> str:
    """Returns the name of the metric to stop on, which is the loss without L2."""
    return "rmse" if config.loss == "mse" else config.loss


def columns_of(config: TrainingConfig, dataset: Dataset) -> dict[str, Kind]:
    """Returns the kinds of the columns that the model of a configuration reads."""
    return sources.infer_columns(dataset, _features(config))


def _features(config: TrainingConfig) -> Sequence[str] | None:
    if config.features is None and config.model in ("mf", "neumf"):
        return ("user", "item")
    return config.features


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
    runs.write_json(folder / "metrics.json", metrics)
    for pattern in ("progress.json", "*.weights.h5", ".*"):
        for leftover in folder.glob(pattern):
            leftover.unlink()


def _plotted(history: pd.DataFrame, path: Path) -> bool:
    """Draws the history; returns False where matplotlib is not installed."""
    try:
        plots.learning_curves(history, path)
    except ImportError:
        return False
    return True


def summary(metrics: Mapping[str, Any], plotted: bool = True) -> str:
    """Returns what a person wants to know of a run, as text."""
    config, rows = metrics["config"], metrics["rows"]
    lines = [
        f"{config['model']} on {config['data']}, split {config['split']}, "
        f"seed {config['seed']}",
        *metrics["described"],
        f"rows: {rows['train']:,} train (of these {rows['validation']:,} to choose "
        f"the epochs on), {rows['test']:,} test",
        f"epochs: {metrics['epochs']} of {metrics['batch_size']:,} rows a batch, "
        f"{metrics['seconds']} seconds in all",
    ]
    if config.get("loss", "mse") == "mse":
        lines += [
            "",
            f"{'on the test rows':24}{'RMSE':>8}{'MAE':>8}",
            f"{config['model']:24}{metrics['rmse']:8.4f}{metrics['mae']:8.4f}",
            f"{'mean predictor':24}{metrics['mean_predictor_rmse']:8.4f}"
            f"{metrics['mean_predictor_mae']:8.4f}",
        ]
    else:
        lines += [
            "",
            "scores rank and are no ratings: `fmlayers evaluate` judges the lists",
        ]
    if "floor_rmse" in metrics:
        lines.append(f"{'best reachable':24}{metrics['floor_rmse']:8.4f}")
    if not rows["validation"]:
        lines.append("no validation rows: trained for all of the epochs allowed")
    lines += [f"repaired: {repair}" for repair in metrics["repairs"]]
    if not plotted:
        lines.append("history.png is missing: it needs `pip install fmlayers[plot]`.")
    return "\n".join(lines) + "\n"


def _versions() -> dict[str, str]:
    backend = keras.backend.backend()
    return {
        "fmlayers": fmlayers.__version__,
        "keras": keras.__version__,
        backend: importlib.metadata.version(backend),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
