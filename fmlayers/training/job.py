"""The main job: from a source of ratings to a trained, evaluated, saved model."""

import importlib.metadata
import math
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

import fmlayers
from fmlayers import plots
from fmlayers._files import put_in_place, whole_file
from fmlayers.data import (
    Dataset,
    Encoder,
    ShuffledBatches,
    Split,
    SyntheticDataset,
    split_rows,
    without_padding,
    write_csv,
)
from fmlayers.data import source as sources
from fmlayers.data._stream import in_order
from fmlayers.data.encoder import UNKNOWN, Kind
from fmlayers.losses import BPR
from fmlayers.optimizers import Adagrad, LazyAdam
from fmlayers.training import run as runs
from fmlayers.training.checkpoint import Checkpoint, EarlyStop, Progress
from fmlayers.training.config import TrainingConfig
from fmlayers.training.progress import EpochProgress
from fmlayers.training.sampled import SampledBatches

Rows = npt.NDArray[np.int64]
ModelBuilder = Callable[[TrainingConfig, Encoder, pd.DataFrame], keras.Model]

# Chosen on validation rows. In units of 1 / batch_size, in which a row's gradient
# comes, it makes the first steps of a row like those of plain gradient descent.
ADAGRAD_START = 1.6
# A batch then looks up about a sixth of all lists: validation RMSE on MovieLens 100K
# 0.001 above that of batches of any rows, in a third of the time.
HISTORY_GROUPS = 6
VALIDATION_GROUPS = 8192  # a step
# From here on XLA saves more than the two or three seconds that it compiles for.
XLA_ROWS = 200_000
MOST_STEPS = 32  # an execution


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
    columns = sources.infer_columns(dataset, _features(config))
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
        self.table = dataset.table()
        of_items = () if dataset.items is None else dataset.items.columns
        self.item_columns = {"item", *of_items} & set(columns)
        self.build_model = build_model
        self.folder = folder
        self.metric = "rmse" if config.loss == "mse" else config.loss
        self.group_size = 1 if config.loss == "mse" else 1 + config.negatives
        self.progress = Progress.read(folder, self.metric)
        self.rows: dict[str, int] = {}
        self.batch_size = 0
        self.epochs = config.max_epochs
        self.best: float | None = None

    def run(self, train: Rows) -> keras.Model:
        """Returns the model, trained on the rows `train` of the table."""
        config = self.config
        shuffled = np.random.default_rng((config.seed, 1)).permutation(train)
        validation = shuffled[: round(len(train) * config.validation_fraction)]
        fitting = shuffled[len(validation) :]
        if not len(fitting):
            raise ValueError(
                "`validation_fraction` must leave a row to train on. Received: "
                f"validation_fraction={config.validation_fraction}, of {len(train)} "
                "training rows."
            )
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
        encoder = Encoder(self.columns, min_count=config.min_count)
        encoder.fit(self.table.iloc[fitting])
        batch_size = min(self.batch_size, len(fitting))
        keras.utils.set_random_seed(config.seed)
        model = self.build_model(config, encoder, self.table.iloc[fitting])
        steps = math.ceil(len(fitting) / batch_size)
        model.compile(
            _optimizer(config, batch_size),
            jit_compile=_compiles_with_xla(config, len(fitting)) or "auto",
            steps_per_execution=_steps_per_execution(steps),
            **_loss(config),
        )
        done = len(self.progress.epochs(phase))
        if done:
            model.optimizer.build(model.trainable_variables)
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
        batches = self._batches(encoder, fitting, batch_size, epoch=done)
        model.fit(
            batches.stream() if _streams() else batches,
            steps_per_epoch=steps,
            # Keras would shuffle the batches once more, by a state that no file keeps.
            shuffle=False,
            epochs=epochs,
            initial_epoch=done,
            callbacks=callbacks,
            **(
                {}
                if validation is None
                else self._validation(encoder, fitting, validation)
            ),
            verbose=0,
        )
        return model

    def _batches(
        self, encoder: Encoder, rows: Rows, batch_size: int, *, epoch: int
    ) -> ShuffledBatches:
        config = self.config
        inputs, ratings = self._arrays(encoder, rows)
        inputs = _without_padding(inputs)
        options: dict[str, Any] = {"seed": config.seed, "epoch": epoch}
        if config.histories:
            options |= {"group_by": ("user", "item"), "groups": HISTORY_GROUPS}
        if config.loss == "mse":
            return ShuffledBatches(inputs, ratings, batch_size, **options)
        catalogue, users, items = self._pairs(encoder, rows)
        return SampledBatches(
            inputs,
            _without_padding(catalogue),
            items[rows],
            users[rows],
            batch_size,
            negatives=config.negatives,
            **options,
        )

    def _validation(
        self, encoder: Encoder, fitting: Rows, validation: Rows
    ) -> dict[str, Any]:
        """Returns the arguments of `fit` that say what to validate on."""
        data = self._validation_rows(encoder, fitting, validation)
        batch_size = VALIDATION_GROUPS * self.group_size
        if _streams():
            return {"validation_data": in_order(data, batch_size)}
        return {"validation_data": data, "validation_batch_size": batch_size}

    def _validation_rows(
        self, encoder: Encoder, fitting: Rows, validation: Rows
    ) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.float32]]:
        config = self.config
        if config.loss == "mse":
            return self._arrays(encoder, validation)
        catalogue, users, items = self._pairs(encoder, fitting)
        known = validation[items[validation] >= 0]
        inputs, _ = self._arrays(encoder, known)
        seen = np.concatenate([fitting, known])
        return SampledBatches(
            inputs,
            catalogue,
            items[known],
            users[known],
            VALIDATION_GROUPS,
            negatives=config.negatives,
            seed=config.seed,
            seen=(users[seen], items[seen]),
        ).whole()

    def _pairs(
        self, encoder: Encoder, rows: Rows
    ) -> tuple[dict[str, npt.NDArray[Any]], Rows, Rows]:
        """Returns the items of `rows` as inputs, and user and item of every row.

        Items count in the order of the first table, -1 for one that it lacks.
        """
        fitting = self.table.iloc[rows]
        catalogue = fitting.drop_duplicates("item")
        inputs = {
            name: encoder.encode(name, catalogue[name]) for name in self.item_columns
        }
        users = pd.factorize(self.table["user"])[0].astype(np.int64)
        items = pd.Index(catalogue["item"]).get_indexer(self.table["item"])
        return inputs, users, items.astype(np.int64)

    def _arrays(
        self, encoder: Encoder, rows: Rows
    ) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.float32]]:
        table = self.table.iloc[rows]
        return encoder.transform(table), table["rating"].to_numpy(np.float32)


def _optimizer(config: TrainingConfig, batch_size: int) -> keras.optimizers.Optimizer:
    if config.optimizer == "lazy_adam":
        return LazyAdam(config.learning_rate)
    start = (ADAGRAD_START / batch_size) ** 2
    return Adagrad(config.learning_rate, initial_accumulator_value=start)


def _compiles_with_xla(config: TrainingConfig, rows: int) -> bool:
    """Tells whether to ask for XLA where Keras would not: TensorFlow on a CPU."""
    # The lists of a batch are as long as its data say, which XLA cannot compile.
    return (
        keras.backend.backend() == "tensorflow"
        and rows >= XLA_ROWS
        and not config.histories
    )


def _streams() -> bool:
    """Tells whether batches come to the training loop as a `tf.data.Dataset`."""
    return bool(keras.backend.backend() == "tensorflow")


def _steps_per_execution(steps: int) -> int:
    """Returns how many of an epoch's steps to take between two visits to Python."""
    if not _streams():
        return 1
    return max(n for n in range(1, MOST_STEPS + 1) if steps % n == 0)


def _without_padding(inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
    return {n: without_padding(x) if x.ndim == 2 else x for n, x in inputs.items()}


def _loss(config: TrainingConfig) -> dict[str, Any]:
    """Returns the loss, and the same without L2 as the metric to stop on."""
    if config.loss == "mse":
        metric = keras.metrics.RootMeanSquaredError(name="rmse")
        return {"loss": "mse", "metrics": [metric]}
    loss: Any = BPR(1 + config.negatives)
    if config.loss == "bce":
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
    metric = keras.metrics.MeanMetricWrapper(loss, name=config.loss)
    return {"loss": loss, "metrics": [metric]}


def default_batch_size(rows: int) -> int:
    """Returns the power of two that makes about 160 batches of `rows`."""
    return int(np.clip(2 ** round(math.log2(max(rows, 1) / 160)), 16, 8192))


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
        f"features: {', '.join(config['columns'])}",
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
